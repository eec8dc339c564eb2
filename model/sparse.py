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


def band_chunks(compiled: bool, most: int = BAND_CHUNKS) -> int:
    """How many at once: the fewer, the more is done in the cache; compiled code needs no scratch, so only few calls."""
    return 4 * BAND_CHUNKS if compiled else min(most, BAND_CHUNKS)


def bands(layout: Layout, chunks: int | None = None, part: range | None = None) -> Iterator[Band]:
    """All of a layout, or of a shard of it, in order, about that many chunks each.

    `part`: the shard's chunks; of a matrix it can only have whole rows of blocks, else ValueError.
    """
    rule, part = rule_of(layout.compression), part or range(layout.chunks)
    for number, group in enumerate(layout.groups):
        first, stop = max(group.first, part.start), min(group.stop, part.stop)
        if first < stop:
            for band in group.part(first, stop).bands(chunks or BAND_CHUNKS):
                yield Band(number, rule, band, layout.present_in(band))


def joined(parts: Sequence[Sparse]) -> Sparse:
    """What was compressed by shards, which followed each other."""
    fields = ((part.scales, part.indices, part.codes) for part in parts)
    scales, indices, codes = (torch.cat(field) for field in zip(*fields, strict=True))
    return Sparse(scales, indices, codes)


def codes_of(band: Band, roster: Sequence[Sparse]) -> Tensor:
    """uint8 [chunks of the band, contributions, k]."""
    return torch.stack([sparse.codes[band.rows] for sparse in roster], dim=1)


def indices_of(band: Band, roster: Sequence[Sparse]) -> Tensor:
    """int16 [chunks of the band, contributions, k]."""
    return torch.stack([sparse.indices[band.rows] for sparse in roster], dim=1)


def values(band: Band, roster: Sequence[Sparse], factors: Tensor, codes: Tensor) -> Tensor:
    """What value `codes` uint8 [chunks of the band, contributions, any] say, times `factors` fp32 [contributions],
    rounded once: fp32, of the same shape."""
    if band.rule.per_tensor:
        scales = torch.stack([sparse.scales[band.number] for sparse in roster])
    else:
        scales = torch.stack([sparse.scales[band.rows] for sparse in roster]).T
    return band.rule.dequantise(scales, codes).mul_(factors.unsqueeze(1))


def amounts(band: Band, roster: Sequence[Sparse], factors: Tensor) -> Tensor:
    """All `values` of a band, fp32 [its chunks, contributions, k]; 0 where there is none."""
    found = values(band, roster, factors, codes_of(band, roster))
    return found if band.present is None else found.masked_fill_(~band.present.unsqueeze(1), 0.0)


def add_(chunks: Tensor, indices: Tensor, added: Tensor) -> None:
    """chunks ← chunks + `added` fp32 [m, contributions, k] at `indices` int64 of that shape; [m, chunk] in place.

    One contribution after the other, each at most one value to a coordinate: a CPU takes what belongs to a row of
    chunks in the order in which it is given, for any number of threads.
    """
    chunks.scatter_add_(1, indices.flatten(1), added.flatten(1))


def subtract_(flat: Tensor, layout: Layout, sparse: Sparse, factor: Tensor) -> None:
    """flat ← flat - factor · scatter(sparse): fp32 [P] in place, `factor` fp32 []; two rounded operations.

    Positions are unique, so their order changes nothing.
    """
    for band in bands(layout):
        places = band.group.places(sparse.indices[band.rows].int())
        chosen = slice(None) if band.present is None else band.present
        found = amounts(band, [sparse], -factor.view(1))[:, 0][chosen].view(-1)
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
