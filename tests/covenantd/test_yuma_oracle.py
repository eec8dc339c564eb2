"""Any subnet, not only the recorded ones: inactive, unpermitted and re-registered neurons, absent cells."""

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from yuma_oracle import oracle

from covenantd.chain.yuma.epoch import run_epoch
from covenantd.chain.yuma.subnet import MODES, EpochInputs, EpochRules, Mode, Row

U16 = 65535


@st.composite
def subnets(draw: st.DrawFn) -> EpochInputs:
    """Numbers not so far apart that the chain's own rounding would show."""
    size = draw(st.integers(2, 8))

    def many(one: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(one, min_size=size, max_size=size))

    def rows(value: st.SearchStrategy[int]) -> list[Row]:
        cells = st.dictionaries(st.integers(0, size - 1), value, max_size=size).map(Row.of)
        return draw(st.lists(cells, min_size=size, max_size=size))

    stakes = many(st.just(0) | st.integers(10, 60))
    flags = st.sampled_from([True, True, True, False])
    permits = [bool(flag and stake) for flag, stake in zip(many(flags), stakes, strict=True)]
    bonds = [row if ok else Row() for row, ok in zip(rows(st.integers(2000, U16)), permits, strict=True)]
    return EpochInputs(
        stakes=stakes,
        permits=permits,
        active=many(flags),
        voted=many(st.integers(4, 9)),
        registered=many(st.sampled_from([0, 1, 2, 3, 5, 8])),
        weights=rows(st.just(0) | st.integers(5, 60)),
        bonds=bonds,
        last_epoch_block=draw(st.sampled_from([3, 5, 9])),
    )


rules = st.builds(
    EpochRules,
    mode=st.just("classic"),
    kappa=st.sampled_from([0, 20_000, 32_767, 50_001, U16]),
    bonds_penalty=st.sampled_from([0, 30_000, U16]),
    bonds_moving_average=st.sampled_from([0, 500_000, 900_000, 1_000_000]),
    alpha_low=st.sampled_from([10_000, 45_875]),
    alpha_high=st.sampled_from([50_000, 58_982]),
    alpha_steepness=st.sampled_from([0, 1000, 4000]),
)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=100, deadline=None)
@given(subnets(), rules)
def test_an_epoch_is_what_its_definition_says(mode: Mode, inputs: EpochInputs, drawn: EpochRules) -> None:
    rules = EpochRules(**(vars(drawn) | {"mode": mode}))
    ours, theirs = run_epoch(inputs, rules), oracle(inputs, rules)
    event(f"somebody earns: {any(ours.incentive)}")
    for name in ("incentive", "dividends", "consensus", "vtrust"):
        assert np.abs(np.array(getattr(ours, name)) - np.floor(theirs[name])).max() <= 1, name
    bonds = np.zeros_like(theirs["bonds"])
    for i, row in enumerate(ours.bonds):
        for j, value in row.cells().items():
            bonds[i, j] = value
    assert np.abs(bonds - np.floor(theirs["bonds"])).max() <= 1
