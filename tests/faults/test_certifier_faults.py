"""Several certifiers of equal stake: a third of it may fail at any time; with half gone rounds are void, not wrong."""

import signal

import pytest
from arena import Arena, OpenArena

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


def _first_proposer(arena: Arena) -> str:
    return min(ALL, key=lambda name: arena.peers[name].hotkey.hotkey)
