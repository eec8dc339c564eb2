"""The outer step θ ← θ - α·G, bit for bit the same on every peer."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from model.aggregate import clipping, combine
from model.layout import Layout
from model.pulse import Beat, no_beat
from model.sparse import Sparse


@dataclass(frozen=True, eq=False)
class OuterStep:
    theta: Tensor  # fp32 [P], θ of the next round
    update_norm: float  # of α·G; for reports, not part of any agreement
    clipped: int  # (contribution, tensor) pairs


def outer_step(
    layout: Layout,
    theta: Tensor,
    roster: Sequence[Sparse],
    alpha: float,
    weights: Sequence[float] | None = None,
    out: Tensor | None = None,
    beat: Beat = no_beat,
) -> OuterStep:
    """`theta` fp32 [P] is not changed unless it is `out`, too, which then is the new θ. α is rounded to fp32; a
    product and a difference, each rounded, no more. `weights`: see `aggregate.combine`.

    An empty roster (a void round) returns `theta` itself.
    """
    if not roster:
        return OuterStep(theta, 0.0, 0)
    out = torch.empty_like(theta) if out is None else out
    rate, squares = torch.tensor(alpha, dtype=torch.float32), 0.0
    clips = clipping(layout, roster)
    for band, update in combine(layout, roster, clips, weights):
        squares += float(torch.linalg.vector_norm(update.mul_(rate), dim=1).double().square().sum())
        band.group.subtract_chunks(theta, update, out)
        beat()
    clipped = sum(clip is not None for of_group in clips for clip in of_group)
    return OuterStep(out, sqrt(squares), clipped)
