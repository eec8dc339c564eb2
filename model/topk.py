"""Which values of a chunk are sent: the k largest in magnitude (SparseLoCo, arXiv 2508.15706)."""

import torch
from torch import Tensor


def select(chunks: Tensor, valid: Tensor | None, kept: Tensor, k: int) -> Tensor:
    """The `kept` largest |values| of each chunk, ties to the lowest index, indices ascending.

    chunks fp32 [m, chunk], finite; valid bool [m, chunk], None if all are; kept int64 [m] = min(k, valid
    positions of the chunk). Returns int16 [m, k]; places from `kept` on are 0. `torch.topk` leaves ties open, so
    only its threshold, which ties cannot change, is used.
    """
    magnitudes = chunks.abs()
    if valid is not None:
        magnitudes[~valid] = -1.0
    descending = magnitudes.topk(k, dim=1).values
    threshold = descending.gather(1, (kept - 1).unsqueeze(1))
    chosen = magnitudes >= threshold
    tied = (chosen.sum(1) != kept).nonzero().squeeze(1)
    if len(tied):
        chosen[tied] = _lowest_of_ties(magnitudes[tied], threshold[tied], kept[tied])
    indices = torch.zeros(len(chunks), k, dtype=torch.int16)
    present = torch.arange(k) < kept.unsqueeze(1)
    indices[present] = chosen.nonzero()[:, 1].to(torch.int16)  # row-major: ascending in each chunk
    return indices


def _lowest_of_ties(magnitudes: Tensor, threshold: Tensor, kept: Tensor) -> Tensor:
    above = magnitudes > threshold
    equal = magnitudes == threshold
    room = (kept - above.sum(1)).unsqueeze(1)
    return above | (equal & (equal.cumsum(1) <= room))
