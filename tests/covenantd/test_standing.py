"""Scores as pure functions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covenantd.gauntlet.standing import Standing, absent, gain, miss, observe, unfit, weights

GAINS = st.floats(-1, 1)


def test_a_gain_is_the_relative_fall_of_the_loss() -> None:
    assert gain(4.0, 3.0) == 0.25
    assert gain(4.0, 5.0) == -0.25
    assert gain(4.0, 400.0) == -1.0


def test_nothing_is_worse_than_a_loss_that_is_not_a_number() -> None:
    assert gain(4.0, math.nan) == gain(4.0, math.inf) == gain(math.nan, 1.0) == -1.0


def test_an_average_forgets_at_the_rate_of_its_decay() -> None:
    first = observe({}, {"a": 0.5}, 0.6)
    second = observe(first, {"a": 0.0}, 0.6)
    assert second == {"a": Standing(0.3, 2)}
    assert observe(second, {}, 0.6) == second


def test_missing_never_helps_and_never_helps_who_was_bad() -> None:
    good, bad = Standing(0.5, 3), Standing(-0.5, 3)
    after = miss({"good": good, "bad": bad}, ["good", "bad", "stranger"], 0.5)
    assert after == {"good": Standing(0.25, 4), "bad": Standing(-0.5, 4)}


@given(st.dictionaries(st.text(max_size=3), GAINS, max_size=8))
def test_weights_are_shares_of_what_is_positive(gains: dict[str, float]) -> None:
    shares = weights(observe({}, gains, 0.5))
    assert set(shares) <= {h for h, g in gains.items() if g > 0}
    assert all(share >= 0 for share in shares.values())
    assert not shares or abs(sum(shares.values()) - 1) < 1e-9


def test_who_harms_or_does_nothing_is_left_out_and_newcomers_are_not() -> None:
    standings = {
        "honest": Standing(0.03, 5),
        "modest": Standing(0.01, 5),
        "noise": Standing(1e-5, 5),
        "vandal": Standing(-0.2, 1),
        "new": Standing(0.02, 1),
    }
    assert unfit(standings, -1e-3, 0.1) == {"vandal": "harmful", "noise": "useless"}
    assert unfit({**standings, "noise": Standing(1e-5, 1)}, -1e-3, 0.1) == {"vandal": "harmful"}


def test_when_nobody_gains_nobody_is_called_useless() -> None:
    assert unfit({"a": Standing(0.0, 9), "b": Standing(-1e-4, 9), "c": Standing(-1e-4, 9)}, -1e-3, 0.1) == {}
    assert unfit({}, -1e-3, 0.1) == {}


def test_who_is_away_fades_but_never_gets_better() -> None:
    after = absent({"good": Standing(0.4, 3), "bad": Standing(-0.4, 3)}, ["good", "bad", "stranger"], 0.5)
    assert after == {"good": Standing(0.2, 3, 1), "bad": Standing(-0.4, 3, 1)}
    assert observe(after, {"good": 0.4}, 0.5)["good"] == Standing(pytest.approx(0.3), 4)


def test_who_is_away_does_not_move_the_median() -> None:
    present = {name: Standing(gain, 5) for name, gain in (("a", 0.10), ("b", 0.12), ("c", 0.005))}
    gone = {f"gone{i}": Standing(1e-4, 5, absent=i) for i in range(1, 5)}
    assert "c" in unfit(present, -1e-3, 0.1)
    assert "c" in unfit(present | gone, -1e-3, 0.1)
