"""A run changes its rules in mid-run, without a restart; whoever cannot follow stops where they begin, and says so."""

import json
import sys

import pytest
import trio
from arena import Arena, OpenArena
from scraping import scrape

from covenantd.errors import EXIT_CONFIG
from covenantd.roster import Roster, alpha_bits, decode
from covenantd.specchange import SpecChange, SpecHistory, sign
from p2p.child import Child

pytestmark = pytest.mark.swarm
MINERS, VALIDATORS = ("miner-0", "miner-1"), ("validator-0", "validator-1")
NAMES = (*MINERS, *VALIDATORS)
CHANGES = {
    "alpha": 1.0,
    "roster_size": 1,
    "inner_steps": 3,
    "inner": {"peak_learning_rate": 1e-6},
    "timing": {"blocks_per_round": 350, "vote_blocks": 280},
}
OLDER = """
import sys
from covenantd import specchange
specchange.CHANGEABLE = ("alpha",)
from covenantd.cli import main
sys.exit(main())
"""


async def test_every_peer_follows_a_change_of_the_run_spec_two_rounds_later(new_arena: OpenArena) -> None:
    """It is handed to the validator that is not the first to propose; one miner is of a version that knows less."""
    async with new_arena(miners=2, validators=2) as arena:
        arena.start("bootstrap", "miner-0", *VALIDATORS)
        _start_older(arena, "miner-1")
        await arena.ready(*NAMES)
        await arena.play(0, MINERS, VALIDATORS)

        change = SpecChange(arena.spec.run_id, 1, 3, CHANGES)
        document = sign(change, arena.peers["bootstrap"].hotkey).decode()
        second = max(VALIDATORS, key=lambda name: arena.peers[name].hotkey.hotkey)  # of equal stake
        answer = await arena.call(second, "change", document=document)
        assert (answer["revision"], answer["first_round"], answer["certifiers"]) == (1, 3, 2)
        await arena.play(1, MINERS, VALIDATORS)  # its roster carries the change
        assert len(_roster(arena, 1).changes) == 1

        await arena.train(2, MINERS, VALIDATORS)
        await arena.certify(2)
        await arena.finish(2, "miner-0", *VALIDATORS)
        await _stops_and_says_why(arena, "miner-1")
        assert (await arena.rounds("miner-0"))[2].inner_steps == 2
        assert (_roster(arena, 2).alpha_bits, len(_roster(arena, 2).contributions)) == (alpha_bits(2.0), 2)
        assert await _learning_rate(arena) > 1e-6

        arena.spec = SpecHistory(arena.spec, [change]).at(3)
        arena.start("miner-1")  # upgraded
        await arena.until(lambda s: s["miner-1"].round == 3, "miner-1", what="the upgraded one to follow")
        await arena.play(3, MINERS, VALIDATORS)
        for name in MINERS:
            assert (await arena.rounds(name))[3].inner_steps == 3, name
        body = _roster(arena, 3)
        assert (body.alpha_bits, body.spec_revision, len(body.contributions)) == (alpha_bits(1.0), 1, 1)
        assert len(body.exclusions) == 1
        assert 0 < await _learning_rate(arena) <= 1e-6
        assert len(set((await arena.state_hashes(3, *NAMES)).values())) == 1


def _start_older(arena: Arena, name: str) -> None:
    peer = arena.peers[name]
    with peer.log.open("ab") as log:
        arena.children[name] = Child([sys.executable, "-c", OLDER, "run", "--config", str(peer.config)], output=log)


async def _stops_and_says_why(arena: Arena, name: str) -> None:
    with trio.fail_after(60):
        assert await arena.children.pop(name).wait() == EXIT_CONFIG
    assert "from round 3 on the run has rules that this covenantd cannot follow" in arena.log(name)  # two rounds ahead
    assert "from round 3 on the run has other rules" in arena.log(name) and "upgrade covenantd" in arena.log(name)


def _roster(arena: Arena, round: int) -> Roster:
    """As miner-0 has it on disk."""
    state = arena.peers["miner-0"].directory / "state"
    past = json.loads((state / "journal.json").read_bytes())["past"]
    digest = next(one["digest"] for one in past if one["round"] == round)
    return decode((state / "blobs" / "complete" / digest).read_bytes())


async def _learning_rate(arena: Arena) -> float:
    status = await arena.status("miner-0")
    assert status is not None
    return (await scrape(status.http_address)).value("learning_rate")
