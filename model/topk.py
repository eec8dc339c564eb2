"""Which values of a chunk are sent: the k largest in magnitude (SparseLoCo, arXiv 2508.15706)."""

import torch
from torch import Tensor


def select(chunks: Tensor, valid: Tensor | None, kept: Tensor, k: int) -> Tensor:
    """The `kept` largest |values| of each chunk, ties to the lowest index, indices ascending.

    chunks fp32 [m, chunk], finite; valid bool [m, chunk], None if all are; kept int64 [m] = min(k, valid
    positions of the chunk). Returns int16 [m, k]; places from `kept` on are 0. `torch.topk` leaves ties open, so
    where the k-th equals the next, only its threshold is used, which ties cannot change.
    """
    magnitudes = chunks.abs()
    if valid is not None:
        magnitudes[~valid] = -1.0
    top = magnitudes.topk(min(k + 1, chunks.shape[1]), dim=1)
    indices = top.indices[:, :k].sort(dim=1).values.to(torch.int16)
    tied = top.values[:, k - 1] == top.values[:, -1]  # true of every row where k is the whole chunk
    open_rows = (tied | (kept < k)).nonzero().squeeze(1)
    if len(open_rows):
        threshold = top.values[open_rows].gather(1, (kept[open_rows] - 1).unsqueeze(1))
        chosen = _lowest_of_ties(magnitudes[open_rows], threshold, kept[open_rows])
        indices[open_rows] = _as_indices(chosen, kept[open_rows], k)
    return indices


def _as_indices(chosen: Tensor, kept: Tensor, k: int) -> Tensor:
    indices = torch.zeros(len(chosen), k, dtype=torch.int16)
    present = torch.arange(k) < kept.unsqueeze(1)
    indices[present] = chosen.nonzero()[:, 1].to(torch.int16)  # row-major: ascending in each chunk
    return indices


def _lowest_of_ties(magnitudes: Tensor, threshold: Tensor, kept: Tensor) -> Tensor:
    above = magnitudes > threshold
    equal = magnitudes == threshold
    room = (kept - above.sum(1)).unsqueeze(1)
    return above | (equal & (equal.cumsum(1) <= room))
