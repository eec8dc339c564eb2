"""Rates as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covenantd.rates import parse_rate, rate_text

GOOD = {"5MB": 5e6, "500kB": 5e5, "40Mbit": 5e6, "40 mbps": 5e6, "1.5 GB/s": 1.5e9, "8000bit/s": 1000, "none": None}


@pytest.mark.parametrize("text", GOOD)
def test_what_is_understood(text: str) -> None:
    assert parse_rate(text) == GOOD[text]


@pytest.mark.parametrize("text", ["", "5", "5M", "MB", "-5MB", "1e6B", "999B", "0MB", "inf", "5MiB", "5MB/h", "٥MB"])
def test_what_is_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|slow"):
        parse_rate(text)


@given(st.text(max_size=40))
def test_any_text_is_a_rate_or_refused(text: str) -> None:
    try:
        rate = parse_rate(text)
    except ValueError:
        return
    assert rate is None or rate >= 1000


@given(st.floats(1000, 1e15))
def test_what_is_shown_is_short(rate: float) -> None:
    assert "e+" not in rate_text(rate) and len(rate_text(rate)) < 30
