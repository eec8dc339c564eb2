"""A compressed pseudo-gradient in memory, and its way into flat vectors."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum, sqrt

import torch
from torch import Tensor

from model import quantize, templar
from model.groups import Group
from model.layout import Layout

BAND_CHUNKS = 256  # how many are worked on at once: bounds scratch memory, changes no bit


@dataclass(frozen=True, eq=False)
class Sparse:
    """What a contribution says; places of entries that a chunk does not have are 0 and mean nothing."""

    scales: Tensor  # uint8 [chunks] scale codes; of the codec `templar` fp32 [groups, 4], a tensor's levels
    indices: Tensor  # int16 [chunks, k], ascending in each chunk
    codes: Tensor  # uint8 [chunks, k]


@dataclass(frozen=True)
class Band:
    """Some chunks of a group: what of it is worked on at once."""

    number: int  # of the whole group in the layout
    group: Group
    present: Tensor | None  # bool [chunks of the band, k]; None: all

    @property
    def rows(self) -> slice:
        return slice(self.group.first, self.group.stop)


def bands(layout: Layout) -> Iterator[Band]:
    """All of a layout, in order."""
    for number, group in enumerate(layout.groups):
        for band in group.bands(BAND_CHUNKS):
            yield Band(number, band, layout.present_in(band))


def values(band: Band, sparse: Sparse, factor: Tensor | None = None) -> Tensor:
    """fp32 [chunks of the band, k], times fp32 [] if given, rounded; 0 where absent."""
    codes = sparse.codes[band.rows]
    if sparse.scales.dim() == 1:
        found = quantize.dequantize(sparse.scales[band.rows], codes, factor)
    else:
        levels = sparse.scales[band.number]
        levels = levels if factor is None else levels * factor
        found = torch.index_select(levels, 0, codes.reshape(-1).int()).view(codes.shape)
    return found if band.present is None else found.masked_fill_(~band.present, 0.0)


def add_(chunks: Tensor, band: Band, sparse: Sparse, factor: Tensor | None = None) -> None:
    """chunks ← chunks + `values` at their indices: fp32 [chunks of the band, chunk] in place, no -0 in it.

    Each coordinate gets at most one value; that absent entries add 0 to index 0 is not seen.
    """
    chunks.scatter_add_(1, sparse.indices[band.rows].long(), values(band, sparse, factor))


def subtract_(flat: Tensor, layout: Layout, sparse: Sparse, factor: Tensor) -> None:
    """flat ← flat - factor · scatter(sparse): fp32 [P] in place, `factor` fp32 []; two rounded operations.

    Positions are unique, so their order changes nothing.
    """
    for band in bands(layout):
        places = band.group.places(sparse.indices[band.rows].int())
        chosen = slice(None) if band.present is None else band.present
        found = values(band, sparse, -factor)[chosen].view(-1)
        flat.scatter_add_(0, band.group.in_theta(places[chosen].view(-1)), found)


def dense(layout: Layout, sparse: Sparse) -> Tensor:
    """fp32 [P]: 0 where nothing was kept."""
    flat = torch.zeros(layout.parameters, dtype=torch.float32)
    subtract_(flat, layout, sparse, torch.tensor(-1.0))
    return flat


def norm(layout: Layout, number: int, sparse: Sparse) -> float:
    """The L2 norm of a group's values; see `quantize.norm`."""
    group = layout.groups[number]
    rows = slice(group.first, group.stop)
    if sparse.scales.dim() == 1:
        return quantize.norm(sparse.scales[rows], sparse.codes[rows], layout.kept[rows])
    return templar.norm(sparse.scales[number], sparse.codes[rows], layout.present_in(group))


def total_norm(layout: Layout, sparse: Sparse) -> float:
    """The L2 norm of all values, the same bits everywhere."""
    return sqrt(fsum(norm(layout, number, sparse) ** 2 for number in range(len(layout.groups))))
