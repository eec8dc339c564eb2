"""A compressed pseudo-gradient in memory, and its way from and into flat vectors."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model import quantize, topk
from model.layout import Group, Layout, all_positions

_SPAN_CHUNKS = 1024  # how many are compressed at once: bounds scratch memory, changes no bit


@dataclass(frozen=True, eq=False)
class Sparse:
    """What a contribution says; places beyond a chunk's kept entries are 0 and mean nothing."""

    scales: Tensor  # uint8 [chunks]
    indices: Tensor  # int16 [chunks, k], ascending in each chunk
    codes: Tensor  # uint8 [chunks, k]


def compress(layout: Layout, flat: Tensor) -> Sparse:
    """Select and quantise a finite fp32 [P]; the same bits for any thread count."""
    parts = [part for group in layout.groups for part in _compress_group(layout, group, flat)]
    return Sparse(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _compress_group(layout: Layout, group: Group, flat: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    chunks = group.chunks_of(flat)
    valid = all_positions(group, layout.chunk) >= 0 if group.padded else None
    kept = layout.kept[group.first : group.stop]
    for start in range(0, len(chunks), _SPAN_CHUNKS):
        span = slice(start, start + _SPAN_CHUNKS)
        indices = topk.select(chunks[span], None if valid is None else valid[span], kept[span], layout.k)
        present = torch.arange(layout.k) < kept[span].unsqueeze(1)
        scales, codes = quantize.quantize(chunks[span].gather(1, indices.long()), present)
        yield scales, indices, codes


def entries(layout: Layout, group: Group, sparse: Sparse) -> tuple[Tensor, Tensor]:
    """One group's kept values: positions in θ int64 [n], each at most once, and values fp32 [n]."""
    rows = slice(group.first, group.stop)
    present = torch.arange(layout.k) < layout.kept[rows].unsqueeze(1)
    positions = group.positions(sparse.indices[rows].long())
    values = quantize.dequantize(sparse.scales[rows], sparse.codes[rows])
    return positions[present], values[present]


def subtract_(flat: Tensor, layout: Layout, sparse: Sparse, factor: Tensor) -> None:
    """flat ← flat - factor · scatter(sparse): fp32 [P] in place, `factor` fp32 []; two rounded operations.

    Positions are unique, so reading and writing them by index cannot race.
    """
    for group in layout.groups:
        positions, values = entries(layout, group, sparse)
        flat[positions] = flat[positions] - values * factor


def norm(layout: Layout, group: Group, sparse: Sparse) -> float:
    """The L2 norm of one group's values; see `quantize.norm`."""
    rows = slice(group.first, group.stop)
    present = torch.arange(layout.k) < layout.kept[rows].unsqueeze(1)
    return quantize.norm(sparse.scales[rows], sparse.codes[rows], present)
