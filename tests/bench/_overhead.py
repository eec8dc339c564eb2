"""What the daemon costs: a miner's TRAIN phase against the same engine driven directly, in turns.

The other miner is paused and the ledger's blocks are ours to make: one each half second while the miner trains, as in
a real swarm, none while the engine alone is measured. Which of the two goes first alternates from pair to pair, so that
a machine that warms up or slows down favours neither.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from covenantd import plan
from covenantd.timing import Timing
from model import messages
from p2p.blobs import BlobStore
from tests.arena import Arena, open_arena
from tests.model.engine_process import EngineProcess

MINER, PAUSED, VALIDATOR = "miner-0", "miner-1", "validator-0"
TIMING = Timing(
    start_block=60, blocks_per_round=500, seal_blocks=200, commit_blocks=220, vote_blocks=400, block_seconds=0.5
)
_KEY = "5e" * 32
_WARM_UP_ROUNDS = 1


async def overhead(pairs: int, inner_steps: int, threads: int) -> list[dict[str, Any]]:
    """A row a pair of measurements."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, tempfile.TemporaryDirectory(prefix="b-") as runtime:
        made = await plan.genesis(Path(scratch) / "genesis", "nano", 0, lambda line: None)
        run = Path(scratch) / "run"
        run.mkdir()
        async with open_arena(
            run, Path(runtime), made, miners=2, timing=TIMING, inner_steps=inner_steps, threads=threads
        ) as arena:
            arena.start()
            await arena.ready(MINER, PAUSED, VALIDATOR)
            await arena.call(PAUSED, "pause")
            with EngineProcess(Path(runtime), name="alone.sock") as engine:
                engine.socket.settimeout(300)
                rows = [await _pair(arena, engine, r, inner_steps) for r in range(_WARM_UP_ROUNDS + pairs)]
    return rows[_WARM_UP_ROUNDS:]


async def _pair(arena: Arena, engine: EngineProcess, round: int, inner_steps: int) -> dict[str, Any]:
    if round == 0:
        await trio.to_thread.run_sync(_load, arena, engine)
    tokens = inner_steps * arena.spec.inner.batch_sequences * arena.spec.inner.sequence_tokens
    daemon_first = round % 2 == 1
    if daemon_first:
        await _train(arena, round)
    alone = await trio.to_thread.run_sync(_seconds_alone, engine, inner_steps)
    if not daemon_first:
        await _train(arena, round)
    await arena.certify(round)
    await arena.finish(round, MINER, VALIDATOR)
    trained = (await arena.rounds(MINER))[round]
    assert trained.inner_steps == inner_steps, trained
    return {"first": "daemon" if daemon_first else "alone", **_row(tokens, trained.phases["train"], alone)}


def _row(tokens: int, in_daemon: float, alone: float) -> dict[str, float]:
    return {
        "daemon_tokens_per_second": tokens / in_daemon,
        "alone_tokens_per_second": tokens / alone,
        "ratio": alone / in_daemon,
    }


async def _train(arena: Arena, round: int) -> None:
    """From b_r until the miner has its receipt, blocks coming as in a swarm."""
    await arena.advance_to(arena.spec.timing.start(round))
    with trio.fail_after(120):
        while True:
            status = await arena.status(MINER)
            if status is not None and (status.round, status.phase) == (round, "commit"):
                break
            await trio.sleep(TIMING.block_seconds)
            if (await arena.chain.block()).number < arena.spec.timing.seal(round) - 1:
                await arena.chain.advance(1)
    await arena.until(lambda s: s[VALIDATOR].commits >= 1, VALIDATOR, what="the receipt")


def _load(arena: Arena, engine: EngineProcess) -> None:
    blobs, spec = BlobStore(arena.directory / plan.BLOBS), arena.spec
    state = arena.directory / "alone"
    state.mkdir()
    reply = engine.ask(
        messages.Load(
            training=spec.training.as_dict(),
            round=0,
            theta_path=str(blobs.path(spec.genesis_state)),
            train_shards=tuple(str(blobs.path(shard)) for shard in spec.dataset.train_shards),
            heldout_shard=str(blobs.path(spec.dataset.heldout_shard)),
            state_directory=str(state),
            threads=arena.ground.threads,
            device="auto",
        )
    )
    assert isinstance(reply, messages.Loaded), reply


def _seconds_alone(engine: EngineProcess, inner_steps: int) -> float:
    started = time.monotonic()
    reply = engine.ask(messages.Train(0, _KEY, inner_steps))
    seconds = time.monotonic() - started
    assert isinstance(reply, messages.Trained) and reply.inner_steps == inner_steps, reply
    return seconds
