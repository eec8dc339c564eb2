"""The outer step θ ← θ - α·G, bit for bit the same on every peer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.aggregate import combine
from model.layout import Layout
from model.sparse import Sparse


@dataclass(frozen=True, eq=False)
class OuterStep:
    theta: Tensor  # fp32 [P], θ of the next round
    update_norm: float  # of α·G; for reports, not part of any agreement
    clipped: int  # (contribution, tensor) pairs


def outer_step(layout: Layout, theta: Tensor, roster: Sequence[Sparse], alpha: float) -> OuterStep:
    """`theta` fp32 [P] is not changed. α is rounded to fp32; a product and a difference, each rounded, no more.

    An empty roster (a void round) returns `theta` itself.
    """
    if not roster:
        return OuterStep(theta, 0.0, 0)
    combined = combine(layout, roster)
    step = combined.update.mul_(torch.tensor(alpha, dtype=torch.float32))
    norm = float(torch.linalg.vector_norm(step, dtype=torch.float64))
    return OuterStep(torch.sub(theta, step, out=step), norm, combined.clipped)
