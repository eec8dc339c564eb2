"""`covenantctl drain --wait`: it returns when the daemon's process is gone, no sooner, and says when that is not so."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from covenantd import ctl, ctldrain
from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient
from covenantd.errors import EXIT_OK, EXIT_TIMEOUT, EXIT_USAGE

ROOT = Path(__file__).parents[2]

# Tells its stdout what happens; closes its socket, then ends, each when a line comes on stdin.
DAEMON = """
import sys, trio
from pathlib import Path
from covenantd.board import StatusBoard
from covenantd.control import serve_control
from covenantd.controlverbs import standard_verbs
from covenantd.status import Status

async def told():
    await trio.to_thread.run_sync(sys.stdin.readline)

async def main():
    drained = trio.Event()
    async def drain():
        drained.set()
    async with trio.open_nursery() as nursery:
        verbs = standard_verbs(StatusBoard(Status("miner")), {"drain": drain})
        await nursery.start(serve_control, Path(sys.argv[1]), verbs)
        print("up", flush=True)
        await drained.wait()
        print("draining", flush=True)
        await told()
        nursery.cancel_scope.cancel()
    print("closed", flush=True)
    await told()

trio.run(main)
"""


class Daemon:
    def __init__(self, socket: Path) -> None:
        self.socket = socket
        command = [sys.executable, "-c", DAEMON, str(socket)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1
        )
        self.heard("up")

    def heard(self, word: str) -> None:
        assert self.process.stdout is not None and self.process.stdout.readline().strip() == word

    def go_on(self) -> None:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)

    def drain(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "covenantd.ctl", "--socket", str(self.socket), "drain", *words]
        return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "control.sock")
    yield daemon
    daemon.process.kill()
    daemon.process.communicate()


def test_it_waits_for_the_process_not_for_the_socket(daemon: Daemon) -> None:
    asking = daemon.drain("--wait", "--json")
    daemon.heard("draining")
    daemon.go_on()
    daemon.heard("closed")
    assert not daemon.socket.exists()
    with pytest.raises(subprocess.TimeoutExpired):
        asking.wait(0.5)  # the state may not be on disk yet
    daemon.go_on()
    out, errors = asking.communicate(timeout=60)
    assert asking.returncode == EXIT_OK, errors
    assert json.loads(out) == {"schema": 1, "verb": "drain", "state": "gone"}
    assert daemon.process.wait(60) == 0


def test_patience_has_an_end_and_the_drain_goes_on(daemon: Daemon) -> None:
    asking = daemon.drain("--wait", "--timeout", "0.05")
    out, errors = asking.communicate(timeout=60)
    assert (asking.returncode, out) == (EXIT_TIMEOUT, "") and "goes on draining" in errors
    daemon.heard("draining")


def test_without_wait_it_returns_at_once(daemon: Daemon) -> None:
    asking = daemon.drain()
    out, _ = asking.communicate(timeout=60)
    assert asking.returncode == EXIT_OK and out.startswith("drain: taken") and daemon.process.poll() is None


def test_a_timeout_without_wait_is_refused(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["--socket", str(daemon.socket), "drain", "--timeout", "5"]) == EXIT_USAGE
    assert "--wait" in capsys.readouterr().err


def test_a_daemon_that_is_started_again_has_not_been_drained_for_good() -> None:
    another = cast(BlockingClient, SimpleNamespace(close=lambda: None))
    with pytest.raises(ControlError, match="another one answers already"):
        ctldrain._refuse_another(lambda: another)


def test_a_process_that_cannot_be_seen_is_not_waited_for_in_vain() -> None:
    """Before the order is given: 0 is what the kernel says of a process in a namespace that is not ours."""
    given: list[str] = []
    client: Any = SimpleNamespace(daemon_process=0, call=given.append)
    with pytest.raises(ControlError, match="cannot be seen from here"):
        ctldrain._wait_until_gone(client, 1.0)
    assert given == []
