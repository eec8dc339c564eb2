"""Rounds of a whole swarm: real daemons, real p2pd, real engines, a ledger whose blocks the test makes."""

import pytest
from arena import OpenArena

pytestmark = pytest.mark.swarm


async def test_every_peer_holds_the_same_state_whatever_its_thread_count(new_arena: OpenArena) -> None:
    async with new_arena(miners=2) as arena:
        arena.configure(arena.peers["miner-1"], threads=2)
        arena.start()
        names = ("miner-0", "miner-1", "validator-0")
        await arena.ready(*names)
        for number in range(2):
            await arena.play(number, ("miner-0", "miner-1"))
        for number in range(2):
            hashes = await arena.state_hashes(number, *names)
            assert len(set(hashes.values())) == 1, hashes
            one = (await arena.rounds("miner-0"))[number]
            assert one.result == "certified" and one.roster_size == 2 and one.own_included
        assert await arena.state_hashes(0, "miner-0") != await arena.state_hashes(1, "miner-0")
