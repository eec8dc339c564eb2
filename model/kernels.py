"""The two loops that cost a large model its time, compiled: numba, the extra `fast`. Torch does without, same bits.

Used only where some seconds of compilation, when an engine starts, pay; nothing is written to disk. No product is
added to anything that matters, so nothing can be fused, and each operation is rounded as torch rounds it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.groups import Matrix

LEAST_PARAMETERS = 1 << 24
_STRIP_BLOCKS = 32  # side by side: what they sum up to stays in a core's own cache
_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Kernels:
    _largest: Callable[..., None]
    _step: Callable[..., float]

    def largest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `rowmax.largest`."""
        columns, found = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows))
        self._largest(rows.numpy(), columns.numpy(), found.numpy())
        return columns, found

    def step(self, group: Matrix, theta: Tensor, out: Tensor, parts: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
        """out ← theta - the sum of a roster's entries, on an unpadded group of both fp32 [P]; returns its squares.

        Parts: those of `aggregate.Entries`.
        """
        shape = group.down, group.side, group.across, group.side
        old, new = (flat[group.offset : group.offset + group.length].view(shape).numpy() for flat in (theta, out))
        return self._step(old, new, *(part.numpy() for part in parts))


def kernels_for(flat: Tensor) -> Kernels | None:
    """None where torch does it: of a small model, without numba."""
    return compiled() if len(flat) >= LEAST_PARAMETERS else None


@cache
def compiled() -> Kernels | None:
    """Takes some seconds, once a process."""
    try:
        import numba
    except ImportError:  # not installed, or at odds with this numpy: torch does it
        return None

    compile_: Any = numba.njit
    largest = "void(f4[:, ::1], i8[::1], f4[::1])"
    step = "f8(f4[:, :, :, ::1], f4[:, :, :, ::1], i2[:, :, ::1], u1[:, :, ::1], u1[:, ::1], f4[:, :, ::1])"
    return Kernels(compile_(largest, nogil=True)(_largest), compile_(step, nogil=True)(_step))


def _largest(rows: _Floats, columns: NDArray[np.int64], found: _Floats) -> None:
    """Two passes without a branch in them, so that both are vectorised; fp32 magnitudes compare as integers."""
    count, width = rows.shape
    for number in range(count):
        row, best, first = rows[number].view(np.int32), np.int32(0), np.int32(width)
        for column in range(width):
            best = max(best, row[column] & np.int32(0x7FFFFFFF))
        for column in range(width):
            equal = row[column] & np.int32(0x7FFFFFFF) == best
            first = min(first, np.int32(column) if equal else np.int32(width))
        columns[number], found[number] = first, rows[number, first]


def _step(
    old: _Floats,
    new: _Floats,
    indices: NDArray[np.int16],
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint8],
    said: _Floats,
) -> float:
    """old and new [down, side, across, side]; strip by strip of blocks, in which θ is read and written in its order."""
    down, side, across, _ = old.shape
    contributions, _, kept = indices.shape
    totals, squares = np.empty((_STRIP_BLOCKS, side * side), np.float32), np.zeros(side, np.float32)
    for strip in range(down * ((across + _STRIP_BLOCKS - 1) // _STRIP_BLOCKS)):
        top, first = strip % down, strip // down * _STRIP_BLOCKS
        blocks = min(_STRIP_BLOCKS, across - first)
        for left in range(blocks):
            block, total = top * across + first + left, totals[left]
            total[:] = 0
            for one in range(contributions):
                table = said[one, scales[one, block]]
                for entry in range(kept):
                    total[np.uint16(indices[one, block, entry])] += table[codes[one, block, entry]]
            for row in range(side):  # for reports only
                for column in range(side):
                    squares[column] += total[row * side + column] * total[row * side + column]
        for row in range(side):
            for left in range(blocks):
                for column in range(side):
                    amount = totals[left, row * side + column]
                    new[top, row, first + left, column] = old[top, row, first + left, column] - amount
    return float(squares.sum())
