"""Stopped at any moment, by a terminal, by systemd or by the kernel: no process, no socket, no directory is left."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from arena import Arena, OpenArena
from leftovers import none_left, processes

from covenantd.cli import EXIT_INTERRUPTED
from covenantd.errors import EXIT_OK
from covenantd.localpeers import start_daemon
from covenantd.status import Status

pytestmark = pytest.mark.swarm
_STOP_SECONDS = 15.0
_START_SECONDS = 90.0


async def _until(holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    with trio.move_on_after(_START_SECONDS):
        while not holds():  # noqa: ASYNC110 - other processes set no event of ours
            assert process is None or process.poll() is None, f"it ended with {process.poll()} before {what}"
            await trio.sleep(0.02)
        return
    raise AssertionError(f"no {what} within {_START_SECONDS:.0f} s")


# One daemon


def _has(pattern: str, arena: Arena, name: str) -> bool:
    return any(arena.peers[name].runtime.glob(pattern))


async def _at_a_file(pattern: str, arena: Arena, name: str) -> None:
    await _until(partial(_has, pattern, arena, name), f"{pattern} of {name}")


async def _at_a_status(holds: Callable[[Status], bool], arena: Arena, name: str) -> None:
    await arena.until(lambda s: holds(s[name]), name, what=f"the moment to stop {name}")


async def test_a_daemon_told_to_stop_leaves_nothing_whatever_it_is_doing(new_arena: OpenArena) -> None:
    moments = {
        "miner-0": (partial(_at_a_file, "p2pd-*"), (signal.SIGTERM,)),
        "miner-1": (partial(_at_a_file, "control.sock"), (signal.SIGINT,)),
        "miner-2": (
            partial(_at_a_status, lambda s: s.phase == "train"),
            (signal.SIGINT, signal.SIGINT, signal.SIGTERM),
        ),
    }
    async with new_arena(miners=3, inner_steps=5000) as arena:
        arena.start("bootstrap", *moments)

        async def stop(name: str) -> None:
            moment, numbers = moments[name]
            await moment(arena, name)
            child = arena.children.pop(name)
            with trio.fail_after(_STOP_SECONDS):
                for number in numbers:  # somebody impatient presses Ctrl-C again
                    child.send_signal(number)
                    await trio.lowlevel.checkpoint()
                assert await child.wait() == EXIT_OK, arena.log(name)
            assert "Traceback" not in arena.log(name)
            await none_left(arena.peers[name].directory, arena.peers[name].runtime, seconds=0)
            assert list(arena.peers[name].runtime.iterdir()) == []

        async with trio.open_nursery() as nursery:
            for name in moments:
                nursery.start_soon(stop, name)
            await arena.ready("miner-2")
            await arena.advance_to(arena.spec.timing.start(0))


async def test_a_killed_daemon_takes_its_family_along_and_its_successor_cleans_up(new_arena: OpenArena) -> None:
    async with new_arena(miners=1, inner_steps=5000) as arena:
        peer = arena.peers["miner-0"]
        arena.start("bootstrap", "miner-0")
        await arena.advance_to(1)
        await _at_a_status(lambda s: s.state == "waiting" and s.engine == "ready", arena, "miner-0")
        await arena.advance_to(arena.spec.timing.start(0))
        await _at_a_status(lambda s: s.phase == "train", arena, "miner-0")
        family = processes(peer.directory, peer.runtime)
        assert any("p2pd" in line for line in family.values()) and any(
            "model.worker" in line for line in family.values()
        )
        await arena.kill("miner-0", signal.SIGKILL)
        await none_left(peer.directory, peer.runtime)

        child = start_daemon(peer)
        await _until(peer.control_socket.exists, "a control socket")
        await arena.until(lambda s: True, "miner-0", what="the successor to answer where the dead socket was")
        with trio.fail_after(_STOP_SECONDS):
            assert await child.stop(_STOP_SECONDS) == EXIT_OK
        await none_left(peer.directory, peer.runtime, seconds=0)
        assert list(peer.runtime.iterdir()) == [], "sockets of the killed one are gone too"


# A whole swarm, from a terminal


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="stop-") as name:
        yield Path(name)


def _start_swarm(directory: Path) -> subprocess.Popen[bytes]:
    """As a terminal does: a process group of its own, to which Ctrl-C goes."""
    (directory / "tmp").mkdir()
    command = [sys.executable, "-m", "covenantd.cli", "swarm", "--miners", "1", "--dir", str(directory / "run")]
    with (directory / "log").open("wb") as log:
        environment = {**os.environ, "TMPDIR": str(directory / "tmp")}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, process_group=0)


def _making(directory: Path) -> bool:
    return any("model.genesis" in line for line in processes(directory).values())


def _exists(pattern: str, directory: Path) -> bool:
    return any((directory / "tmp").glob(pattern))


SWARM_MOMENTS = {
    "making the run": (_making, 1),
    "a ledger alone": (partial(_exists, "covenantd-*/ledger.sock"), 1),
    "daemons at work": (partial(_exists, "covenantd-*/miner-0/engine.sock"), 2),
}


@pytest.mark.parametrize(
    "moment", ["making the run", pytest.param("a ledger alone", marks=pytest.mark.slow), "daemons at work"]
)
async def test_ctrl_c_ends_a_whole_swarm_and_leaves_nothing(moment: str, short_directory: Path) -> None:
    reached, presses = SWARM_MOMENTS[moment]
    swarm = _start_swarm(short_directory)
    try:
        await _until(partial(reached, short_directory), moment, swarm)
        for _ in range(presses):
            os.killpg(swarm.pid, signal.SIGINT)
            await trio.sleep(0.1)
        with trio.fail_after(2 * _STOP_SECONDS):
            code = await trio.to_thread.run_sync(swarm.wait, abandon_on_cancel=True)
    finally:
        swarm.kill()
        swarm.wait()
    said = (short_directory / "log").read_text()
    assert code == EXIT_INTERRUPTED and "Traceback" not in said, said
    await none_left(short_directory, seconds=0)
    assert list((short_directory / "tmp").iterdir()) == []


@pytest.mark.slow
async def test_a_killed_swarm_takes_its_family_along(short_directory: Path) -> None:
    swarm = _start_swarm(short_directory)
    try:
        await _until(partial(_exists, "covenantd-*/miner-0/engine.sock", short_directory), "an engine", swarm)
    finally:
        swarm.kill()
        swarm.wait()
    await none_left(short_directory)
