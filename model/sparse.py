"""A compressed pseudo-gradient in memory, and its way into flat vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum, sqrt

import torch
from torch import Tensor

from model.groups import Group
from model.layout import Layout
from model.rules import Rule, rule_of

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
    rule: Rule
    group: Group
    present: Tensor | None  # bool [chunks of the band, k]; None: all

    @property
    def rows(self) -> slice:
        return slice(self.group.first, self.group.stop)


def bands(layout: Layout) -> Iterator[Band]:
    """All of a layout, in order."""
    rule = rule_of(layout.compression)
    for number, group in enumerate(layout.groups):
        for band in group.bands(BAND_CHUNKS):
            yield Band(number, rule, band, layout.present_in(band))


def values(band: Band, roster: Sequence[Sparse], factors: Tensor | None = None) -> Tensor:
    """fp32 [contributions, chunks of the band, k], 0 where absent, times `factors` fp32 [contributions], rounded."""
    codes = torch.cat([sparse.codes[band.rows] for sparse in roster])
    scales = [sparse.scales[band.number if band.rule.per_tensor else band.rows] for sparse in roster]
    found = band.rule.dequantise(torch.stack(scales).flatten(), codes)
    found = found.view(len(roster), -1, codes.shape[1])
    if factors is not None:
        found *= factors.view(-1, 1, 1)
    return found if band.present is None else found.masked_fill_(~band.present, 0.0)


def add_(chunks: Tensor, band: Band, roster: Sequence[Sparse], factors: Tensor | None = None) -> None:
    """chunks ← chunks + `values` at their indices: fp32 [chunks of the band, chunk] in place, no -0 in it.

    One contribution after the other. Each adds at most one value to a coordinate; that absent entries add 0 to index
    0 is not seen.
    """
    indices = torch.stack([sparse.indices[band.rows] for sparse in roster]).long()
    for where, what in zip(indices, values(band, roster, factors), strict=True):
        chunks.scatter_add_(1, where, what)


def subtract_(flat: Tensor, layout: Layout, sparse: Sparse, factor: Tensor) -> None:
    """flat ← flat - factor · scatter(sparse): fp32 [P] in place, `factor` fp32 []; two rounded operations.

    Positions are unique, so their order changes nothing.
    """
    for band in bands(layout):
        places = band.group.places(sparse.indices[band.rows].int())
        chosen = slice(None) if band.present is None else band.present
        found = values(band, [sparse], -factor)[0][chosen].view(-1)
        flat.scatter_add_(0, band.group.in_theta(places[chosen].view(-1)), found)


def dense(layout: Layout, sparse: Sparse) -> Tensor:
    """fp32 [P]: 0 where nothing was kept."""
    flat = torch.zeros(layout.parameters, dtype=torch.float32)
    subtract_(flat, layout, sparse, torch.tensor(-1.0))
    return flat


def norm(layout: Layout, number: int, sparse: Sparse) -> float:
    """The L2 norm of a group's values; see `quantize.norm`."""
    group, rule = layout.groups[number], rule_of(layout.compression)
    rows = slice(group.first, group.stop)
    scales = sparse.scales[number if rule.per_tensor else rows]
    return rule.norm(scales, sparse.codes[rows], layout.kept[rows])


def total_norm(layout: Layout, sparse: Sparse) -> float:
    """The L2 norm of all values, the same bits everywhere."""
    return sqrt(fsum(norm(layout, number, sparse) ** 2 for number in range(len(layout.groups))))
