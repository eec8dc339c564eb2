"""The indices of a chunk as one number: the rank of their set among all sets of that size.

The combinatorial number system: indices i_1 < i_2 < ... < i_k have the rank C(i_1, 1) + C(i_2, 2) + ... + C(i_k, k),
which is below C(chunk, k), and every number below that is the rank of exactly one set. So 64 of 4096 take 59 bytes,
whatever they are (log2 C(4096, 64) = 471.3 bits; Elias-Fano 64 bytes, a Golomb code 60 on average), the size is
fixed, and there is nothing else to check in hostile bytes.

Ranks are held as limbs of 56 bits in int64 [limbs, m], lowest first, many chunks at a time. A rank is decoded from its
largest index down: floats find an index that is right or one too high, the subtraction of limbs tells which.
"""

from functools import lru_cache
from itertools import accumulate
from math import comb

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ranks = NDArray[np.int64]
_LIMB_BYTES = 7
_LIMB_BITS = 8 * _LIMB_BYTES
_LIMB_MASK = np.int64((1 << _LIMB_BITS) - 1)
_SLACK = 1 + 2.0**-45  # above what floats can be wrong by, far below the ratio of neighbours


def rank_bytes(chunk: int, k: int) -> int:
    """Of the largest rank of at most k of chunk indices; 59 for 64 of 4096."""
    most = max(comb(chunk, count) for count in range(k + 1))
    return max(1, ((most - 1).bit_length() + 7) // 8)


@lru_cache(maxsize=4)
def _binomials(chunk: int, k: int) -> list[tuple[Ranks, NDArray[np.float64]]]:
    """For j = 1..k: C(i, j) of each i below chunk, as limbs [limbs, chunk] and in fp64. 10 MB for 64 of 4096."""
    tables, column = [], [1] * chunk  # C(i, 0)
    for j in range(1, k + 1):
        column = [0, *accumulate(column[:-1])]  # C(i, j) = C(0, j-1) + ... + C(i-1, j-1)
        limbs = max(1, -(-(comb(chunk, j) - 1).bit_length() // _LIMB_BITS))
        data = b"".join(number.to_bytes(limbs * _LIMB_BYTES, "little") for number in column)
        tables.append((_as_limbs(np.frombuffer(data, np.uint8).reshape(chunk, -1)), np.array(column, np.float64)))
    return tables


def _as_limbs(packed: Bytes) -> Ranks:
    """uint8 [m, bytes] -> int64 [limbs, m]."""
    limbs = -(-packed.shape[1] // _LIMB_BYTES)
    padded = np.zeros((len(packed), limbs * _LIMB_BYTES), np.uint8)
    padded[:, : packed.shape[1]] = packed
    wide = np.zeros((len(packed), limbs, 8), np.uint8)
    wide[:, :, :_LIMB_BYTES] = padded.reshape(-1, limbs, _LIMB_BYTES)
    return np.ascontiguousarray(wide.view("<i8")[:, :, 0].T)


def encode(indices: NDArray[np.int16], kept: NDArray[np.int64], chunk: int) -> Bytes:
    """int16 [m, k], of each row the first `kept` used and ascending -> uint8 [m, rank_bytes(chunk, k)]."""
    count, k = indices.shape
    size = rank_bytes(chunk, k)
    ranks = np.zeros((-(-size // _LIMB_BYTES), count), np.int64)
    for place, (table, _) in enumerate(_binomials(chunk, k)):
        terms = table[:, indices[:, place]]
        terms[:, kept <= place] = 0
        ranks[: len(table)] += terms  # at most 64 summands of 56 bits: carried once, at the end
    _carry(ranks)
    packed = np.ascontiguousarray(ranks.T).astype("<i8").view(np.uint8).reshape(count, -1, 8)[:, :, :_LIMB_BYTES]
    return np.ascontiguousarray(packed.reshape(count, -1)[:, :size])


def decode(packed: Bytes, kept: NDArray[np.int64], chunk: int, k: int) -> NDArray[np.int16]:
    """The inverse of `encode`: uint8 [m, rank_bytes] -> int16 [m, k], 0 beyond `kept`. Raises ValueError if a rank is
    C(chunk, kept) or more."""
    ranks = _as_limbs(packed)
    _check_ranks(ranks, kept, chunk)
    indices = np.zeros((len(packed), k), np.int16)
    tables = _binomials(chunk, k)
    for place in reversed(range(k)):
        rows = np.flatnonzero(kept > place)
        if len(rows) == len(packed):
            found, ranks = _largest(ranks, *tables[place])
            indices[:, place] = found
        elif len(rows):
            found, rest = _largest(ranks[:, rows], *tables[place])
            indices[rows, place] = found
            ranks[:, rows] = 0
            ranks[: len(rest), rows] = rest
    return indices


def _check_ranks(ranks: Ranks, kept: NDArray[np.int64], chunk: int) -> None:
    size = len(ranks) * _LIMB_BYTES
    for count in np.unique(kept).tolist():
        end = comb(chunk, count)
        if end.bit_length() <= 8 * size:
            limit = _as_limbs(np.frombuffer(end.to_bytes(size, "little"), np.uint8).reshape(1, -1))
            if not (_carry(ranks[:, kept == count] - limit) < 0).all():
                raise ValueError("a rank beyond the last set of indices")


def _largest(ranks: Ranks, table: Ranks, floats: NDArray[np.float64]) -> tuple[NDArray[np.int64], Ranks]:
    """The largest i of each with C(i, j) <= rank, and the rank less that; ranks are below 2^56 to the table's limbs."""
    limbs = len(table)
    ranks = ranks[:limbs]
    approximate = ranks[-1].astype(np.float64)
    for limb in reversed(ranks[:-1]):
        approximate = approximate * 2.0**_LIMB_BITS + limb
    found = np.searchsorted(floats, approximate * _SLACK, side="right") - 1
    rest = ranks - table[:, found]
    wrong = np.flatnonzero(_carry(rest) < 0)
    while len(wrong):
        found[wrong] -= 1
        again = ranks[:, wrong] - table[:, found[wrong]]
        negative = _carry(again) < 0
        rest[:, wrong] = again
        wrong = wrong[negative]
    return found, rest


def _carry(limbs: Ranks) -> NDArray[np.int64]:
    """Bring all limbs but for the sign into 56 bits, in place; returns what is carried out: negative for a negative."""
    carry = np.zeros(limbs.shape[1], np.int64)
    for limb in limbs:
        limb += carry
        np.right_shift(limb, _LIMB_BITS, out=carry)
        limb &= _LIMB_MASK
    return carry
