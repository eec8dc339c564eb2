"""A swarm in which something breaks: survivors go on, victims come back, hashes are equal again."""

import json
import os
import signal
import struct
from typing import Any

import pytest
import trio
from arena import Arena, OpenArena
from leftovers import processes
from scraping import Scrape, scrape

pytestmark = pytest.mark.swarm
THETA_BYTES = 918_656  # of the nano model


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

        arena.signal("validator-0", signal.SIGSTOP)  # nobody takes a commit: killed between seal and commit
        await arena.advance_to(arena.spec.timing.start(3))
        await arena.until(lambda s: s["miner-1"].phase == "commit", "miner-1", what="the seal")
        sealed, trained = _journal(arena, "miner-1")["sealed"], _times_trained(arena, "miner-1")
        assert sealed["round"] == 3
        await arena.kill("miner-1", signal.SIGKILL)
        arena.signal("validator-0", signal.SIGCONT)
        arena.start("miner-1")
        await arena.play(3, ("miner-0", "miner-1"))
        assert len(set((await arena.state_hashes(3, *names)).values())) == 1
        assert sealed["blob_id"] in _journal(arena, "miner-1")["past"][3]["blobs"], "that very contribution counts"
        assert _times_trained(arena, "miner-1") == trained, "and nothing is trained twice"


def _times_trained(arena: Arena, name: str) -> int:
    return arena.log(name).count('"event": "trained"')


def _journal(arena: Arena, name: str) -> dict[str, Any]:
    text = (arena.peers[name].directory / "state" / "journal.json").read_text()
    return dict(json.loads(text))


async def test_a_miner_that_joins_later_takes_the_state_from_peers_and_contributes(new_arena: OpenArena) -> None:
    """A fourth, in the middle of a round that goes on without it."""
    early = ("miner-0", "miner-1", "miner-2")
    async with new_arena(miners=3) as arena:
        arena.start()
        await arena.ready(*early, "validator-0")
        await arena.play(0, early)

        late = arena.add("late")
        await arena.register(late)
        await arena.advance_to(arena.spec.timing.start(1))
        arena.start("late")
        await arena.play(1, early)
        await arena.until(lambda s: (s["late"].round or 0) >= 2, "late", what="the newcomer to have the state")
        assert "state fetched" in arena.log("late")
        await arena.play(2, (*early, "late"))
        hashes = await arena.state_hashes(2, *early, "late", "validator-0")
        assert len(set(hashes.values())) == 1
        own = (await arena.rounds("late"))[2]
        assert own.own_included and own.roster_size == 4


async def test_a_flipped_bit_is_found_said_and_repaired_from_a_peer(new_arena: OpenArena) -> None:
    """A miner's before it trains on it, a validator's before it scores with it."""
    async with new_arena(miners=2) as arena:
        arena.start()
        names = ("miner-0", "miner-1", "validator-0")
        await arena.ready(*names)
        await arena.play(0, ("miner-0", "miner-1"))

        for number, victim in ((1, "miner-1"), (2, "validator-0")):
            before = await arena.status(victim)
            await arena.call(victim, "flip")
            await arena.play(number, ("miner-0", "miner-1"))

            assert len(set((await arena.state_hashes(number, *names)).values())) == 1
            said = arena.log(victim)
            assert "θ in memory hashes to" in said and "θ repaired from another peer" in said
            status = await arena.status(victim)
            assert before is not None and status is not None and status.state == "running"
            fetched = status.received_bytes - before.received_bytes
            assert 0 < fetched < THETA_BYTES, "only the damaged pieces are fetched, not the whole state"
            one = (await arena.rounds("miner-1"))[number]
            assert one.own_included and one.roster_size == 2


async def test_an_engine_killed_while_nobody_asks_it_anything_is_loaded_again(new_arena: OpenArena) -> None:
    """A validator's before the round it is to score, a miner's between its commit and the outer step."""
    async with new_arena(miners=2) as arena:
        arena.start()
        names = ("miner-0", "miner-1", "validator-0")
        await arena.ready(*names)
        await arena.play(0, ("miner-0", "miner-1"))

        await _lose_engine(arena, "validator-0")
        await arena.train(1, ("miner-0", "miner-1"))
        await _lose_engine(arena, "miner-1")
        await arena.certify(1)
        await arena.finish(1, *names)
        await arena.play(2, ("miner-0", "miner-1"))

        for number in (1, 2):
            assert len(set((await arena.state_hashes(number, *names)).values())) == 1
            one = (await arena.rounds("miner-1"))[number]
            assert one.result == "certified" and one.roster_size == 2 and one.own_included


async def _lose_engine(arena: Arena, name: str) -> None:
    """Kill it, and wait for what comes of that."""
    family = processes(arena.peers[name].runtime)
    (engine,) = [pid for pid, line in family.items() if "model.worker" in line]
    os.kill(engine, signal.SIGKILL)
    await arena.until(lambda s: s[name].engine == "restarting", name, what="the loss to be seen")
    await arena.until(lambda s: s[name].engine == "ready", name, what="another engine")
    await arena.until(lambda s: s[name].state == "running", name, what="the new engine to be loaded")


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
        sealed = {name: _error_feedback(arena, name) for name in miners}
        await arena.advance_to(arena.spec.timing.vote(1))
        await arena.until(lambda s: all(x.round == 2 for x in s.values()), *miners, what="the void round to end")
        for name in miners:
            one = (await arena.rounds(name))[1]
            assert (one.result, one.state_hash, one.own_included) == ("void", before[name], False)
            (shown,) = (await arena.call(name, "rounds", round=1))["rounds"]
            assert [row["fate"] for row in shown["contributions"]] == ["void"], "its own"
            assert (await scraped(arena, name)).value("rounds_total", result="void") == 1
            assert _error_feedback(arena, name) == (sealed[name][0], 0), "whole again, to the last bit"
            assert sealed[name][1] == 1, "before, what was sealed was spoken for"

        arena.signal("validator-0", signal.SIGCONT)
        await arena.until(lambda s: s["validator-0"].round == 2, "validator-0", what="the validator to catch up")
        await arena.play(2, miners)
        assert len(set((await arena.state_hashes(2, *names)).values())) == 1
        assert (await arena.rounds("miner-0"))[2].roster_size == 2


def _error_feedback(arena: Arena, name: str) -> tuple[bytes, int]:
    """e before what is claimed of it, and the number of claims, from the engine's own file."""
    data = (arena.peers[name].directory / "state" / "engine" / "ef.bin").read_bytes()
    (claims,) = struct.unpack_from("<I", data, 8 + 32 + 32 + 8 + 8)
    return data[-THETA_BYTES - 32 : -32], claims
