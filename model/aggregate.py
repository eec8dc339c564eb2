"""G: the mean of the roster's contributions, each clipped per tensor to the roster's median norm.

arXiv 2603.08163 divides by the roster's size, "roster"; Templar's code by how many sent a coordinate, "senders". A
contribution may have a weight w (all 1 unless given): then the mean is Σ w·v / Σ w. Every peer must get the same bits,
so norms come from integer counts (`sparse.norm`), factors are computed in fp64 and rounded once to fp32, and sums are
made in fp32 in roster order, each operation separately rounded. Each coordinate takes part in at most one addition a
contribution, and a band of chunks is summed up before the next is begun: neither threads nor sharding reorder
anything, and all that is held beside the contributions is a band.
"""

from collections.abc import Iterator, Sequence
from math import isfinite

import torch
from torch import Tensor

from model import sparse as sparse_module
from model.layout import Layout
from model.rules import combination_of
from model.sparse import Band, Sparse, add_, bands

Factors = list[list[float | None]]
"""By group and contribution: what is multiplied with, None for 1."""


def clipping(layout: Layout, roster: Sequence[Sparse]) -> Factors:
    """Which tensors of which contributions are above the roster's median norm, and by what to multiply them."""
    norms = [[sparse_module.norm(layout, n, sparse) for sparse in roster] for n in range(len(layout.groups))]
    return [clip_factors(of_group) for of_group in norms]


def clip_factors(norms: Sequence[float]) -> list[float | None]:
    """For each contribution what its tensor is multiplied by, None if it is within the median.

    The median is that of the norms above zero, the lower one of two: who sends nothing of a tensor has no say in it.
    """
    sent = sorted(norm for norm in norms if norm > 0)
    if not sent:
        return [None] * len(norms)
    median = sent[(len(sent) - 1) // 2]
    return [median / norm if norm > median else None for norm in norms]


def combine(
    layout: Layout, roster: Sequence[Sparse], clips: Factors, weights: Sequence[float] | None = None
) -> Iterator[tuple[Band, Tensor]]:
    """G by bands, each fp32 [its chunks, chunk], to be used, or used up, before the next is asked for.

    Raises ValueError on an empty roster, or weights that are not as many, positive and finite.
    """
    weights = [1.0] * len(roster) if weights is None else weights
    if not roster:
        raise ValueError("a void round has no update")
    if len(weights) != len(roster) or not all(isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError("each contribution needs a weight that is positive and finite")
    divide = _by_senders if combination_of(layout.compression) == "senders" else _by_roster
    buffer = torch.empty(0)
    for band in bands(layout):
        shape = band.group.stop - band.group.first, layout.chunk
        total = buffer.resize_(shape).zero_()  # kept: fresh pages for each band would cost more than the sums
        add_(total, band, roster, _factors(clips[band.number], weights))
        yield band, divide(total, band, roster, weights)


def _factors(clips: Sequence[float | None], weights: Sequence[float]) -> Tensor | None:
    """fp32 [contributions]; None if all are 1."""
    factors = [(1.0 if clip is None else clip) * weight for clip, weight in zip(clips, weights, strict=True)]
    return None if all(factor == 1.0 for factor in factors) else torch.tensor(factors, dtype=torch.float32)


def _by_roster(total: Tensor, _: Band, roster: Sequence[Sparse], weights: Sequence[float]) -> Tensor:
    divisor = torch.zeros((), dtype=torch.float32)
    for weight in weights:
        divisor = divisor + torch.tensor(weight, dtype=torch.float32)
    return total.div_(divisor)


def _by_senders(total: Tensor, band: Band, roster: Sequence[Sparse], weights: Sequence[float]) -> Tensor:
    """A coordinate that nobody sent stays 0; who sends a chunk with scale 0 sends nothing of it."""
    divisor = torch.zeros_like(total)
    for sparse, weight in zip(roster, weights, strict=True):
        indices = sparse.indices[band.rows].long()
        share = torch.full(indices.shape, weight, dtype=torch.float32)
        if not band.rule.per_tensor:
            share.masked_fill_((sparse.scales[band.rows] == 0).unsqueeze(1), 0.0)
        if band.present is not None:
            share.masked_fill_(~band.present, 0.0)
        divisor.scatter_add_(1, indices, share)
    divisor[divisor == 0] = 1.0
    return total.div_(divisor)
