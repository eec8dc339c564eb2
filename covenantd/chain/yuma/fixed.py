"""Fixed point as the chain has it (I32F32): a number x is the integer floor(x · 2^32) in an int64 array.

Nothing here is negative. Products are taken in two halves because 1.0 · 1.0 does not fit in 64 bits.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Fixed = NDArray[np.int64]

FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS
U16_MAX = 65535
_HALF_BITS = 16
_LN2 = 2977044472  # round(ln 2 · 2^32)
_EXP_TERMS = 15  # 0.7^15/15! is below 2^-48
_NEGLIGIBLE = 33  # halvings after which nothing is left


def scatter(uids: Sequence[int], values: Sequence[int], into: NDArray[np.int64]) -> NDArray[np.int64]:
    """Write a sparse row into a dense one, leaving out uids beyond it; returns the uids written."""
    columns, cells = np.array(uids, dtype=np.int64), np.array(values, dtype=np.int64)
    inside = (columns >= 0) & (columns < len(into))
    into[columns[inside]] = cells[inside]
    return columns[inside]


def multiply(a: Fixed, b: Fixed | int) -> Fixed:
    """floor(a · b). Needs a · b < 2^15 and a · 2^-16 times b to fit, which numbers up to 2^7 do."""
    high, low = a >> _HALF_BITS, a & 0xFFFF
    return (high * b + ((low * b) >> _HALF_BITS)) >> _HALF_BITS


def divide(a: Fixed, b: Fixed | int) -> Fixed:
    """floor(a / b) for a, b < 2^15; 0 where b is 0."""
    divisor = np.asarray(b, dtype=np.int64)
    safe = np.where(divisor == 0, 1, divisor)
    high, rest = np.divmod(a << _HALF_BITS, safe)
    return np.where(divisor == 0, 0, (high << _HALF_BITS) + (rest << _HALF_BITS) // safe)


def normalized(values: Fixed, axis: int | None = None) -> Fixed:
    """Scale to sum 1 (along an axis: each line of it); what sums to 0 stays 0."""
    total: Fixed = values.sum(axis=axis, keepdims=axis is not None)
    return divide(values, total)


def from_u16(value: int) -> int:
    """A share as the chain stores it: 65535 is 1."""
    return value * ONE // U16_MAX


def to_u16(values: Fixed) -> Fixed:
    """As the chain stores a share: floor(x · 65535), at most 65535."""
    units: Fixed = (values * U16_MAX) >> FRACTION_BITS
    return units.clip(0, U16_MAX)


def sigmoid(distance: Fixed, steepness: int) -> Fixed:
    """1 / (1 + e^(-steepness · (distance - 1/2))) for a distance in [0, 1] and a steepness below 64 (fixed)."""
    half = ONE >> 1
    decay = _exp_of_minus(multiply(np.abs(distance - half), steepness))
    return divide(np.where(distance >= half, ONE, decay), ONE + decay)


def _exp_of_minus(x: Fixed) -> Fixed:
    """e^-x for x ≥ 0: halvings for the whole multiples of ln 2, a series for the rest."""
    halvings, rest = np.divmod(x, _LN2)
    series = np.full_like(rest, ONE)
    for term in range(_EXP_TERMS, 0, -1):
        series = ONE - multiply(rest, series) // term
    shift: Fixed = halvings.clip(0, _NEGLIGIBLE)
    return np.right_shift(series, shift)
