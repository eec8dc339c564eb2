"""systemd/: systemd accepts the files, they agree with the code, and `install-service` puts them in place."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from unit_sandbox import values

from covenantd import errors, service
from covenantd.config import DEFAULT_PATH, SETTINGS, NodeConfig
from covenantd.init import SYSTEM_STOP_SECONDS
from covenantd.service import _unit_word, install

SYSTEMD = Path(__file__).parents[2] / "systemd"
analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)")
sysusers = pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None, reason="needs systemd-sysusers (Debian: systemd)"
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(params=[False, True], ids=["cpu", "gpu"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bool]:
    """The unit as `install-service` leaves it, with a program that exists."""
    install(tmp_path, "/bin/true", request.param)
    return tmp_path / "etc/systemd/system/covenantd.service", request.param


@analyze
def test_systemd_finds_nothing_wrong(installed: tuple[Path, bool]) -> None:
    done = run("systemd-analyze", "verify", str(installed[0]))
    assert (done.returncode, done.stderr) == (0, "")


@analyze
def test_exposure_is_low(installed: tuple[Path, bool]) -> None:
    unit, gpu = installed
    done = run("systemd-analyze", "security", "--offline=true", f"--threshold={20 if gpu else 18}", str(unit))
    assert done.returncode == 0, done.stdout
    private = next(line for line in done.stdout.splitlines() if "PrivateDevices=" in line)
    assert private.lstrip().startswith("✗" if gpu else "✓"), "the drop-in is merged"


@sysusers
def test_the_user_is_made(tmp_path: Path) -> None:
    for name in ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    install(tmp_path, "/bin/true", False)
    done = run("systemd-sysusers", f"--root={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^covenantd:.*:/var/lib/covenantd:/.*nologin$", (tmp_path / "etc/passwd").read_text(), re.MULTILINE
    )


def test_no_restart_for_what_a_restart_cannot_help() -> None:
    codes = {errors.EXIT_DAEMON_USAGE, errors.EXIT_NO_PERMISSION, errors.EXIT_CONFIG}
    assert {int(code) for code in values("RestartPreventExitStatus")[0].split()} == codes


def test_it_overrides_no_setting_but_the_credential() -> None:
    """What it set, doctor and covenantctl would not know, and the config's own value would silently not count."""
    assert values("Environment") == [f"{SETTINGS['identity.hotkey'].environment}=%d/hotkey"]


def test_its_directories_are_the_defaults_of_the_config() -> None:
    assert values("StateDirectory") == [NodeConfig().state_directory.relative_to("/var/lib").as_posix()]
    assert values("RuntimeDirectory") == [NodeConfig().runtime_directory.relative_to("/run").as_posix()]
    assert values("ConfigurationDirectory") == [DEFAULT_PATH.parent.relative_to("/etc").as_posix()]
    assert f"--config {DEFAULT_PATH}" in values("ExecStart")[0]


def test_the_drain_ends_before_systemd_loses_patience() -> None:
    assert values("TimeoutStopSec") == ["2min"] and SYSTEM_STOP_SECONDS + 15 < 120


def test_no_number_of_restarts_is_the_last() -> None:
    """A full disk or a chain that is down can outlast any limit: it comes back when they do."""
    assert values("StartLimitIntervalSec") == ["0"] and values("StartLimitBurst") == []


def test_what_breaks_the_daemon_is_not_set() -> None:
    for key in ("MemoryDenyWriteExecute", "PrivateUsers", "ProcSubset"):
        assert values(key) == []


def test_what_ships_in_the_package_is_what_is_in_systemd() -> None:
    for path in SYSTEMD.iterdir():
        assert service.asset(path.name) == path.read_text()


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/opt/covenantd/bin/covenantd", "/opt/covenantd/bin/covenantd"),
        ("/opt/my apps/covenantd", '"/opt/my apps/covenantd"'),
        ("/opt/100%/$x", "/opt/100%%/$$x"),
    ],
)
def test_paths_in_units(path: str, word: str) -> None:
    assert _unit_word(path) == word


def test_a_config_that_older_units_overrode_is_warned_of(tmp_path: Path) -> None:
    command = ["install-service", "--root", str(tmp_path), "--program", "/opt/covenantd/bin/covenantd"]
    config = tmp_path / "etc/covenantd/covenantd.toml"
    config.parent.mkdir(parents=True)
    for text, warned in (
        ('[node]\nstate_directory = "state"\nruntime_directory = "run"\n', ["state_directory", "runtime_directory"]),
        ('[node]\nstate_directory = "/data/covenantd"\n', []),
        ("[node\n", []),
    ):
        config.write_text(text)
        done = run(sys.executable, "-m", "covenantd.cli", *command)
        assert done.returncode == 0
        lines = done.stderr.splitlines()
        assert [line.split()[3] for line in lines] == warned
        assert all("help upgrade" in line and str(config) in line for line in lines)
    removed = {line.strip() for line in service.asset("help-upgrade.txt").splitlines()}
    assert {'state_directory = "state"', 'runtime_directory = "run"'} <= removed


def test_the_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "covenantd.cli", "install-service", "--root", str(tmp_path)]
    done = run(*command, "--gpu", "--program", "/opt/covenantd/bin/covenantd")
    assert done.returncode == 0, done.stderr
    assert "systemctl daemon-reload" in done.stdout and "covenantd.service.d/gpu.conf" in done.stdout
    steps = [done.stdout.index(f"covenantd {verb}") for verb in ("init --system", "register", "doctor")]
    assert steps == sorted(steps), "doctor, the last, fails while the hotkey has no uid"
    unit = (tmp_path / "etc/systemd/system/covenantd.service").read_text()
    assert "\nExecStart=/opt/covenantd/bin/covenantd run --config /etc/covenantd/covenantd.toml\n" in unit
    hidden = run(*command, "--program", "/home/me/venv/bin/covenantd")
    assert hidden.returncode == 1 and "ProtectHome" in hidden.stderr
    (tmp_path / "file").write_text("")
    denied = run(*command[:-1], str(tmp_path / "file"), "--program", "/opt/covenantd/bin/covenantd")
    assert denied.returncode == errors.EXIT_NO_PERMISSION
