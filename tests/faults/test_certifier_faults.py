"""Several certifiers of equal stake: a third of it may fail at any time; with half gone rounds are void, not wrong."""

import pytest
import trio
from arena import WAIT_SECONDS, Arena, OpenArena
from scraping import scrape

from covenantd.chain.ledger.client import LedgerChain
from covenantd.roster import OnChainIdentity, Vote, decode_vote

pytestmark = pytest.mark.swarm
ALL = ("validator-0", "validator-1", "validator-2", "validator-3")


async def test_one_of_four_may_die_at_any_moment_of_a_round(new_arena: OpenArena) -> None:
    """Before commits, just after its vote, after the votes are read: the round is certified by the others all the
    same, and who died is there again in the next."""
    async with new_arena(miners=1, validators=4) as arena:
        arena.start()
        await arena.ready("miner-0", *ALL)
        first = _first_proposer(arena)  # the hardest to lose: everybody waits for its proposal
        left = tuple(name for name in ALL if name != first)

        await arena.advance_to(arena.spec.timing.start(0))
        await arena.kill(first)
        await arena.train(0, ("miner-0",), left)
        await arena.certify(0)
        await arena.finish(0, "miner-0", *left)
        await _return(arena, 1, first)

        await arena.train(1, ("miner-0",), ALL)
        await arena.advance_to(arena.spec.timing.serve(1))
        await _until_voted(arena, 1, first)
        await arena.kill(first)
        await arena.certify(1)
        await arena.finish(1, "miner-0", *left)
        await _return(arena, 2, first)

        await arena.train(2, ("miner-0",), ALL)
        await arena.certify(2)
        await arena.advance_to(arena.spec.timing.vote(2))
        await arena.kill(first)
        await arena.finish(2, "miner-0", *left)
        await _return(arena, 3, first)

        await arena.play(3, ("miner-0",), ALL)
        for number in range(4):
            for name in ("miner-0", *left):
                assert (await arena.rounds(name))[number].result == "certified", (name, number)
            assert len(set((await arena.state_hashes(number, "miner-0", *ALL)).values())) == 1
            assert (await arena.rounds("miner-0"))[number].own_included


async def test_with_two_of_four_gone_rounds_are_void_for_all_and_nothing_is_lost(new_arena: OpenArena) -> None:
    async with new_arena(miners=1, validators=4) as arena:
        arena.start()
        await arena.ready("miner-0", *ALL)
        await arena.play(0, ("miner-0",), ALL)
        before = (await arena.rounds("miner-0"))[0].state_hash

        gone, here = ALL[:2], ALL[2:]
        for name in gone:
            await arena.kill(name)
        norms = []
        for number in (1, 2):
            await arena.train(number, ("miner-0",), here)
            await arena.advance_to(arena.spec.timing.serve(number))
            await arena.until(lambda s: all(x.phase == "exchange" for x in s.values()), *here, what="the exchange")
            await arena.finish(number, "miner-0", *here)
            norms.append(await _error_feedback_norm(arena))
            for name in ("miner-0", *here):
                one = (await arena.rounds(name))[number]
                assert (one.result, one.state_hash) == ("void", before), name
            own = (await arena.rounds("miner-0"))[number]
            assert own.own_included is False and own.inner_steps > 0
        assert 0 < norms[0] < norms[1]  # what was trained in both is still to be sent

        for name in gone:
            await _return(arena, 3, name)
        await arena.play(3, ("miner-0",), ALL)
        assert len(set((await arena.state_hashes(3, "miner-0", *ALL)).values())) == 1
        for name in ("miner-0", *ALL):
            assert (await arena.rounds(name))[3].result == "certified", name
            assert [(await arena.rounds(name))[number].result for number in (1, 2)] == ["void", "void"], name
        assert (await arena.rounds("miner-0"))[3].own_included
        assert (await arena.rounds("miner-0"))[3].state_hash != before


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


async def _return(arena: Arena, round: int, *names: str) -> None:
    arena.start(*names)
    await arena.until(lambda s: all(x.round == round for x in s.values()), *names, what="the lost to return")


async def _until_voted(arena: Arena, round: int, name: str) -> None:
    with trio.fail_after(WAIT_SECONDS):
        while True:
            head = await arena.chain.metagraph((await arena.chain.block()).number)
            fields = head.commitments[arena.peers[name].hotkey.hotkey].fields
            vote = decode_vote(fields[1]) if len(fields) > 1 else None
            if vote is not None and vote.round == round:
                return
            assert head.block < arena.spec.timing.vote(round) - 1
            await arena.chain.advance(1)
            await trio.sleep(0.1)


async def _error_feedback_norm(arena: Arena) -> float:
    status = await arena.status("miner-0")
    assert status is not None
    return (await scrape(status.http_address)).value("error_feedback_norm")


def _first_proposer(arena: Arena) -> str:
    return min(ALL, key=lambda name: arena.peers[name].hotkey.hotkey)
