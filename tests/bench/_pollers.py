"""Clients that do what daemons do to a ledger: follow its heads, see who is registered, publish votes, set weights."""

import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.ledger.connection import LedgerConnections
from tests.bench._cpu import cpu_seconds
from tests.ledger_fixture import LedgerProcess

NETUID = 1
NEURONS, VALIDATORS, TEMPO_BLOCKS = 256, 64, 20
METAGRAPH_SECONDS = 10.0  # each at a time of its own, at the head of that time, as daemons do
COMMIT_EVERY_BLOCKS = 10  # all in the same moment, as votes come
KEPT_BLOCKS = 15  # as many as make the ledger forget old blocks at the rate it gets new ones
_PROGRAM = f"""
import sys
from covenantd.chain.ledger import node, store
from covenantd.chain.ledger.__main__ import main
node.KEPT_BLOCKS = store.KEPT_BLOCKS = {KEPT_BLOCKS}
sys.exit(main())
"""


@dataclass
class Seen:
    delays: list[float] = field(default_factory=list)
    times: dict[int, float] = field(default_factory=dict)  # of blocks
    commitments: int = 0
    weights: int = 0
    metagraphs: int = 0
    cells: int = 0  # of weights, in the last metagraph


async def crowd(directory: Path, pollers: int, seconds: float) -> dict[str, Any]:
    """How regular blocks of 1 s are, and how long after its timestamp a block is heard of. Half of the daemons come
    over TCP; the validators among them have weighed every neuron."""
    keys = [Hotkey.from_uri(f"//P{i}") for i in range(max(pollers, NEURONS))]
    neurons = [{"hotkey": key.hotkey, "stake": 10**12 if i < VALIDATORS else 0} for i, key in enumerate(keys)]
    genesis = {"neurons": neurons, "max_neurons": len(keys), "tempo_blocks": TEMPO_BLOCKS}
    ledger = LedgerProcess(directory, genesis, "--tcp", "127.0.0.1:0", block_seconds=1.0)
    ledger.command[1:3] = ["-c", _PROGRAM]
    ledger.start()
    seen = Seen()
    try:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_time_blocks, ledger.endpoint, seen)
                for index, key in enumerate(keys[:pollers]):
                    endpoint = f"tcp://{ledger.ready['tcp']}" if index % 2 else ledger.endpoint
                    nursery.start_soon(_follow, endpoint, key, seen)
                    nursery.start_soon(_read, endpoint, index, seen)
                    if index < VALIDATORS:
                        nursery.start_soon(_weigh, endpoint, key, len(keys), seen)
        return _measured(ledger, pollers, seen)
    finally:
        ledger.kill()


async def _time_blocks(endpoint: str, seen: Seen) -> None:
    """Each of them, also where two came before anybody was told of the first."""
    chain = LedgerChain(endpoint, NETUID)
    async for head in chain.heads():
        for number in range(max(seen.times, default=head.number - 1) + 1, head.number + 1):
            seen.times[number] = (await chain.block(number)).timestamp


async def _follow(endpoint: str, key: Hotkey, seen: Seen) -> None:
    chain = LedgerChain(endpoint, NETUID, key)
    async with trio.open_nursery() as nursery:
        async for block in chain.heads():
            seen.delays.append(time.time() - block.timestamp)
            if block.number % COMMIT_EVERY_BLOCKS == 1:
                nursery.start_soon(_publish, chain, block.number, seen)


async def _publish(chain: LedgerChain, number: int, seen: Seen) -> None:
    await chain.publish_commitment([number.to_bytes(8, "big") * 12, b"vote" * 32])
    seen.commitments += 1


async def _read(endpoint: str, index: int, seen: Seen) -> None:
    """As JSON only: what a daemon makes of it costs its own processor, not the ledger's."""
    connections = LedgerConnections(endpoint, NETUID)
    await trio.sleep(random.Random(index).uniform(0, METAGRAPH_SECONDS))
    while True:
        head = await connections.request("head", {})
        metagraph = await connections.request("metagraph", {"block": head["number"]})
        seen.metagraphs += 1
        seen.cells = sum(len(uids) for uids, _ in metagraph["weights"].values())
        await trio.sleep(METAGRAPH_SECONDS)


async def _weigh(endpoint: str, key: Hotkey, size: int, seen: Seen) -> None:
    """Every epoch anew."""
    chain, dice = LedgerChain(endpoint, NETUID, key), random.Random(key.hotkey)
    async for block in chain.heads():
        if block.number % TEMPO_BLOCKS == 1:
            await chain.set_weights({uid: dice.random() for uid in range(size)})
            seen.weights += 1


def _measured(ledger: LedgerProcess, pollers: int, seen: Seen) -> dict[str, Any]:
    numbers = sorted(seen.times.keys() - {0})  # that one came with the process, not with the clock
    intervals = [seen.times[n + 1] - seen.times[n] for n in numbers[:-1]]
    heard = sorted(seen.delays)
    return {
        "pollers": pollers,
        "blocks": numbers[-1],
        "mean_block_seconds": statistics.fmean(intervals),
        "longest_block_seconds": max(intervals),
        "median_delay_seconds": statistics.median(heard),
        "p99_delay_seconds": heard[int(len(heard) * 0.99)],
        "commitments": seen.commitments,
        "weights_set": seen.weights,
        "metagraphs": seen.metagraphs,
        "weights_in_a_metagraph": seen.cells,
        "ledger_cpu_share": cpu_seconds(ledger.process.pid) / sum(intervals),
    }
