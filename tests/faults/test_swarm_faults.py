"""A swarm in which something breaks: survivors go on, victims come back, hashes are equal again."""

import signal

import pytest
import trio
from arena import Arena, OpenArena
from scraping import Scrape, scrape

pytestmark = pytest.mark.swarm


async def scraped(arena: Arena, name: str) -> Scrape:
    status = await arena.status(name)
    assert status is not None
    return await scrape(status.http_address)


async def test_a_miner_killed_mid_round_comes_back_and_contributes(new_arena: OpenArena) -> None:
    async with new_arena(miners=2) as arena:
        arena.start()
        names = ("miner-0", "miner-1", "validator-0")
        await arena.ready(*names)
        await arena.play(0, ("miner-0", "miner-1"))

        await arena.advance_to(arena.spec.timing.start(1))
        await arena.until(lambda s: s["miner-1"].phase in ("train", "seal", "commit"), "miner-1", what="training")
        await arena.kill("miner-1", signal.SIGKILL)
        await arena.train(1, ("miner-0",))
        await arena.certify(1)
        await arena.finish(1, "miner-0", "validator-0")
        assert (await arena.rounds("miner-0"))[1].result == "certified"
        assert (await scraped(arena, "miner-0")).value("peer_disconnects_total", reason="lost") >= 1

        arena.start("miner-1")
        await arena.until(lambda s: s["miner-1"].round == 2, "miner-1", what="the victim to catch up")
        assert (await scraped(arena, "miner-1")).value("rounds_total", result="certified") == 1, "the one it replayed"
        await arena.play(2, ("miner-0", "miner-1"))
        assert len(set((await arena.state_hashes(2, *names)).values())) == 1
        back = (await arena.rounds("miner-1"))[2]
        assert back.roster_size == 2 and back.own_included


async def test_a_miner_that_joins_later_takes_the_state_from_peers_and_contributes(new_arena: OpenArena) -> None:
    async with new_arena(miners=1) as arena:
        arena.start()
        await arena.ready("miner-0", "validator-0")
        await arena.play(0, ("miner-0",))

        late = arena.add("late")
        await arena.register(late)
        arena.start("late")
        await arena.until(lambda s: s["late"].round == 1, "late", what="the newcomer to have the state")
        assert "state fetched" in arena.log("late")
        await arena.play(1, ("miner-0", "late"))
        hashes = await arena.state_hashes(1, "miner-0", "late", "validator-0")
        assert len(set(hashes.values())) == 1
        assert (await arena.rounds("late"))[1].own_included


async def test_a_flipped_bit_is_found_said_and_repaired_from_a_peer(new_arena: OpenArena) -> None:
    async with new_arena(miners=2) as arena:
        arena.start()
        names = ("miner-0", "miner-1", "validator-0")
        await arena.ready(*names)
        await arena.play(0, ("miner-0", "miner-1"))

        received = (await arena.status("miner-1")).received_bytes
        await arena.call("miner-1", "flip")
        await arena.play(1, ("miner-0", "miner-1"))

        assert len(set((await arena.state_hashes(1, *names)).values())) == 1
        said = arena.log("miner-1")
        assert "θ in memory hashes to" in said and "θ repaired from another peer" in said
        status = await arena.status("miner-1")
        assert status is not None and "Desynced" not in status.state
        fetched = status.received_bytes - received
        assert 0 < fetched < 4 * 918_656, "only the damaged pieces are fetched, not the whole state"
        assert (await arena.rounds("miner-1"))[1].own_included


async def test_training_goes_on_while_the_chain_is_silent(new_arena: OpenArena) -> None:
    """Peers wait for a silent chain, they never infer; when it is back, the round goes on from the block number."""
    async with new_arena(miners=1, inner_steps=60) as arena:
        arena.start()
        await arena.ready("miner-0", "validator-0")
        await arena.advance_to(arena.spec.timing.start(0))
        await arena.until(lambda s: s["miner-0"].inner_step > 0, "miner-0", what="the first inner step")
        arena.ledger.send_signal(signal.SIGSTOP)
        try:
            await arena.until(lambda s: s["miner-0"].inner_step == 60, "miner-0", what="all steps without a chain")
            await trio.sleep(15)  # longer than any single read of the chain may take
            status = await arena.status("miner-0")
            assert status is not None and status.round == 0
        finally:
            arena.ledger.send_signal(signal.SIGCONT)
        await arena.play(0, ("miner-0",))
        assert (await arena.rounds("miner-0"))[0].own_included


async def test_a_round_without_votes_is_void_for_all_and_loses_nothing(new_arena: OpenArena) -> None:
    async with new_arena(miners=2) as arena:
        arena.start()
        miners, names = ("miner-0", "miner-1"), ("miner-0", "miner-1", "validator-0")
        await arena.ready(*names)
        await arena.play(0, miners)
        before = await arena.state_hashes(0, *names)

        arena.signal("validator-0", signal.SIGSTOP)
        await arena.train(1, miners, validators=())
        await arena.advance_to(arena.spec.timing.vote(1))
        await arena.until(lambda s: all(x.round == 2 for x in s.values()), *miners, what="the void round to end")
        for name in miners:
            one = (await arena.rounds(name))[1]
            assert (one.result, one.state_hash, one.own_included) == ("void", before[name], False)
            (shown,) = (await arena.call(name, "rounds", round=1))["rounds"]
            assert [row["fate"] for row in shown["contributions"]] == ["void"], "its own"
            assert (await scraped(arena, name)).value("rounds_total", result="void") == 1

        arena.signal("validator-0", signal.SIGCONT)
        await arena.until(lambda s: s["validator-0"].round == 2, "validator-0", what="the validator to catch up")
        await arena.play(2, miners)
        assert len(set((await arena.state_hashes(2, *names)).values())) == 1
        assert (await arena.rounds("miner-0"))[2].roster_size == 2
