"""systemd/covenantd.service: systemd accepts it, and it agrees with the code."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from covenantd import errors
from covenantd.config import SETTINGS

UNIT = Path(__file__).parents[2] / "systemd" / "covenantd.service"
analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)")


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


@analyze
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    copy = tmp_path / "covenantd.service"
    copy.write_text(UNIT.read_text().replace("/usr/bin/covenantd", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@analyze
def test_exposure_is_low() -> None:
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=18", str(UNIT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_restart_for_what_a_restart_cannot_help() -> None:
    codes = {errors.EXIT_DAEMON_USAGE, errors.EXIT_NO_PERMISSION, errors.EXIT_CONFIG}
    assert {int(code) for code in values("RestartPreventExitStatus")[0].split()} == codes


def test_what_it_sets_by_environment_are_settings() -> None:
    names = {assignment.partition("=")[0] for assignment in values("Environment")}
    assert names <= {one.environment for one in SETTINGS.values()} and len(names) == 3


def test_what_breaks_the_daemon_is_not_set() -> None:
    for key in ("MemoryDenyWriteExecute", "PrivateUsers", "ProcSubset"):
        assert values(key) == []
