"""Fixed point as the chain has it (I32F32): a number x is the integer floor(x · 2^32) in an int64 array.

Nothing here is negative. Products are taken in two halves because 1.0 · 1.0 does not fit in 64 bits.
"""

from collections.abc import Iterator
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray

from covenantd.chain.yuma.subnet import Cells, PackedRow

Fixed = NDArray[np.int64]

FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS
U16_MAX = 65535
_HALF_BITS = 16
_CACHED_CELLS = 1 << 14  # of 8 bytes, in each of some arrays
_LN2 = 2977044472  # round(ln 2 · 2^32)
_EXP_TERMS = 15  # 0.7^15/15! is below 2^-48
_NEGLIGIBLE = 33  # halvings after which nothing is left


def scatter(row: Cells, into: NDArray[np.int64]) -> NDArray[np.int64]:
    """Write a sparse row into a dense one, leaving out uids beyond it; returns the uids written."""
    if isinstance(row, PackedRow):
        columns, values = np.frombuffer(bytes.fromhex(row.packed), dtype=">u2").astype(np.int64).reshape(2, -1)
    else:
        columns, values = np.array(row.uids, dtype=np.int64), np.array(row.values, dtype=np.int64)
    inside = (columns >= 0) & (columns < len(into))
    into[columns[inside]] = values[inside]
    return columns[inside]


def packed(columns: NDArray[np.int64], values: Fixed) -> PackedRow:
    """A sparse row of u16."""
    return PackedRow(np.concatenate([columns, values]).astype(">u2").tobytes().hex())


def multiply(a: Fixed, b: Fixed | int) -> Fixed:
    """floor(a · b). Needs a · b < 2^15 and a · 2^-16 times b to fit, which numbers up to 2^7 do."""
    shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    product = np.empty(shape, dtype=np.int64)
    wide_a, wide_b = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
    for part in _parts(shape):
        into, factor = product[part], wide_b[part]
        np.right_shift(wide_a[part], _HALF_BITS, out=into)
        into *= factor
        low = wide_a[part] & 0xFFFF
        low *= factor
        low >>= _HALF_BITS
        into += low
        into >>= _HALF_BITS
    return product


def _parts(shape: tuple[int, ...]) -> Iterator[slice | EllipsisType]:
    """Rows that the processor's cache holds with what is computed of them: many times faster than whole matrices."""
    if len(shape) < 2:
        yield ...
        return
    step = max(1, _CACHED_CELLS // max(1, shape[1]))
    for first in range(0, shape[0], step):
        yield slice(first, first + step)


def divide(a: Fixed, b: Fixed | int) -> Fixed:
    """floor(a / b) for a, b < 2^15 and a / b < 2^15; 0 where b is 0."""
    shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    quotient = np.empty(shape, dtype=np.int64)
    wide_a, wide_b = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
    for part in _parts(shape):
        divisor = np.where(wide_b[part] == 0, 1, wide_b[part])
        quotient[part] = np.where(wide_b[part] == 0, 0, _quotient(wide_a[part], divisor))
    return quotient


def _quotient(a: Fixed, divisor: Fixed) -> Fixed:
    """Integers are divided one after the other, so a float guesses: it is off by one at most, as the remainder, which
    is small whatever overflows on the way to it, tells."""
    guess: Fixed = (a / divisor * ONE).astype(np.int64)
    rest = (a << FRACTION_BITS) - guess * divisor
    guess += rest >= divisor
    guess -= rest < 0
    return guess


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
    half, result = ONE >> 1, np.empty_like(distance)
    for part in _parts(distance.shape):
        decay = _exp_of_minus(multiply(np.abs(distance[part] - half), steepness))
        result[part] = divide(np.where(distance[part] >= half, ONE, decay), ONE + decay)
    return result


def _exp_of_minus(x: Fixed) -> Fixed:
    """e^-x for x ≥ 0: halvings for the whole multiples of ln 2, a series for the rest."""
    halvings = x // _LN2
    rest = (x - halvings * _LN2).astype(np.uint64)  # below 2^31.5, so that times 1 it fits 64 bits
    series = np.full_like(rest, ONE)
    for term in range(_EXP_TERMS, 0, -1):
        series *= rest
        series >>= FRACTION_BITS
        series //= term
        np.subtract(ONE, series, out=series)
    shift: Fixed = halvings.clip(0, _NEGLIGIBLE)
    return np.right_shift(series.astype(np.int64), shift)
