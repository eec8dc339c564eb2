"""covenantctl as a program: output, --json, exit codes, start-up cost."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from covenantd import ctl, ctloutput
from covenantd.board import StatusBoard
from covenantd.control import serve_control
from covenantd.controlverbs import standard_verbs
from covenantd.ctl import socket_path
from covenantd.ctloutput import duration, peers_text, size, status_text
from covenantd.status import PeerStatus, RoundSummary, Status

PEERS = (
    PeerStatus("5Grw", "12D3KooA", "miner", ("/ip4/1.2.3.4/tcp/1",), True, 1_234_567, 999),
    PeerStatus("5Fhn", "12D3KooB", "validator\x1b[31m", (), False, 0, 12),
)
STATUS = Status(
    "miner",
    hotkey="5Grw",
    uid=3,
    run_name="demo",
    run_id="ab" * 32,
    state="running",
    round=7,
    phase="train",
    inner_step=3,
    inner_steps=20,
    loss=3.25,
    peers=PEERS,
    last_error="disk full",
)


class Orders:
    def __init__(self) -> None:
        self.paused = 0

    async def pause(self) -> None:
        self.paused += 1


@pytest.fixture
async def daemon(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Path]:
    board = StatusBoard(STATUS)
    board.add_round(RoundSummary(6, "certified", 3, True, "cd" * 32, 3.5, 3.6, 20, 5000, {"train": 9.5}, 1e9))
    path = tmp_path / "run" / "control.sock"
    await nursery.start(serve_control, path, standard_verbs(board, {"pause": Orders().pause}))
    yield tmp_path
    nursery.cancel_scope.cancel()


async def run(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [sys.executable, "-m", "covenantd.ctl", *args],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


async def test_status_as_json_and_for_people(daemon: Path) -> None:
    done = await run("--dir", str(daemon), "status", "--json")
    assert done.returncode == 0 and done.stderr == b""
    assert Status.from_dict(json.loads(done.stdout)) == STATUS
    people = (await run("status", env={"COVENANTD_DIR": str(daemon)})).stdout.decode()
    assert "7 · train · step 3/20" in people and "disk full" in people and "\x1b" not in people


async def test_peers_rounds_wait_order_and_version(daemon: Path) -> None:
    socket = ("--socket", str(daemon / "run" / "control.sock"))
    assert b"1.2 MB" in (await run(*socket, "peers")).stdout
    assert b"certified" in (await run("rounds", *socket)).stdout
    shown = (await run(*socket, "rounds", "show", "6")).stdout.decode()
    assert "cd" * 32 in shown and "9.50 s" in shown
    done = await run(*socket, "--json", "wait", "--for", "round>=7")
    assert json.loads(done.stdout)["round"] == 7
    assert b"pause: taken" in (await run(*socket, "pause")).stdout
    assert json.loads((await run(*socket, "version", "--json")).stdout)["protocol"] == 1


async def test_top_as_json_is_the_status_once(daemon: Path) -> None:
    done = await run("--dir", str(daemon), "top", "--once", "--json")
    assert Status.from_dict(json.loads(done.stdout)) == STATUS
    refused = await run("--dir", str(daemon), "top", "--json")
    assert refused.returncode == 2 and json.loads(refused.stdout)["error"]["code"] == "usage"


async def test_exit_codes(daemon: Path) -> None:
    here = ("--dir", str(daemon))
    expected = {
        ("--socket", str(daemon / "none.sock"), "status"): 3,
        (*here, "wait", "--for", "round>=99", "--timeout", "0.05"): 5,
        (*here, "wait", "--for", "nonsense"): 2,
        (*here, "rounds", "show", "99"): 1,
        (*here, "rounds", "shown"): 2,
        (*here, "fly"): 2,
        ("status", "--nonsense"): 2,
        (): 2,
    }
    for args, code in expected.items():
        done = await run(*args)
        assert (args, done.returncode) == (args, code), done.stderr
        assert done.stdout == b"" and done.stderr.startswith(b"covenantctl")


async def test_errors_as_json_keep_stdout_parsable(tmp_path: Path) -> None:
    done = await run("status", "--json", "--dir", str(tmp_path))
    assert json.loads(done.stdout)["error"]["code"] == "not running"


def test_start_up_imports_nothing_heavy() -> None:
    """A stand-in for the 150 ms of --help that does not depend on this machine's load."""
    code = (
        "import sys\n"
        "from covenantd import ctl\n"
        "try: ctl.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'torch', 'hivemind', 'bittensor', 'bittensor_core', 'trio', 'rich', 'msgpack', 'numpy'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_which_socket(tmp_path: Path) -> None:
    assert socket_path("/a", "/b", {}) == Path("/a")
    assert socket_path(None, None, {}) == Path("/run/covenantd/control.sock")
    assert socket_path(None, None, {"COVENANTD_SOCKET": "/c"}) == Path("/c")
    assert socket_path(None, str(tmp_path), {"COVENANTD_SOCKET": "/c"}) == tmp_path / "run" / "control.sock"
    (tmp_path / "covenantd.toml").write_text('[node]\nruntime_directory = "elsewhere"\n')
    assert socket_path(None, str(tmp_path), {}) == tmp_path / "elsewhere" / "control.sock"
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "50-place.toml").write_text('[node]\nruntime_directory = "/nowhere"\n')
    assert socket_path(None, str(tmp_path), {}) == Path("/nowhere/control.sock")
    (tmp_path / "conf.d" / "50-place.toml").unlink()
    (tmp_path / "covenantd.toml").write_text('[node]\nrole = "miner"\n')
    assert socket_path(None, str(tmp_path), {}) == Path("/run/covenantd/control.sock"), "as the config leaves it"
    (tmp_path / "covenantd.toml").write_text('[node]\nruntime_directory = "elsewhere"\n')
    (tmp_path / "control.sock").touch()
    assert socket_path(None, str(tmp_path), {}) == tmp_path / "control.sock"


def test_colours_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mrunning" in status_text(STATUS.as_dict())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in status_text(STATUS.as_dict())


def test_a_peer_cannot_write_escape_sequences_on_our_terminal() -> None:
    assert "\x1b" not in peers_text({"peers": STATUS.as_dict()["peers"]})


def test_columns_line_up_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctloutput, "wants_colour", lambda: True)
    lines = [ctloutput._ESCAPE.sub("", line) for line in peers_text({"peers": STATUS.as_dict()["peers"]}).splitlines()]
    assert len({line.index(word) for line, word in zip(lines, ("hotkey", "5Grw", "5Fhn"), strict=True)}) == 1


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_960, "100 kB"), (999_999, "1.0 MB"), (5 * 10**15, "5000 TB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert size(count) == shown


def test_durations() -> None:
    assert [duration(s) for s in (1.25, 61, 3700, 90000)] == ["1.2 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]


def test_main_returns_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["--dir", str(tmp_path), "status"]) == 3
    assert "no daemon at" in capsys.readouterr().err
