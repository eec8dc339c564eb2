"""Several certifiers of equal stake: a third of it may fail at any time; with half gone rounds are void, not wrong."""

import signal

import pytest
import trio
from arena import Arena, OpenArena

from covenantd.chain.ledger.client import LedgerChain
from covenantd.roster import OnChainIdentity, Vote

pytestmark = pytest.mark.swarm
ALL = ("validator-0", "validator-1", "validator-2", "validator-3")


async def test_one_of_four_may_die_two_may_not_and_all_may_come_back(new_arena: OpenArena) -> None:
    async with new_arena(miners=1, validators=4) as arena:
        arena.start()
        await arena.ready("miner-0", *ALL)
        await arena.play(0, ("miner-0",), ALL)
        assert len(set((await arena.state_hashes(0, "miner-0", *ALL)).values())) == 1

        first = _first_proposer(arena)  # the hardest to lose: everybody waits for its proposal
        left = tuple(name for name in ALL if name != first)
        await arena.train(1, ("miner-0",), ALL)
        await arena.kill(first, signal.SIGKILL)
        await arena.certify(1)
        await arena.finish(1, "miner-0", *left)
        assert (await arena.rounds("miner-0"))[1].result == "certified"

        await arena.train(2, ("miner-0",), left)
        await arena.kill(left[0], signal.SIGKILL)
        await arena.advance_to(arena.spec.timing.serve(2))
        await arena.until(lambda s: all(x.phase == "exchange" for x in s.values()), *left[1:], what="the exchange")
        await arena.finish(2, "miner-0", *left[1:])
        void = (await arena.rounds("miner-0"))[2]
        assert void.result == "void" and void.own_included is False

        arena.start(first, left[0])
        await arena.until(lambda s: all(x.round == 3 for x in s.values()), first, left[0], what="the lost to return")
        await arena.play(3, ("miner-0",), ALL)
        assert len(set((await arena.state_hashes(3, "miner-0", *ALL)).values())) == 1
        assert (await arena.rounds("miner-0"))[3].own_included


async def test_a_certifier_that_votes_for_another_roster_changes_nothing(new_arena: OpenArena) -> None:
    """It is enrolled and has stake, but there is no daemon: somebody votes for nonsense in its name."""
    honest, liar = ALL[:3], ALL[3]
    async with new_arena(miners=1, validators=4) as arena:
        arena.start("bootstrap", "miner-0", *honest)
        await arena.ready("miner-0", *honest)
        await _publish(arena, liar, None)
        for number in range(2):
            await arena.train(number, ("miner-0",), honest)
            await arena.advance_to(arena.spec.timing.serve(number))
            await _publish(arena, liar, Vote(arena.spec.tag, number, "ab" * 32, "cd" * 32))
            await arena.certify(number)
            await arena.finish(number, "miner-0", *honest)
            assert (await arena.rounds("miner-0"))[number].own_included
            assert len(set((await arena.state_hashes(number, "miner-0", *honest)).values())) == 1


async def _publish(arena: Arena, name: str, vote: Vote | None) -> None:
    """Enrol the peer as a certifier, with a vote or without, as its hotkey may."""
    chain = LedgerChain(arena.ground.ledger_endpoint, arena.spec.chain.netuid, arena.peers[name].hotkey)
    identity = OnChainIdentity("12D3KooWNobody", "", True).encode()
    async with trio.open_nursery() as nursery:
        done = trio.Event()

        async def publish() -> None:
            await chain.publish_commitment([identity, vote.encode()] if vote else [identity])
            done.set()

        nursery.start_soon(publish)
        while not done.is_set():
            await arena.chain.advance(1)
            with trio.move_on_after(0.1):
                await done.wait()
    await chain.aclose()


def _first_proposer(arena: Arena) -> str:
    return min(ALL, key=lambda name: arena.peers[name].hotkey.hotkey)
