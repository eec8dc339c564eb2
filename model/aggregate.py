"""G: the mean of the roster's contributions, each clipped per tensor to the roster's median norm.

arXiv 2603.08163: divide by the roster's size, not by how many sent a coordinate. Every peer must get the same bits,
so norms come from integer counts (`quantize.norm`), factors are computed in fp64 and rounded once to fp32, and G is
summed in fp32 in roster order, each operation separately rounded. Each position takes part in at most one addition
a contribution: threads and batches cannot reorder anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model import sparse as sparse_module
from model.layout import Layout
from model.sparse import Sparse, entries


@dataclass(frozen=True, eq=False)
class Combined:
    """G fp32 [P], and how many (contribution, tensor) pairs were clipped."""

    update: Tensor
    clipped: int


def combine(layout: Layout, roster: Sequence[Sparse]) -> Combined:
    """In the order given. Raises ValueError on an empty roster."""
    if not roster:
        raise ValueError("a void round has no update")
    update = torch.zeros(layout.parameters, dtype=torch.float32)
    clipped = 0
    for group in layout.groups:
        factors = clip_factors([sparse_module.norm(layout, group, sparse) for sparse in roster])
        clipped += sum(factor is not None for factor in factors)
        for sparse, factor in zip(roster, factors, strict=True):
            positions, values = entries(layout, group, sparse)
            if factor is not None:
                values = values * torch.tensor(factor, dtype=torch.float32)
            update[positions] = update[positions] + values
    return Combined(update / torch.tensor(len(roster), dtype=torch.float32), clipped)


def clip_factors(norms: Sequence[float]) -> list[float | None]:
    """For each contribution what its tensor is multiplied by, None if it is within the median.

    The median is that of the norms above zero, the lower one of two: who sends nothing of a tensor has no say in it.
    """
    sent = sorted(norm for norm in norms if norm > 0)
    if not sent:
        return [None] * len(norms)
    median = sent[(len(sent) - 1) // 2]
    return [median / norm if norm > median else None for norm in norms]
