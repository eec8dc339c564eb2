"""The README's first command, run to its end: a whole swarm trains, agrees, says what came of it, and is gone."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from leftovers import none_left
from readme import code_block

pytestmark = pytest.mark.swarm
ROUNDS = 3
WORKERS = {"miner-0", "miner-1", "miner-2", "validator-0"}
FIRST_LOSS_SECONDS = 60.0
_RUN_SECONDS = 280.0
_SUMMARY_KEYS = {
    "rounds",
    "state_hashes_equal",
    "heldout_loss_first",
    "heldout_loss_last",
    "wire_ratio",
    "weights",
    "wall_seconds",
}
_ROUND_KEYS = {"round", "roster_size", "state_hashes", "heldout_loss", "wire_bytes", "payload_dense_fp32_bytes"}


@dataclass
class Said:
    """What the command said: whole stdout, and each line on stderr with the seconds since the start."""

    out: list[str] = field(default_factory=list)
    err: list[tuple[float, str]] = field(default_factory=list)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="readme-") as name:
        yield Path(name)


def _command(directory: Path) -> list[str]:
    """As the README says it, less the installation; fewer rounds, for CI's sake."""
    (line,) = code_block("swarm command")
    program, *arguments = shlex.split(line.split("&&")[-1])
    assert program == ".venv/bin/covenantd" and arguments == ["swarm", "--miners", "3", "--rounds", "8"]
    arguments[-1] = str(ROUNDS)
    return [str(Path(sys.executable).with_name("covenantd")), *arguments, "--json", "--dir", str(directory)]


async def _run(command: list[str], said: Said, temporary: Path) -> int:
    """Its exit code, once it has stopped by itself."""
    started = trio.current_time()

    async def listen(stream: trio.abc.ReceiveStream, hear: Any) -> None:
        pending = b""
        async for chunk in stream:
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                hear(line.decode())
        assert not pending, "the last line ends like any other"

    process = await trio.lowlevel.open_process(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "400"},
    )
    assert process.stdout and process.stderr
    try:
        with trio.fail_after(_RUN_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, process.stdout, said.out.append)
                nursery.start_soon(
                    listen, process.stderr, lambda s: said.err.append((trio.current_time() - started, s))
                )
            return await process.wait()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_the_readmes_command_trains_a_model_and_proves_that_all_agree(short_directory: Path) -> None:
    run, temporary, said = short_directory / "run", short_directory / "tmp", Said()
    temporary.mkdir()
    assert await _run(_command(run), said, temporary) == 0, said.err
    await none_left(short_directory, seconds=0)
    assert list(temporary.iterdir()) == [], "no socket, no directory is left"

    summary = json.loads(said.out[-1])
    assert summary == json.loads((run / "summary.json").read_text())
    assert summary.keys() >= _SUMMARY_KEYS
    _check_rounds(summary["rounds"])
    assert summary["state_hashes_equal"] is True
    assert summary["heldout_loss_last"] < summary["heldout_loss_first"]
    assert summary["wire_ratio"] >= 120
    assert len(summary["weights"]) == 3 and all(share > 0 for share in summary["weights"].values())
    assert summary["wall_seconds"] > 0
    assert (run / "loss.svg").read_text().startswith("<svg")
    first_loss = next(when for when, line in said.err if "first loss" in line)
    assert first_loss < FIRST_LOSS_SECONDS


def _check_rounds(rounds: list[dict[str, Any]]) -> None:
    assert [one["round"] for one in rounds] == list(range(ROUNDS))
    for one in rounds:
        assert one.keys() >= _ROUND_KEYS
        assert one["state_hashes"].keys() == WORKERS and len(set(one["state_hashes"].values())) == 1
        assert one["heldout_loss"] > 0
        assert (one["wire_bytes"] > 0) == (one["payload_dense_fp32_bytes"] > 0) == (one["roster_size"] > 0)
    certified = [one for one in rounds if one["roster_size"] > 0]
    assert len(certified) >= ROUNDS - 1
    assert len({one["state_hashes"]["miner-0"] for one in certified}) == len(certified), "each moves θ"
