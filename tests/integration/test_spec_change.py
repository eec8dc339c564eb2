"""A run changes its rules in mid-run, without a restart; who was away follows when it comes back."""

import signal

import pytest
from arena import OpenArena

from covenantd.specchange import SpecChange, SpecHistory, sign

pytestmark = pytest.mark.swarm


async def test_every_peer_follows_a_change_of_the_run_spec_two_rounds_later(new_arena: OpenArena) -> None:
    async with new_arena(miners=2) as arena:
        arena.start()
        miners, names = ("miner-0", "miner-1"), ("miner-0", "miner-1", "validator-0")
        await arena.ready(*names)
        await arena.play(0, miners)

        changes = {"alpha": 1.0, "inner_steps": 3, "timing": {"blocks_per_round": 350, "vote_blocks": 280}}
        change = SpecChange(arena.spec.run_id, 1, 3, changes)
        document = sign(change, arena.peers["bootstrap"].hotkey).decode()
        answer = await arena.call("validator-0", "change", document=document)
        assert (answer["revision"], answer["first_round"]) == (1, 3)
        await arena.play(1, miners)  # its roster carries the change
        await arena.kill("miner-1", signal.SIGKILL)

        history = SpecHistory(arena.spec, [change])
        await arena.play(2, ("miner-0",))
        assert (await arena.rounds("miner-0"))[2].inner_steps == 2
        arena.spec = history.at(3)
        await arena.play(3, ("miner-0",))
        assert (await arena.rounds("miner-0"))[3].inner_steps == 3

        arena.start("miner-1")
        await arena.until(lambda s: s["miner-1"].round == 4, "miner-1", what="the one who was away to follow")
        await arena.play(4, miners)
        assert len(set((await arena.state_hashes(4, *names)).values())) == 1
        assert (await arena.rounds("miner-1"))[4].own_included
        assert (await arena.rounds("miner-1"))[4].inner_steps == 3
