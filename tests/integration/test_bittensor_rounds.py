"""Rounds on a Bittensor subnet: real daemons, the whole SDK, a scripted node whose blocks the test makes."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from arena import Arena, OpenArena
from memory_substrate import MemoryChain
from subtensor_node import SubtensorNode, subtensor_node

from covenantd import runspec
from covenantd.chain.bittensor.client import BittensorChain
from covenantd.localpeers import ledger_genesis
from covenantd.runspec import ChainSpec
from covenantd.status import Status

pytestmark = [pytest.mark.swarm, pytest.mark.slow]
MINERS, VALIDATORS = ("miner-0", "miner-1"), ("validator-0",)
_SILENT_SECONDS, _LOOKS = 60, 3
_ENDLESS_STEPS = 100_000  # more than a round has time for: it ends when it is to be sealed


class SubnetChain(BittensorChain):
    """What an arena asks of its chain, blocks made in memory included."""

    def __init__(self, node: SubtensorNode) -> None:
        super().__init__(node.url, 1)
        self._node = node

    async def advance(self, blocks: int) -> None:
        for _ in range(blocks):
            self._node.chain.advance()
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def on_bittensor(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SubtensorNode]:
    """Move an arena whose daemons do not run yet from its ledger to a subnet, weights sealed, quota as on the chain."""
    members = [[arena.peers[name] for name in names] for names in (MINERS, VALIDATORS)]
    rules = {"commit_reveal": True, "commitment_bytes_per_epoch": 3100}
    memory = MemoryChain(ledger_genesis(*members, tempo_blocks=360) | rules)
    async with subtensor_node(memory) as node:
        arena.spec = replace(arena.spec, chain=ChainSpec(1, memory.blocks[0].hash))
        runspec.write(arena.ground.spec, arena.spec, arena.peers["bootstrap"].hotkey)
        ledger, subnet = arena.chain, SubnetChain(node)
        arena.chain = subnet  # type: ignore[assignment]
        monkeypatch.setenv("COVENANTD_CHAIN_KIND", "bittensor")
        monkeypatch.setenv("COVENANTD_CHAIN_ENDPOINT", node.url)
        try:
            yield node
        finally:
            arena.chain = ledger
            await subnet.aclose()


def training(number: int, statuses: Mapping[str, Status]) -> bool:
    return all(one.round == number and one.phase == "train" and one.inner_step for one in statuses.values())


async def outlast_silence(arena: Arena, node: SubtensorNode) -> None:
    """Nobody can ask the chain anything for a minute; in each third of it every miner makes inner steps."""
    node.faults.refuse_handshakes = 10**6
    node.cut_all()
    await trio.sleep(1)
    asked, before = len(node.asked), await steps(arena)
    for _ in range(_LOOKS):
        await trio.sleep(_SILENT_SECONDS / _LOOKS)
        now = await steps(arena)
        assert all(before[name] < now[name] < _ENDLESS_STEPS for name in MINERS), (before, now)
        before = now
    assert await arena.status(VALIDATORS[0]) is not None
    assert len(node.asked) == asked and node.handshakes > len(MINERS)  # they tried
    node.faults.refuse_handshakes = 0


async def steps(arena: Arena) -> dict[str, int]:
    """Of round 1, so far, by miner."""
    found = {name: await arena.status(name) for name in MINERS}
    assert training(1, {name: one for name, one in found.items() if one is not None}), arena.log(MINERS[0])[-1000:]
    return {name: one.inner_step for name, one in found.items() if one is not None}


async def test_rounds_are_certified_and_survive_a_silent_chain(
    new_arena: OpenArena, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The chain is away for a minute in the middle of a round: training goes on through all of it, and the round ends
    as any other."""
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "metadata"))
    names = (*MINERS, *VALIDATORS)
    async with new_arena(miners=2, inner_steps=_ENDLESS_STEPS) as arena, on_bittensor(arena, monkeypatch) as node:
        arena.start()
        await arena.ready(*names)
        for number in range(2):
            await arena.advance_to(arena.spec.timing.start(number))
            await arena.until(partial(training, number), *MINERS, what="training")
            if number == 1:
                await outlast_silence(arena, node)
            await arena.advance_to(arena.spec.timing.seal(number))
            await arena.play(number, MINERS)
        for number in range(2):
            hashes = await arena.state_hashes(number, *names)
            assert len(set(hashes.values())) == 1, hashes
            one = (await arena.rounds("miner-0"))[number]
            assert one.result == "certified" and one.roster_size == 2 and one.own_included
        methods = [method for _, method, _ in node.chain.calls]
        assert set(methods) <= {"set_commitment", "commit_weights"}
        assert methods.count("set_commitment") <= len(names) + 2  # an identity each, a vote a round
