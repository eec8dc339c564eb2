"""Templar's quantiser: four levels a tensor, each the mean of the values that fall to it.

Written from its description: the values of a tensor are centred, cut into 4 bins of 6/4 standard deviations around
their mean, and each bin is sent as the mean of its values. Of the two humps of a top-k selection each falls into one
bin, so that of four levels two are used in practice (1.0-1.1 bits of entropy). Sums are in fp64 and folded by halves,
so that thread counts change no bit.

Where this is not Templar's code: all 1-D tensors are one run of chunks and quantised together, where there each is
padded alone; of an even number of norms the lower median is taken, none is raised by 1e-8; and values beyond ±32,
which no training gives, are sent as ±32, so that nobody's levels can make θ infinite.
"""

from math import fsum, sqrt

import torch
from torch import Tensor

from model.quantize import LARGEST_VALUE

LEVELS = 4
_RANGE_IN_SIGMAS = 6.0


def quantize(values: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """One tensor's finite fp32 [m, k], and which exist -> levels fp32 [4], codes uint8 [m, k], 0 where absent."""
    kept = (values if present is None else values[present]).reshape(-1).double().clamp_(-LARGEST_VALUE, LARGEST_VALUE)
    count = len(kept)
    mean = _folded_sum(kept) / count
    centred = kept - mean
    deviation = (_folded_sum(centred * centred) / max(count - 1, 1)).sqrt()
    width = deviation * _RANGE_IN_SIGMAS / LEVELS
    width = torch.where(width > 0, width, torch.ones_like(width))
    bins = (centred / width + LEVELS // 2).round_().clamp_(0, LEVELS - 1).to(torch.uint8)
    levels = torch.stack([_mean_where(kept, bins == level) for level in range(LEVELS)]).float()
    codes = bins.view(values.shape) if present is None else torch.zeros(values.shape, dtype=torch.uint8)
    if present is not None:
        codes[present] = bins
    return levels, codes


def dequantize(levels: Tensor, codes: Tensor) -> Tensor:
    """Levels fp32 [n, 4] of n contributions' tensors, their codes uint8 [m, n, k] -> fp32 [m, n, k]."""
    first = torch.arange(0, levels.numel(), LEVELS, dtype=torch.int32)
    keys = codes.int() + first.unsqueeze(1)
    return torch.index_select(levels.view(-1), 0, keys.view(-1)).view(codes.shape)


def norm(levels: Tensor, codes: Tensor, kept: Tensor) -> float:
    """The L2 norm of one tensor's decoded values, the same bits everywhere: from integer counts, rounded once.

    `kept` int64 [m]: entries of each chunk; other codes are 0.
    """
    counts = torch.bincount(codes.reshape(-1), minlength=LEVELS).tolist()
    counts[0] -= codes.numel() - int(kept.sum())
    return sqrt(fsum(count * (level * level) for count, level in zip(counts, levels.tolist(), strict=True)))


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """0 where there are none."""
    return _folded_sum(torch.where(chosen, values, 0.0)) / chosen.sum().clamp(min=1)


def _folded_sum(values: Tensor) -> Tensor:
    """fp64 [n] -> fp64 []: the end is added to the beginning until one is left, in a fixed order."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        folded = values[:half].clone()
        folded[: len(values) - half] += values[half:]
        values = folded
    return values[0]
