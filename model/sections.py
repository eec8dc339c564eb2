"""The parts of a contribution's body. A codec is three of them: scales, indices, value codes.

Each says how many bytes it takes under a layout, writes them, and reads what a stranger wrote; lengths follow from
the layout alone. `read` raises ValueError for bytes that `write` would not make, except for what concerns several
sections; that, `contribution.decode_body` checks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import combinadic, indexcodec
from model.layout import Layout
from model.quantize import LARGEST_SCALE_CODE, LARGEST_VALUE
from model.templar import LEVELS

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Section:
    """How one tensor of a `Sparse` becomes bytes and comes back."""

    size: Callable[[Layout], int]
    write: Callable[[Layout, Tensor], Bytes]
    read: Callable[[Layout, Bytes], Tensor]


def _read_scales(layout: Layout, data: Bytes) -> Tensor:
    if data.max() > LARGEST_SCALE_CODE:
        raise ValueError("reserved scale code")
    return torch.from_numpy(data.copy())


SCALES = Section(lambda layout: layout.chunks, lambda _, scales: scales.numpy(), _read_scales)
"""A scale code a chunk, uint8 [chunks]."""


def _write_levels(_: Layout, levels: Tensor) -> Bytes:
    return np.ascontiguousarray(levels.numpy().astype("<f4")).view(np.uint8).reshape(-1)


def _read_levels(layout: Layout, data: Bytes) -> Tensor:
    levels = np.frombuffer(data.tobytes(), "<f4").astype(np.float32)
    if not (np.abs(levels) <= LARGEST_VALUE).all():
        raise ValueError(f"a level is not finite, or beyond ±{LARGEST_VALUE}")
    return torch.from_numpy(levels).view(len(layout.groups), LEVELS)


LEVELS_OF_TENSORS = Section(lambda layout: 4 * LEVELS * len(layout.groups), _write_levels, _read_levels)
"""Four levels a group, fp32 [groups, 4], within ±32."""


def _used(layout: Layout, values: Tensor) -> NDArray[np.generic]:
    used: NDArray[np.generic] = values[layout.present].numpy()
    return used


def _rectangle(layout: Layout, values: NDArray[np.generic]) -> Tensor:
    flat = torch.from_numpy(values)
    rectangle = torch.zeros(layout.chunks, layout.k, dtype=flat.dtype)
    rectangle[layout.present] = flat
    return rectangle


INDICES_12 = Section(
    lambda layout: indexcodec.packed12_bytes(layout.entries),
    lambda layout, indices: indexcodec.pack12(_used(layout, indices).astype(np.uint16)),
    lambda layout, data: _rectangle(layout, indexcodec.unpack12(data, layout.entries).astype(np.int16)),
)
"""12 bits an entry, int16 [chunks, k]."""

CODES_2 = Section(
    lambda layout: indexcodec.packed2_bytes(layout.entries),
    lambda layout, codes: indexcodec.pack2(_used(layout, codes).astype(np.uint8)),
    lambda layout, data: _rectangle(layout, indexcodec.unpack2(data, layout.entries)),
)
"""2 bits an entry, uint8 [chunks, k]."""


def _read_ranks(layout: Layout, data: Bytes) -> Tensor:
    packed = data.reshape(layout.chunks, -1)
    spans = (slice(start, start + _SPAN_CHUNKS) for start in range(0, layout.chunks, _SPAN_CHUNKS))
    parts = [combinadic.decode(packed[span], layout.kept[span].numpy(), layout.chunk, layout.k) for span in spans]
    return torch.from_numpy(np.concatenate(parts))


def _write_ranks(layout: Layout, indices: Tensor) -> Bytes:
    spans = (slice(start, start + _SPAN_CHUNKS) for start in range(0, layout.chunks, _SPAN_CHUNKS))
    parts = [combinadic.encode(indices[span].numpy(), layout.kept[span].numpy(), layout.chunk) for span in spans]
    return np.concatenate(parts).reshape(-1)


_SPAN_CHUNKS = 2048  # at once: bounds scratch memory

RANKS = Section(lambda layout: layout.chunks * combinadic.rank_bytes(layout.chunk, layout.k), _write_ranks, _read_ranks)
"""All indices of a chunk as one number; see `combinadic`. int16 [chunks, k]."""


def _row(layout: Layout) -> int:
    return layout.chunk // layout.k


def _column_bits(layout: Layout) -> int:
    return _row(layout).bit_length() - 1


def _write_columns(layout: Layout, indices: Tensor) -> Bytes:
    columns = indices.numpy().astype(np.uint16).reshape(-1) & np.uint16(_row(layout) - 1)
    return indexcodec.pack(columns.astype(np.uint8), _column_bits(layout))


def _read_columns(layout: Layout, data: Bytes) -> Tensor:
    count = layout.chunks * layout.k
    columns = torch.from_numpy(indexcodec.unpack(data, count, _column_bits(layout))).view(layout.chunks, layout.k)
    indices = columns + torch.arange(0, layout.chunk, _row(layout), dtype=torch.int16)
    _clear_absent(layout, columns, indices)
    return indices


COLUMNS = Section(
    lambda layout: indexcodec.packed_bytes(layout.chunks * layout.k, _column_bits(layout)),
    _write_columns,
    _read_columns,
)
"""log2(chunk / k) bits a row, absent ones included as 0: random access. int16 [chunks, k]."""


def _read_signs(layout: Layout, data: Bytes) -> Tensor:
    signs = torch.from_numpy(indexcodec.unpack(data, layout.chunks * layout.k, 1)).view(layout.chunks, layout.k)
    _clear_absent(layout, signs, signs)
    return signs << 1


def _clear_absent(layout: Layout, read: Tensor, cleared: Tensor) -> None:
    """Zero `cleared` where rows are absent; raises ValueError unless what was `read` there is zero already."""
    for group in layout.groups:
        present = layout.present_in(group)
        if present is not None:
            span = slice(group.first, group.stop)
            if (read[span] > present * 255).any():
                raise ValueError(f"bits of absent rows of {group.name} are set")
            cleared[span].masked_fill_(~present, 0)


SIGNS = Section(
    lambda layout: indexcodec.packed_bytes(layout.chunks * layout.k, 1),
    lambda _, codes: indexcodec.pack((codes >> 1).view(-1).numpy(), 1),
    _read_signs,
)
"""A bit a row, absent ones included as 0. uint8 [chunks, k], 0 or 2."""
