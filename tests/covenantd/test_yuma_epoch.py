"""Worked examples and the properties that the recorded vectors do not show."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covenantd.chain.yuma.apportion import apportion
from covenantd.chain.yuma.epoch import run_epoch
from covenantd.chain.yuma.subnet import MODES, Cells, EpochInputs, EpochResult, EpochRules, PackedRow, Row

U16 = 65535
RULES = EpochRules()


def rows(*cells: dict[int, int]) -> list[Row]:
    return [Row.of(one) for one in cells]


def subnet(stakes: list[int], weights: list[dict[int, int]], **changes: Any) -> EpochInputs:
    """Everybody with stake has a permit, all are active and nobody is new."""
    size = len(stakes)
    inputs = EpochInputs(
        stakes=stakes,
        permits=[stake > 0 for stake in stakes],
        active=[True] * size,
        voted=[9] * size,
        registered=[1] * size,
        weights=rows(*weights),
        bonds=[Row()] * size,
        last_epoch_block=5,
    )
    return replace(inputs, **changes)


SERVERS = {4: 16383, 5: 32767, 6: 49149, 7: 65535}
EIGHT = subnet([1, 2, 3, 4, 0, 0, 0, 0], [SERVERS] * 4 + [{}] * 4)


def without(row: Cells, uid: int) -> Row:
    return Row.of({j: value for j, value in zip(row.uids, row.values, strict=True) if j != uid})


def column(result: EpochResult, uid: int) -> list[int]:
    return [row.cells().get(uid, 0) for row in result.bonds[:4]]


def test_worked_example_of_classic_bonds() -> None:
    first = run_epoch(EIGHT, RULES)
    assert first.dividends[:4] == pytest.approx([U16 / 10, U16 / 5, 3 * U16 / 10, 2 * U16 / 5], abs=1)
    assert first.incentive[4:] == pytest.approx([U16 * s for s in (0.099998, 0.200001, 0.299993, 0.400009)], abs=1)
    assert first.vtrust[:4] == pytest.approx([U16] * 4, abs=1) and first.vtrust[4:] == (0,) * 4
    assert column(first, 4) == pytest.approx([16383, 32767, 49151, 65535], abs=1)
    alone = replace(EIGHT, weights=[Row.of({0: U16}), *EIGHT.weights[1:]], bonds=first.bonds)
    assert column(run_epoch(alone, RULES), 4) == pytest.approx([14582, 32767, 49151, 65535], abs=1)


def test_one_validator_pays_miners_by_its_weights() -> None:
    """The case of a local swarm: kappa or not, its word is the consensus."""
    for mode in MODES:
        result = run_epoch(subnet([7, 0, 0, 0], [{1: 65535, 2: 21845, 3: 0}, {}, {}, {}]), replace(RULES, mode=mode))
        assert result.incentive == pytest.approx([0, U16 * 3 // 4, U16 // 4, 0], abs=1)
        assert result.dividends == (U16, 0, 0, 0) and result.vtrust[0] >= U16 - 1
        assert apportion(8_000_000, result.emission_parts) == pytest.approx([4e6, 3e6, 1e6, 0], abs=1)


def test_a_cartel_below_kappa_is_clipped() -> None:
    """49 % of the stake votes for its own miner; the rest for the honest one."""
    honest, cartel = {2: U16}, {3: U16}
    result = run_epoch(subnet([51, 49, 0, 0], [honest, cartel, {}, {}]), RULES)
    assert result.incentive == (0, 0, U16, 0) and result.consensus[3] == 0
    assert result.dividends == (U16, 0, 0, 0) and result.vtrust == (U16, 0, 0, 0)
    above = run_epoch(subnet([49, 51, 0, 0], [honest, cartel, {}, {}]), RULES)
    assert above.incentive == (0, 0, 0, U16)


def test_emission_without_votes_follows_active_stake_then_stake() -> None:
    silent = subnet([300, 100, 0], [{}, {}, {}])
    assert apportion(100, run_epoch(silent, RULES).emission_parts) == (75, 25, 0)
    half = replace(silent, active=[False, True, True])
    assert apportion(100, run_epoch(half, RULES).emission_parts) == (0, 100, 0)
    nobody = replace(silent, active=[False] * 3)
    assert apportion(100, run_epoch(nobody, RULES).emission_parts) == (75, 25, 0)
    assert run_epoch(subnet([0, 0], [{}, {}]), RULES).emission_parts == (0, 0)


def test_absent_cells_lose_their_bond_under_liquid_alpha_and_zeros_decay() -> None:
    old = rows({2: 30000, 3: 30000}, {}, {}, {})
    weights = [{1: U16, 2: 0}, {}, {}, {}]
    inputs = subnet([5, 0, 0, 0], weights, bonds=old)
    liquid = run_epoch(inputs, replace(RULES, mode="yuma3+liquid")).bonds[0].cells()
    assert 0 < liquid[2] < 30000 * 3 // 10 and 3 not in liquid
    plain = run_epoch(inputs, replace(RULES, mode="yuma3")).bonds[0].cells()
    assert plain[2] == plain[3] == pytest.approx(27000, abs=1)
    between = run_epoch(inputs, replace(RULES, mode="yuma3+liquid", bonds_penalty=30000)).bonds[0].cells()
    assert 2 not in between  # interpolation drops zeros


def test_liquid_alpha_is_the_plain_average_where_nobody_agrees() -> None:
    inputs = subnet([5, 0], [{}, {}], bonds=rows({1: 30000}, {}))
    for mode in ("yuma3", "yuma3+liquid"):
        assert run_epoch(inputs, replace(RULES, mode=mode)).bonds[0].cells() == {1: 26999}


# Everything below is for any subnet.

_small = st.integers(0, 50)


@st.composite
def subnets(draw: st.DrawFn) -> EpochInputs:
    size = draw(st.integers(1, 7))
    uids = st.integers(0, size - 1)
    cells = st.dictionaries(uids, _small, max_size=size).map(Row.of)
    rows = st.lists(cells, min_size=size, max_size=size)
    blocks = st.lists(st.integers(0, 9), min_size=size, max_size=size)
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    stakes = draw(st.lists(_small, min_size=size, max_size=size))
    permits = [flag and stake > 0 for flag, stake in zip(draw(flags), stakes, strict=True)]
    bonds = [row if ok else Row() for row, ok in zip(draw(rows), permits, strict=True)]
    return EpochInputs(
        stakes, permits, draw(flags), draw(blocks), draw(blocks), draw(rows), bonds, draw(st.integers(0, 9))
    )


rules = st.builds(
    EpochRules,
    mode=st.sampled_from(MODES),
    kappa=st.sampled_from([0, 20000, 32767, U16]),
    bonds_penalty=st.sampled_from([0, 1, 30000, U16]),
    bonds_moving_average=st.sampled_from([0, 900_000, 1_000_000]),
    alpha_steepness=st.sampled_from([0, 1000, 4000]),
)


@settings(max_examples=60, deadline=None)
@given(subnets(), rules)
def test_shares_are_shares(inputs: EpochInputs, rules: EpochRules) -> None:
    result = run_epoch(inputs, rules)
    size = len(inputs.stakes)
    for shares in (result.incentive, result.dividends, result.consensus, result.vtrust):
        assert len(shares) == size and all(0 <= share <= U16 for share in shares)
    assert sum(result.incentive) <= U16 and sum(result.dividends) <= U16
    assert sum(result.incentive) in range(U16 - size, U16 + 1) or not any(result.incentive)
    assert all(0 < bond <= U16 for row in result.bonds for bond in row.values)
    assert sum(apportion(1000, result.emission_parts)) == (1000 if any(inputs.stakes) else 0)
    for uid, permit in enumerate(inputs.permits):
        if not permit:
            assert result.vtrust[uid] == 0 and not result.bonds[uid].uids and result.dividends[uid] == 0


@settings(max_examples=40, deadline=None)
@given(subnets(), rules, st.integers(1, 1000), st.integers(1, 1300))
def test_only_proportions_matter(inputs: EpochInputs, rules: EpochRules, stake_by: int, weights_by: int) -> None:
    scaled = replace(
        inputs,
        stakes=[stake * stake_by for stake in inputs.stakes],
        weights=[Row(tuple(row.uids), tuple(w * weights_by for w in row.values)) for row in inputs.weights],
    )
    ours, theirs = run_epoch(inputs, rules), run_epoch(scaled, rules)
    assert replace(ours, emission_parts=()) == replace(theirs, emission_parts=())
    assert apportion(10**6, ours.emission_parts) == apportion(10**6, theirs.emission_parts)


@settings(max_examples=40, deadline=None)
@given(subnets(), rules, st.data())
def test_uids_are_only_names(inputs: EpochInputs, rules: EpochRules, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(inputs.stakes))))
    place = {uid: position for position, uid in enumerate(order)}

    def moved(values: Any) -> list[Any]:
        return [values[uid] for uid in order]

    def renamed(lines: Any) -> list[Any]:
        return [{place[j]: w for j, w in row.cells().items()} for row in moved(lines)]

    names = ("stakes", "permits", "active", "voted", "registered")
    changes: dict[str, Any] = {name: moved(getattr(inputs, name)) for name in names}
    permuted = replace(inputs, **changes, weights=rows(*renamed(inputs.weights)), bonds=rows(*renamed(inputs.bonds)))
    ours, theirs = run_epoch(inputs, rules), run_epoch(permuted, rules)
    for name in ("incentive", "dividends", "consensus", "vtrust", "emission_parts"):
        assert moved(getattr(ours, name)) == list(getattr(theirs, name))
    assert renamed(ours.bonds) == [row.cells() for row in theirs.bonds]


@settings(max_examples=40, deadline=None)
@given(subnets(), rules, st.data())
def test_who_has_no_say(inputs: EpochInputs, rules: EpochRules, data: st.DataObject) -> None:
    """Without stake, permit or activity, what one votes changes nobody's incentive; without a permit, nothing."""
    size = len(inputs.stakes)
    uid = data.draw(st.integers(0, size - 1))
    row = Row.of(data.draw(st.dictionaries(st.integers(0, size - 1), _small)))
    mute = data.draw(st.sampled_from(["stakes", "permits", "active"]))
    muted = list(getattr(inputs, mute))
    muted[uid] = type(muted[uid])(0)
    changes: dict[str, Any] = {mute: muted}
    before = replace(inputs, **changes)
    if mute == "permits":
        before = replace(before, bonds=[Row() if i == uid else b for i, b in enumerate(before.bonds)])
    after = replace(before, weights=[row if i == uid else w for i, w in enumerate(before.weights)])
    ours, theirs = run_epoch(before, rules), run_epoch(after, rules)
    assert (ours.incentive, ours.consensus) == (theirs.incentive, theirs.consensus)
    if mute == "permits":
        assert ours == theirs


@settings(max_examples=40, deadline=None)
@given(subnets(), rules, st.data())
def test_votes_and_bonds_die_with_a_uids_owner(inputs: EpochInputs, rules: EpochRules, data: st.DataObject) -> None:
    """A neuron registered after the votes, and since the last epoch, starts from nothing."""
    uid = data.draw(st.integers(0, len(inputs.stakes) - 1))
    newcomer = replace(inputs, registered=[99 if i == uid else b for i, b in enumerate(inputs.registered)])
    result = run_epoch(newcomer, rules)
    assert result.incentive[uid] == result.consensus[uid] == 0
    assert all(uid not in bonds.uids for bonds in result.bonds)
    cleared = replace(
        newcomer,
        weights=[without(row, uid) for row in newcomer.weights],
        bonds=[without(row, uid) for row in newcomer.bonds],
    )
    assert run_epoch(cleared, rules) == result


@settings(max_examples=40, deadline=None)
@given(subnets(), st.data())
def test_what_less_than_kappa_supports_earns_nothing(inputs: EpochInputs, data: st.DataObject) -> None:
    """Whoever the others leave at nothing stays there, whatever a cartel with less than half of the stake says."""
    size = len(inputs.stakes)
    target = data.draw(st.integers(0, size - 1))
    cartel = data.draw(st.sets(st.integers(0, size - 1)))
    voting = [s if p and a else 0 for s, p, a in zip(inputs.stakes, inputs.permits, inputs.active, strict=True)]
    honest_stake = sum(stake for uid, stake in enumerate(voting) if uid not in cartel)
    if 2 * honest_stake <= sum(voting):
        return
    honest = replace(
        inputs,
        weights=[row if uid in cartel else without(row, target) for uid, row in enumerate(inputs.weights)],
    )
    result = run_epoch(honest, replace(RULES, kappa=32767))
    assert result.incentive[target] == result.consensus[target] == 0


@given(st.dictionaries(st.integers(0, U16), st.integers(0, U16), max_size=9))
def test_a_packed_row_is_the_row(cells: dict[int, int]) -> None:
    row = PackedRow.of(cells)
    assert row.cells() == cells and (row.uids, row.values) == (tuple(cells), tuple(cells.values()))


@given(st.integers(0, 1 << 63), st.lists(st.integers(0, 1 << 70), min_size=1, max_size=30))
def test_apportion_conserves_every_unit(amount: int, parts: list[int]) -> None:
    shares = apportion(amount, parts)
    assert sum(shares) == (amount if any(parts) else 0)
    assert all(abs(s * sum(parts) - amount * p) < max(sum(parts), 1) for s, p in zip(shares, parts, strict=True))
