from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from covenantd.chain.yuma.consensus import EpochInputs, apportion, run_consensus

TWO = EpochInputs(
    stakes=[300, 100, 0, 0],
    permits=[True, True, False, False],
    last_updates=[9, 9, 0, 0],
    registered=[1, 1, 1, 1],
    weights=[{2: 65535}, {2: 30000, 3: 30000}, {}, {}],
)


def test_worked_example() -> None:
    result = run_consensus(TWO)
    assert result.incentive == (0, 0, 65535 * 7 // 8, 65535 // 8)
    assert result.dividends == (65535 * 3 // 4, 65535 // 4, 0, 0)
    assert apportion(1600, result.emission_parts) == (600, 200, 700, 100)


def test_who_has_no_say() -> None:
    alone = run_consensus(replace(TWO, weights=[{2: 65535}, {}, {}, {}]))
    assert alone.incentive == (0, 0, 65535, 0)
    assert run_consensus(replace(TWO, permits=[True, False, False, False])).incentive == alone.incentive
    assert run_consensus(replace(TWO, stakes=[300, 0, 0, 0])).incentive == alone.incentive


def test_self_weights_and_weights_for_a_former_owner_do_not_count() -> None:
    own = run_consensus(replace(TWO, weights=[{0: 65535, 2: 1}, {1: 7, 2: 1}, {}, {}]))
    assert own.incentive == (0, 0, 65535, 0)
    late = run_consensus(replace(TWO, registered=[1, 1, 1, 9], weights=[{3: 1}, {2: 1, 3: 65535}, {}, {}]))
    assert late.incentive == (0, 0, 65535, 0)
    assert run_consensus(replace(TWO, weights=[{9: 1}, {}, {}, {}])).incentive == (0,) * 4


def test_without_votes_emission_follows_stake() -> None:
    result = run_consensus(replace(TWO, weights=[{}, {}, {}, {}]))
    assert result.incentive == result.dividends == (0,) * 4
    assert apportion(100, result.emission_parts) == (75, 25, 0, 0)
    assert apportion(100, run_consensus(replace(TWO, stakes=[0] * 4)).emission_parts) == (0,) * 4


@given(st.integers(0, 1 << 63), st.lists(st.integers(0, 1 << 70), min_size=1, max_size=30))
def test_apportion_conserves_every_unit(amount: int, parts: list[int]) -> None:
    shares = apportion(amount, parts)
    assert sum(shares) == (amount if sum(parts) else 0)
    for share, part in zip(shares, parts, strict=True):
        if sum(parts):
            assert 0 <= share - amount * part // sum(parts) <= 1


@given(st.integers(1, 1 << 40), st.permutations(range(4)))
def test_scale_and_order_do_not_matter(scale: int, order: list[int]) -> None:
    base = run_consensus(TWO)
    assert run_consensus(replace(TWO, stakes=[s * scale for s in TWO.stakes])).incentive == base.incentive
    position = {uid: order.index(uid) for uid in range(4)}
    moved = EpochInputs(
        stakes=[TWO.stakes[u] for u in order],
        permits=[TWO.permits[u] for u in order],
        last_updates=[TWO.last_updates[u] for u in order],
        registered=[TWO.registered[u] for u in order],
        weights=[{position[t]: w for t, w in TWO.weights[u].items()} for u in order],
    )
    assert run_consensus(moved).incentive == tuple(base.incentive[u] for u in order)
