"""Clients that do what daemons do to a ledger: follow its heads, read the metagraph, publish commitments."""

import statistics
import time
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.ledger.connection import LedgerConnections
from tests.bench._cpu import cpu_seconds
from tests.ledger_fixture import LedgerProcess

NETUID = 1
NEURONS = 256
METAGRAPH_EVERY_BLOCKS = 5  # all daemons want the same one, in the same moment
COMMIT_EVERY_BLOCKS = 10


async def crowd(directory: Path, pollers: int, seconds: float) -> dict[str, Any]:
    """How regular blocks of 1 s are, and how long after its timestamp a block is heard of. Every fifth block all read
    the metagraph, every tenth all publish."""
    keys = [Hotkey.from_uri(f"//P{i}") for i in range(max(pollers, NEURONS))]
    neurons = [{"hotkey": key.hotkey, "stake": 10**12 if i < 64 else 0} for i, key in enumerate(keys)]
    genesis = {"neurons": neurons, "max_neurons": len(keys), "tempo_blocks": 20}
    ledger = LedgerProcess(directory, genesis, block_seconds=1.0).start()
    delays: list[float] = []
    written = [0]
    try:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for key in keys[:pollers]:
                    nursery.start_soon(_follow, ledger, key, delays, written)
        return await _measured(ledger, pollers, delays, written[0])
    finally:
        ledger.kill()


async def _follow(ledger: LedgerProcess, key: Hotkey, delays: list[float], written: list[int]) -> None:
    chain = LedgerChain(ledger.endpoint, NETUID, key)
    reads = LedgerConnections(ledger.endpoint, NETUID)
    async with trio.open_nursery() as nursery:
        async for block in chain.heads():
            delays.append(time.time() - block.timestamp)
            if block.number % METAGRAPH_EVERY_BLOCKS == 0:
                await reads.request("metagraph", {"block": block.number})
            if block.number % COMMIT_EVERY_BLOCKS == 1:
                nursery.start_soon(_publish, chain, block.number, written)


async def _publish(chain: LedgerChain, number: int, written: list[int]) -> None:
    await chain.publish_commitment([number.to_bytes(8, "big") * 12, b"vote" * 32])
    written[0] += 1


async def _measured(ledger: LedgerProcess, pollers: int, delays: list[float], written: int) -> dict[str, Any]:
    chain = LedgerChain(ledger.endpoint, NETUID)
    head = (await chain.block()).number
    times = [(await chain.block(number)).timestamp for number in range(1, head + 1)]
    await chain.aclose()
    intervals = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    heard = sorted(delays)
    return {
        "pollers": pollers,
        "blocks": head,
        "mean_block_seconds": statistics.fmean(intervals),
        "longest_block_seconds": max(intervals),
        "median_delay_seconds": statistics.median(heard),
        "p99_delay_seconds": heard[int(len(heard) * 0.99)],
        "commitments": written,
        "ledger_cpu_share": cpu_seconds(ledger.process.pid) / sum(intervals),
    }
