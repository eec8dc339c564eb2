"""`covenantd swarm` as its user meets it: what it says where, and how it ends."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_summary import PEERS, summarised, went

from covenantd import cli, local
from covenantd.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, EXIT_TRY_AGAIN, ConfigError, TryAgain
from covenantd.local import _trouble_with
from covenantd.summary import Summary

LAID: Any = SimpleNamespace(
    workers=[SimpleNamespace(name=name) for name in PEERS], validators=[SimpleNamespace(log="validator-0/daemon.log")]
)


@pytest.fixture
def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """swarm(summary, *arguments) -> the exit code of a `covenantd swarm` that came to that."""

    def run(summary: Summary, *arguments: str) -> int:
        async def ran(*_: Any) -> tuple[Summary, Any]:
            return summary, LAID

        monkeypatch.setattr(local, "_run", ran)
        return cli.main(["swarm", "--dir", str(tmp_path / "run"), *arguments])

    return run


def test_the_summary_is_on_stdout_and_what_is_said_beside_it_is_not(
    swarm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swarm(summarised()) == EXIT_OK
    said = capsys.readouterr()
    assert "state hash" in said.out and "held-out loss  7.0000 -> 5.2000" in said.out
    assert "loss.svg" in said.err and "state hash" not in said.err
    assert (tmp_path / "run" / "loss.svg").exists()


def test_with_json_stdout_is_that_one_line(swarm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert swarm(summarised(), "--json") == EXIT_OK
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "state hash" in said.err


def test_peers_that_disagree_are_a_failure(swarm: Any) -> None:
    assert swarm(summarised(rounds=4)) == EXIT_FAILED


def test_a_swarm_that_got_nowhere_fails_and_says_so(
    swarm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    void = {name: [went(0, "a", 0), went(1, "a", 0)] for name in PEERS}
    assert swarm(summarised(void, rounds=2)) == EXIT_TRY_AGAIN
    said = capsys.readouterr().err
    assert "no round was certified" in said and "validator-0/daemon.log" in said and "Traceback" not in said
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_directory_that_cannot_be_used_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/swarm")):
        assert cli.main(["swarm", "--dir", str(directory)]) == EXIT_CONFIG
        said = capsys.readouterr().err
        assert said.startswith(f"covenantd: {directory}") and "name another --dir" in said and "Traceback" not in said


def test_a_full_disk_is_no_bug_and_what_is_one_stays_one() -> None:
    def trouble(number: int, filename: str | None) -> Exception:
        error = OSError(number, os.strerror(number), filename)
        return _trouble_with(Path("/runs/one"), ExceptionGroup("", [ExceptionGroup("", [error])]))

    full = trouble(errno.ENOSPC, "/runs/one/summary.json")
    assert isinstance(full, TryAgain) and "no room on disk for /runs/one/summary.json" in str(full)
    assert isinstance(trouble(errno.EACCES, "/runs/one/genesis"), ConfigError)
    assert isinstance(trouble(errno.EACCES, "/runs"), ConfigError)
    assert isinstance(trouble(errno.EACCES, "/etc/other"), PermissionError)
