"""How one certifier votes: on disk first, one vote a turn, on chain until the votes are read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from ballot_world import RUN, STEP_BLOCKS, TIMING, Certifier, Post, World, proposed, run, view_of
from run_fixture import HOTKEYS

from covenantd.errors import ChainError, ChainRefused
from covenantd.journal import Journal, Voted
from covenantd.roster import NO_DIGEST, Vote
from covenantd.turns import EARLY, Ballots, Turns, turns

SERVE, VOTE = TIMING.serve(0), TIMING.vote(0)
SECOND = TIMING.vote(0) - 13  # rank 1's turn begins: the last third of 41 blocks


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, [4, 3, 2, 1], block=SERVE)


def certifier(world: World, uid: int, *sound: int, block: int = SERVE) -> Certifier:
    one = Certifier(world, uid)
    one.see(block)
    one.open(*(sound or (0, 1)))
    return one


def votes(world: World, *uids: int, digest: str, block: int) -> None:
    for uid in uids:
        world.chain.votes.append((block, uid, Vote(RUN.tag, 0, digest, RUN.genesis_state)))


# Turns


def test_the_first_proposes_at_once_and_the_others_in_the_last_third() -> None:
    stakes = dict(zip(HOTKEYS, [3, 3, 3, 3], strict=False))
    order = turns(TIMING, 0, stakes)
    assert order.blocks == (SERVE, SECOND, SECOND + STEP_BLOCKS)  # the fourth would come too late to be voted for
    assert [order.of(hotkey) for hotkey in HOTKEYS[:5]] == [0, 1, 2, None, None]
    assert [order.at(b) for b in (0, SERVE, SECOND - 1, SECOND, VOTE)] == [0, 0, 0, 1, 2]
    assert turns(TIMING, 2, stakes).blocks[0] == TIMING.serve(2)


def test_whoever_may_fail_with_a_third_of_the_stake_leaves_a_turn_to_another() -> None:
    """Seven equal ones in the shortest window: both of the first may be dead, the third still has its block."""
    short = replace(TIMING, vote_blocks=13, proposal_blocks=2)
    assert turns(short, 0, dict.fromkeys("abcdefg", 1)).blocks == (16, 18, 19)
    for window in range(2, 60):
        for count in range(1, 12):
            stakes = dict.fromkeys("abcdefghijkl"[:count], 1)
            blocks = turns(replace(TIMING, vote_blocks=9 + window, proposal_blocks=2), 0, stakes).blocks
            assert sorted(set(blocks)) == list(blocks) and blocks[-1] < 7 + 9 + window
            assert len(blocks) > min(count // 3, window // 2) or count == 1


def test_alone_there_is_one_turn() -> None:
    assert turns(TIMING, 0, {"a": 5}).blocks == (SERVE,)
    assert turns(TIMING, 0, {}) == Turns((), ())


def test_a_vote_moves_only_in_a_later_turn_that_began_without_a_quorum() -> None:
    assert Ballots(1, None, (0, "a")).refusal(1, "b") is None
    assert "voted already" in str(Ballots(1, None, (1, "a")).refusal(1, "b"))
    assert "voted already" in str(Ballots(1, None, (1, "a")).refusal(0, "b"))
    assert "quorum" in str(Ballots(1, "a", (0, "a")).refusal(1, "b"))
    assert Ballots(1, "a", None).refusal(0, "a") is None and Ballots(1, "a", (0, "b")).refusal(1, "a") is None
    assert "voted already" in str(Ballots(2, None, (0, "a")).refusal(1, "b")), "a turn that is over moves nobody"
    assert Ballots(2, None, None).refusal(1, "b") is None
    assert Ballots(0, None, None).refusal(1, "a") == EARLY
    assert Ballots(1, "b", (0, "a")).refusal(2, "a") is None  # asked again: the answer was lost


def test_two_liars_of_six_cannot_take_a_vote_back_that_an_honest_turn_has_united(tmp_path: Path) -> None:
    """The first shows a good roster to two of the four honest ones, the second lets its turn pass and comes later."""
    world = World(tmp_path, [1] * 6, block=SERVE)
    liar, late, *honest = sorted(range(6), key=lambda uid: HOTKEYS[uid])
    ones = {uid: certifier(world, uid, 0, 1, 2) for uid in honest}
    good, _ = proposed(world, liar, honest[0], 0, 1, 2)
    for uid in honest[:2]:
        assert ones[uid].receive(Post(liar, uid, {"round": 0, "digest": good}, world.block)) is None
    for turn in (1, 2):
        world.block = ones[honest[0]].turns.blocks[turn]
        for one in ones.values():
            one.see(world.block)
            one.take(turn)
    for post in [post for post in world.posts if post.to in ones]:
        assert ones[post.to].receive(post) is None
    _, other = proposed(world, late, honest[1], 0, 1)
    assert "voted already" in str(ones[honest[1]].receive(other))
    for one in ones.values():
        one.publish()
    world.block = VOTE
    decision = run(lambda: ones[honest[0]].agreement.decision(0))
    assert decision is not None and decision.digest == good


# One certifier


def test_a_vote_is_on_disk_before_anybody_hears_of_it(world: World, tmp_path: Path) -> None:
    one = certifier(world, 0)
    one.take(0)
    voted = one.journal.memory.voted
    assert voted is not None and voted.round == 0 and voted.turn == 0
    assert Journal(tmp_path / "journal-0", RUN.run_id, RUN.genesis_state).memory.voted == voted
    assert {(post.to, post.message["digest"]) for post in world.posts} == {(uid, voted.digest) for uid in (1, 2, 3)}
    assert world.chain.votes == []
    one.publish()
    assert world.chain.votes == [(SERVE + 1, 0, Vote(RUN.tag, 0, voted.digest, RUN.genesis_state))]


def test_a_vote_that_the_disk_refuses_is_neither_answered_nor_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = certifier(world, 1)
    _, post = proposed(world, 0, 1, 0, 1)

    def full(**changes: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(one.journal, "update", full)
    assert one.receive(post) == EARLY, "another's question is put off, and does not end the daemon"
    one.publish()
    assert one.ballot.voted(0) is None and world.chain.votes == []


def test_after_a_crash_between_disk_and_chain_the_same_vote_is_published_and_no_other_cast(world: World) -> None:
    one = certifier(world, 1)
    first, post = proposed(world, 0, 1, 0, 1)
    assert one.receive(post) is None
    one.crash()
    one.publish()  # before it has looked at anything
    one.open(0, 1)
    _, other = proposed(world, 0, 1, 0)
    assert "voted already" in str(one.receive(other))
    one.publish()
    assert [vote.digest for _, _, vote in world.chain.votes] == [first, first]


def test_what_is_public_is_not_written_again(world: World) -> None:
    one = certifier(world, 1)

    async def twice() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.ballot.publish, 0, False)
            for _ in range(3):
                await one.ballot.consider(HOTKEYS[0], post.message)
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    _, post = proposed(world, 0, 1, 0, 1)
    run(twice)
    assert len(world.chain.votes) == 1


async def test_a_silent_chain_is_tried_again_and_a_refusal_is_final(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    one = await trio.to_thread.run_sync(certifier, world, 1)
    _, post = proposed(world, 0, 1, 0, 1)
    await one.ballot.consider(HOTKEYS[0], post.message)
    one.failures = [ChainError("silence"), ChainError("silence")]
    await one.ballot.publish(0, True)
    assert len(world.chain.votes) == 1
    one.failures = [ChainRefused("SpaceLimitExceeded")]
    await one.ballot.publish(0, True)
    assert len(world.chain.votes) == 1


def test_once_the_votes_are_read_nobody_votes(world: World) -> None:
    one = certifier(world, 1, block=VOTE)
    _, post = proposed(world, 0, 1, 0, 1)
    assert one.receive(post) == "the votes are read"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda one: one.crash(), EARLY),  # it has to look first
        (lambda one: one.open(0), EARLY),  # the proposer says nothing of what is missing here
        (lambda one: one.world.bodies.clear(), "no roster to be had"),
    ],
)
def test_what_cannot_be_judged_gets_no_vote(world: World, prepare: Callable[[Certifier], None], words: str) -> None:
    one = certifier(world, 1)
    _, post = proposed(world, 0, 1, 0, 1)
    prepare(one)
    assert words in str(one.receive(post)) and one.ballot.voted(0) is None


def test_only_who_has_a_turn_proposes_and_not_before_it(world: World) -> None:
    one = certifier(world, 0)
    assert one.receive(proposed(world, 1, 0, 0, 1)[1]) == EARLY
    assert "no turn" in str(one.receive(proposed(world, 3, 0, 0, 1)[1]))
    assert "no turn" in str(one.receive(proposed(world, 5, 0, 0, 1)[1]))


# When a turn begins


def test_in_the_next_turn_a_vote_that_found_no_quorum_moves(world: World) -> None:
    one = certifier(world, 2)
    first, post = proposed(world, 0, 2, 0)
    assert one.receive(post) is None
    one.open(0, 1)
    second, post = proposed(world, 1, 2, 0, 1)
    assert one.receive(post) == EARLY
    one.see(SECOND)
    assert one.receive(post) is None
    assert one.ballot.voted(0) == Voted(0, second, 1) and second != first


def test_in_the_next_turn_a_quorum_holds_who_is_in_it_and_draws_in_who_is_not(world: World) -> None:
    inside, outside, blind = (certifier(world, uid, 0, 1) for uid in (1, 2, 3))
    first, to_inside = proposed(world, 0, 1, 0, 1)
    other, to_outside = proposed(world, 0, 2, 1)
    assert inside.receive(to_inside) is None and outside.receive(to_outside) is None
    blind.open(2)
    votes(world, 0, 1, digest=first, block=SECOND)
    for one in (inside, outside, blind):
        one.see(SECOND)
        one.take(1)
    assert inside.ballot.voted(0) == Voted(0, first, 0) and world.posts == []  # its turn, but there is no need
    assert outside.ballot.voted(0) == Voted(0, first, 1)
    assert blind.ballot.voted(0) == Voted(0, first, 1)  # it held nothing of it, but those of the quorum do
    third, post = proposed(world, 1, 2, 0, 1, 2)
    assert "quorum" in str(outside.receive(post))


def test_a_quorum_one_block_after_a_turn_began_comes_too_late_for_it(world: World) -> None:
    one = certifier(world, 1)
    first, _ = proposed(world, 0, 1, 0)
    votes(world, 0, 2, 3, digest=first, block=SECOND + 1)
    one.see(SECOND + 3)
    one.take(1)
    assert len(world.posts) == 3 and first not in {post.message["digest"] for post in world.posts}


def test_in_its_turn_a_certifier_repeats_what_it_voted_for_if_nothing_is_missing_there(world: World) -> None:
    one = certifier(world, 1)
    first, post = proposed(world, 0, 1, 0, 1)
    assert one.receive(post) is None
    one.see(SECOND)
    one.take(1)
    assert {post.message["digest"] for post in world.posts} == {first}
    world.posts.clear()
    one.crash()
    one.open(0, 1, 2)
    one.take(1)
    [digest] = {post.message["digest"] for post in world.posts}
    assert one.ballot.voted(0) == Voted(0, str(digest), 1) and digest != first
    assert len(world.bodies[str(digest)].contributions) == 3


def test_who_holds_nothing_proposes_nothing(world: World) -> None:
    one = certifier(world, 0)
    one.ballot.open(view_of(0, NO_DIGEST, RUN.genesis_state, ()), one.turns)
    one.take(0)
    assert one.ballot.voted(0) is None and world.posts == []
