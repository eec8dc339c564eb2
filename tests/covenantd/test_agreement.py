"""What was certified, as everyone reads it from the chain."""

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from run_fixture import HOTKEYS, SPEC, TIMING, WrittenChain, h

from covenantd.agreement import Agreement
from covenantd.errors import ChainRefused


async def test_a_decision_is_read_at_the_start_and_at_the_vote_block_and_nowhere_else() -> None:
    chain = WrittenChain([1])
    chain.vote(0, 0, TIMING.vote(0))
    chain.vote(0, 1, TIMING.vote(0) + 1)
    vote = await Agreement(chain, SPEC).decision(0)
    assert vote is not None and (vote.round, vote.digest, vote.state_hash) == (0, h(0), h(100))
    assert sorted(chain.read) == [TIMING.start(0), TIMING.vote(0)]


async def test_a_vote_one_block_late_is_no_vote() -> None:
    chain = WrittenChain([1])
    chain.vote(0, 0, TIMING.vote(0) + 1)
    assert await Agreement(chain, SPEC).decision(0) is None


async def test_answers_about_a_block_are_kept() -> None:
    chain = WrittenChain([3, 1])
    agreement = Agreement(chain, SPEC)
    for _ in range(3):
        assert list(await agreement.certifiers(2)) == HOTKEYS[:2]
        assert await agreement.registered(2) == frozenset(HOTKEYS[:2])
        assert await agreement.block_hash(40) == h(40)
    assert chain.read == [TIMING.start(2), 40]


async def test_a_silent_chain_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    chain = WrittenChain([1], failures=12)
    chain.vote(0, 0, TIMING.vote(0))
    began = trio.current_time()
    assert await Agreement(chain, SPEC).decision(0) is not None
    assert 60 < trio.current_time() - began < 300
    assert chain.failures == 0


async def test_blocks_are_read_backwards_without_end() -> None:
    agreement = Agreement(WrittenChain([1]), SPEC)
    for number in range(40, 0, -1):
        assert await agreement.block_hash(number) == h(number)
        assert (await agreement.view(number)).block == number


async def test_the_newest_certified_round_is_found_behind_a_long_void() -> None:
    chain = WrittenChain([1])
    chain.vote(0, 3, TIMING.vote(3))
    agreement = Agreement(chain, SPEC)
    vote = await agreement.newest_certified(500)
    assert vote is not None and vote.round == 3
    assert len(set(chain.read)) <= 4  # what nobody names is not searched


async def test_late_votes_in_void_rounds_lead_back_step_by_step() -> None:
    chain = WrittenChain([1])
    chain.vote(0, 3, TIMING.vote(3))
    for round in range(4, 30):
        chain.vote(0, round, TIMING.vote(round) + 1)
    vote = await Agreement(chain, SPEC).newest_certified(29)
    assert vote is not None and vote.round == 3


async def test_a_vote_in_time_without_a_quorum_hides_no_older_quorum() -> None:
    """All alone, uid 0 certified round 3; then uid 1 came with most of the stake and never votes."""
    chain = WrittenChain([1, 9], gone=lambda block: {1} if block < TIMING.start(5) else set())
    chain.vote(0, 3, TIMING.vote(3))
    chain.vote(0, 7, TIMING.vote(7))
    vote = await Agreement(chain, SPEC).newest_certified(7)
    assert vote is not None and vote.round == 3


async def test_a_quorum_that_has_left_the_subnet_is_found_all_the_same() -> None:
    chain = WrittenChain([5, 1], gone=lambda block: {0} if block > TIMING.vote(4) else set())
    chain.vote(0, 4, TIMING.vote(4))
    vote = await Agreement(chain, SPEC).newest_certified(12)
    assert vote is not None and vote.round == 4


@pytest.mark.parametrize(
    ("written_at", "certified"),
    [
        (TIMING.vote(3), True),
        (TIMING.vote(3) + 1, False),  # too late, as everybody saw then
        (TIMING.start(4) + 9000, True),  # with a new identity: it says nothing of when it was first there
    ],
)
async def test_a_quorum_of_long_ago_is_read_from_what_is_still_on_chain(written_at: int, certified: bool) -> None:
    """The only validator died after its vote in round 3 and was away for longer than the chain keeps states."""
    chain = WrittenChain([1], head=TIMING.vote(1500), kept_from=TIMING.start(1400))
    chain.vote(0, 3, written_at)
    vote = await Agreement(chain, SPEC).newest_certified(1500, since=3)
    assert (vote is not None and vote.round == 3) is certified


async def test_no_round_is_skipped_only_because_its_beginning_is_not_kept() -> None:
    """What was certified is decided by the stakes of b_r: an operator has to name an archive."""
    chain = WrittenChain([1], head=TIMING.vote(9), kept_from=TIMING.start(9) + 1)
    chain.vote(0, 9, TIMING.vote(9))
    with pytest.raises(ChainRefused, match="StateDiscarded"):
        await Agreement(chain, SPEC).newest_certified(9)
    with pytest.raises(ChainRefused, match="StateDiscarded"):
        await Agreement(chain, SPEC).decision(8)


async def test_rounds_before_ours_are_not_searched() -> None:
    chain = WrittenChain([1])
    chain.vote(0, 3, TIMING.vote(3))
    agreement = Agreement(chain, SPEC)
    assert await agreement.newest_certified(9, since=4) is None
    assert await agreement.newest_certified(3, since=4) is None
    assert await agreement.newest_certified(-1) is None


@settings(deadline=None, max_examples=150)
@given(
    stakes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    votes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(-6, 6)), max_size=40),
)
def test_the_newest_certified_round_is_what_a_search_of_every_round_finds(
    stakes: list[int], votes: list[tuple[int, int, int]]
) -> None:
    """Certifiers vote early, late or not at all, but never for an older round than before."""
    chain = WrittenChain(stakes)
    timed = sorted((round, TIMING.vote(round) + late, uid % len(stakes)) for uid, round, late in votes)
    for round, block, uid in timed:
        chain.vote(uid, round, block)
    chain.votes.sort(key=lambda vote: vote[0])

    async def compare() -> None:
        agreement = Agreement(chain, SPEC)
        decisions = [await agreement.decision(round) for round in range(13)]
        certified = [vote for vote in decisions if vote is not None]
        assert await Agreement(chain, SPEC).newest_certified(12) == (certified[-1] if certified else None)

    trio.run(compare)
