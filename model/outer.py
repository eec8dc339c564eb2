"""The outer step θ ← θ - α·G, bit for bit the same on every peer."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from model import sparse as sparse_module
from model.aggregate import SUMMED_CHUNKS, clipping, combination
from model.groups import Matrix
from model.kernels import kernels_for
from model.layout import Layout
from model.pulse import Beat, no_beat
from model.sparse import Sparse, bands


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
    part: range | None = None,
) -> OuterStep:
    """`theta` fp32 [P] is not changed unless it is `out`, too, which then is the new θ. α is rounded to fp32; for
    `weights` and what is rounded see `aggregate`. Raises ValueError, θ untouched, for what could make it not finite.

    An empty roster (a void round) returns `theta` itself. `part`: only these chunks take the step, see `sparse.bands`;
    the rest of `out` is as it was, and so is the norm that of the part. The roster is whole: so are norms and clipping.
    """
    if not roster:
        return OuterStep(theta, 0.0, 0)
    clips = clipping(layout, roster)
    combined = combination(layout, roster, clips, alpha, weights)
    out = theta.clone() if out is None else out
    kernels = None if combined.by_senders else kernels_for(theta)
    chunks = sparse_module.band_chunks(kernels is not None, SUMMED_CHUNKS)
    squares, buffer = 0.0, torch.empty(0)  # kept: fresh pages for each band would cost more
    for band in bands(layout, chunks, part):
        if kernels and isinstance(band.group, Matrix) and not band.group.padded:
            squares += kernels.step(band.group, theta, out, combined.entries(band).parts)
        else:
            total = buffer.resize_(band.group.stop - band.group.first, layout.chunk)
            combined.sum_up(band, total)
            squares += float(torch.linalg.vector_norm(total, dim=1).double().square().sum())
            band.group.subtract_chunks(theta, total, out)
        beat()
    clipped = sum(clip is not None for of_group in clips for clip in of_group)
    return OuterStep(out, sqrt(squares), clipped)
