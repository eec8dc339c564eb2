"""What a certifier does about contributions that only others hold, and how little a hostile proposer gets out of it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from ballot_world import RUN, TIMING, Certifier, World, proposed, run, view_of
from run_fixture import HOTKEYS

from covenantd.holdings import HOLDING, PROOF
from covenantd.roster import NO_DIGEST, Vote
from covenantd.turns import EARLY
from p2p.errors import Refused

SERVE, VOTE = TIMING.serve(0), TIMING.vote(0)
PROVES: Mapping[str, object] = {"receipts": True}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Uid 0 proposes first; the others are honest, if they are there."""
    return World(tmp_path, [4, 3, 2, 1], block=SERVE)


def certifier(world: World, uid: int, *sound: int, block: int = SERVE) -> Certifier:
    one = Certifier(world, uid)
    one.see(block)
    one.open(*sound)
    return one


def names(*uids: int) -> set[str]:
    return {HOTKEYS[uid] for uid in uids}


def test_what_only_the_proposer_holds_is_fetched_checked_and_voted_for(world: World) -> None:
    proposer, voter = certifier(world, 0, 0, 1, 2), certifier(world, 1, 0)
    proposer.take(0)
    assert voter.receive(next(post for post in world.posts if post.to == 1)) is None
    assert voter.sound == names(0, 1, 2) and voter.ballot.voted(0) == proposer.ballot.voted(0)


def test_what_is_brought_is_checked_and_what_is_unsound_gets_no_vote(world: World) -> None:
    certifier(world, 0, 0, 1)
    voter = certifier(world, 1, 0)
    world.unsound = {1}
    assert "not sound" in str(voter.receive(proposed(world, 0, 1, 0, 1)[1])) and voter.sound == names(0)


def test_a_commit_that_the_proposer_cannot_prove_gets_no_vote_and_is_not_asked_for_again(world: World) -> None:
    voter = certifier(world, 1, 0)
    asked: list[str] = []
    world.unproven, world.given = {1}, {(1, 1)}
    world.lie = lambda liar, protocol: asked.append(protocol) or PROVES
    _, post = proposed(world, 0, 1, 0, 1)
    for _ in range(3):
        assert "has not committed" in str(voter.receive(post))
    assert asked == [RUN.protocol(PROOF)]


def test_what_nobody_gives_is_waited_for_until_the_turn_is_over_and_no_longer(world: World) -> None:
    voter = certifier(world, 1, 0)
    world.lie = lambda liar, protocol: PROVES
    _, post = proposed(world, 0, 1, 0, 1)
    assert voter.receive(post) == EARLY
    voter.see(voter.turns.blocks[1])
    assert "has not committed" in str(voter.receive(post)) and voter.ballot.voted(0) is None
    world.given = {(1, 1)}
    assert "has not committed" in str(voter.receive(post)), "nothing is fetched for a turn that is over"


def test_a_proposer_has_things_fetched_for_one_proposal_a_turn(world: World) -> None:
    voter = certifier(world, 1, 0)
    world.lie = lambda liar, protocol: PROVES
    assert voter.receive(proposed(world, 0, 1, 0, 1)[1]) == EARLY
    world.given = {(2, 1)}
    assert "another proposal" in str(voter.receive(proposed(world, 0, 1, 0, 2)[1]))
    assert voter.receive(proposed(world, 0, 1, 0)[1]) is None, "for what is here nothing is fetched"


def test_who_is_held_up_by_one_proposer_hears_the_next(world: World) -> None:
    voter, second = certifier(world, 2, 0), certifier(world, 1, 0, 1)
    world.lie = lambda liar, protocol: PROVES
    _, nowhere = proposed(world, 0, 2, 0, 3)
    assert voter.receive(nowhere) == EARLY
    for one in (voter, second):
        one.see(one.turns.blocks[1])
    second.take(1)
    assert voter.receive(next(post for post in world.posts if post.to == 2)) is None


def test_whoever_is_to_propose_has_first_what_any_of_the_others_holds(world: World) -> None:
    proposer, other, third = certifier(world, 0, 0), certifier(world, 1, 0, 1, 2, 3), certifier(world, 2, 4)
    world.unsound = {4}
    proposer.survey()
    assert proposer.sound == names(0, 1, 2, 3)
    proposer.take(0)
    [body] = world.bodies.values()
    assert {one.hotkey for one in body.contributions} == names(0, 1, 2, 3)
    assert {(one.hotkey, one.reason) for one in body.exclusions} == {(HOTKEYS[4], "invalid")}
    assert other.receive(next(post for post in world.posts if post.to == 1)) is None
    assert third.receive(next(post for post in world.posts if post.to == 2)) is None


def test_what_others_gave_us_alone_makes_no_censor_of_who_did_not_have_it(world: World) -> None:
    """The first lists what it has served to one voter alone; the second asked before that."""
    second, voter = certifier(world, 1, 0), certifier(world, 2, 0)
    second.survey()
    world.lie, world.given = lambda liar, protocol: PROVES, {(miner, 2) for miner in (1, 2, 3)}
    assert voter.receive(proposed(world, 0, 2, 1, 2, 3)[1]) is None
    assert voter.sound == names(0, 1, 2, 3)
    for one in (second, voter):
        one.see(one.turns.blocks[1])
    world.certifiers.pop(2)  # it serves what it holds, but somebody else's link may be slow
    second.take(1)
    assert voter.receive(next(post for post in world.posts if post.to == 2)) is None


def test_a_quorum_draws_in_who_lacks_what_it_lists_and_who_takes_it_for_censorship(world: World) -> None:
    """Two hold the same with the first; one holds three times as much, which nobody asked for."""
    certifier(world, 1, 0), certifier(world, 2, 0)
    rich, poor = certifier(world, 3, 0, 1, 2, 3), certifier(world, 3)
    digest, post = proposed(world, 0, 3, 0)
    assert "leaves out" in str(rich.receive(post))
    for uid in (0, 1, 2):
        world.chain.votes.append((SERVE + 1, uid, Vote(RUN.tag, 0, digest, RUN.genesis_state)))
    for one in (rich, poor):
        one.see(one.turns.blocks[1])
        one.take(1)
        voted = one.ballot.voted(0)
        assert voted is not None and voted.digest == digest
        one.journal.update(voted=None)


def test_only_certifiers_are_told_and_only_of_the_round_in_work(world: World) -> None:
    one, other = certifier(world, 0, 0), HOTKEYS[1]
    for handle, more in ((one.holdings.tell, {}), (one.holdings.show, {"hotkey": HOTKEYS[0]})):
        for asker, round, reason in ((HOTKEYS[5], 0, "not certify"), ("a stranger", 0, "not certify")):
            with pytest.raises(Refused, match=reason):
                run(lambda h=handle, a=asker, m={"round": round, **more}: h(a, m))  # type: ignore[misc]
        with pytest.raises(Refused, match=EARLY):
            run(lambda h=handle, m={"round": 1, **more}: h(other, m))  # type: ignore[misc]
    assert run(lambda: one.holdings.tell(other, {"round": 0})) == {"sound": [HOTKEYS[0]]}
    with pytest.raises(Refused, match="no such commit"):
        run(lambda: one.holdings.show(other, {"round": 0, "hotkey": HOTKEYS[1]}))


def test_a_certifier_that_claims_to_hold_everything_costs_a_survey_a_rosters_worth(world: World) -> None:
    proposer = certifier(world, 0, 0)
    asked: list[str] = []

    def lie(liar: int, protocol: str) -> object:
        asked.append(protocol)
        return {"sound": [f"{i:048}" for i in range(900)]} if protocol == RUN.protocol(HOLDING) else {"receipts": False}

    world.lie = lie
    proposer.survey()
    assert proposer.sound == names(0) and asked.count(RUN.protocol(HOLDING)) == 3
    assert asked.count(RUN.protocol(PROOF)) <= 3 * RUN.roster_size


def test_who_has_not_looked_yet_is_waited_for_and_who_is_not_there_is_not(world: World) -> None:
    proposer, late = certifier(world, 0, 0), certifier(world, 1, 0, 1)
    late.crash()
    proposer.survey()
    assert proposer.sound == names(0)
    late.open(0, 1)
    proposer.survey()
    assert proposer.sound == names(0, 1)


def test_a_view_that_grows_keeps_its_reasons_straight() -> None:
    view = replace(view_of(0, NO_DIGEST, RUN.genesis_state, [0, 1]), refused={HOTKEYS[2]: "missing"})
    commit = view_of(0, NO_DIGEST, RUN.genesis_state, [2]).proven[HOTKEYS[2]]
    more, worse = view.joined_by(commit, True), view.joined_by(commit, False)
    assert more.sound == names(0, 1, 2) and more.late == names(2) and more.refused == {}
    assert worse.sound == view.sound and worse.refused == {HOTKEYS[2]: "invalid"}
    assert view.joined_by(view.proven[HOTKEYS[0]], True).late == frozenset(), "what was here first stays ours"
