"""A disk that fills up: the daemon says what to do, stays alive, tears nothing, and goes on once there is room."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from arena import Arena, OpenArena

from covenantd.errors import EXIT_TRY_AGAIN
from covenantd.journal import Journal

_ADVICE = "free space there"
_CHUNK = b"\0" * (64 << 10)


def _why_not() -> str | None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return "needs root to mount a small file system"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return f"may not mount a tmpfs: {tried.stderr.decode().strip()}" if tried.returncode else None


pytestmark = [pytest.mark.swarm, pytest.mark.skipif(_why_not() is not None, reason=str(_why_not()))]


@contextmanager
def _small_disk(directory: Path, size: str) -> Iterator[None]:
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "covenantd-test", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _fill(directory: Path) -> Path:
    """Take all the room there is."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        for chunk in (_CHUNK, _CHUNK[:4096], _CHUNK[:1]):
            try:
                while file.write(chunk):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return path


async def test_a_disk_that_fills_mid_round_costs_that_round_alone(new_arena: OpenArena, tmp_path: Path) -> None:
    state = tmp_path / "miner-0" / "state"
    async with new_arena(miners=2, inner_steps=8) as arena:
        with _small_disk(state, "96m"):
            try:
                await _fill_and_free(arena, state)
            finally:
                if "miner-0" in arena.children:
                    await arena.kill("miner-0")


async def _fill_and_free(arena: Arena, state: Path) -> None:
    names = ("miner-0", "miner-1", "validator-0")
    arena.start()
    await arena.ready(*names)
    await arena.play(0, ("miner-0", "miner-1"))

    await arena.advance_to(arena.spec.timing.start(1))
    await arena.until(lambda s: s["miner-0"].phase in ("train", "seal", "commit"), "miner-0", what="training")
    filler = _fill(state)
    await arena.train(1, ("miner-1",))
    await arena.certify(1)
    await arena.finish(1, "miner-1", "validator-0")
    await arena.until(lambda s: _ADVICE in (s["miner-0"].last_error or ""), "miner-0", what="advice in the status")
    assert arena.children["miner-0"].returncode is None
    assert _ADVICE in arena.log("miner-0") and str(state) in arena.log("miner-0")
    assert Journal(state / "journal.json", arena.spec.run_id, arena.spec.genesis_state).memory.round == 1

    filler.unlink()
    await arena.until(lambda s: s["miner-0"].round == 2, "miner-0", what="catching up once there is room")
    await arena.play(2, ("miner-0", "miner-1"))
    assert len(set((await arena.state_hashes(2, *names)).values())) == 1
    back = (await arena.rounds("miner-0"))[2]
    assert back.own_included and back.roster_size == 2


async def test_a_full_disk_at_the_start_is_a_reason_to_try_later(new_arena: OpenArena, tmp_path: Path) -> None:
    state = tmp_path / "miner-0" / "state"
    async with new_arena(miners=1) as arena:
        with _small_disk(state, "64k"):
            _fill(state)
            command = [sys.executable, "-m", "covenantd.cli", "run", "--config", str(arena.peers["miner-0"].config)]
            with trio.fail_after(40):
                done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        said = done.stderr.decode()
        assert done.returncode == EXIT_TRY_AGAIN and _ADVICE in said and "Traceback" not in said, said
