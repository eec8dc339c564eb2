"""2-bit values: a sign and one of two magnitudes, scaled per chunk.

In the spirit of SparseLoCo's 2-bit quantisation (arXiv 2508.15706, 2603.08163), and the one place where the codec
`covenant` is not what was run there: the papers leave the quantiser open. Templar's spaces four levels evenly over
six standard deviations of a tensor and in practice uses two of them (1.0-1.1 bits of entropy); here, per chunk, both
magnitudes of each sign are used: s and 5/4 s, the best pair of the form (s, s + s/16 n) on the top 64 of 4096
Gaussian values (relative squared error 0.0043 with s at its best eighth octave; 1.0: 0.0128, 3/2: 0.0082).

The scale s of a chunk is an 8-bit code: 0 means that the chunk sends zeros, c = 1..240 means 2^((c-1)/8 - 26), 241
to 255 are reserved. Magnitudes come from a table of 8 fp32 constants times 1 or 5/4, rounded once, times an exact
power of two, never from an `exp2` that vectorised and scalar code round differently: every peer gets the same bits.

A value code has bit 0 for the larger magnitude and bit 1 for minus.
"""

from math import fsum, ldexp, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_Doubles = NDArray[np.float64]
LARGEST_SCALE_CODE = 240
LARGER = 1.25  # the larger magnitude over the smaller; exact in fp32
_SMALLEST_OCTAVE = -26
_EIGHTHS = tuple(
    float.fromhex(text)  # fp32 nearest to 2^(i/8)
    for text in (
        "0x1.000000p+0", "0x1.172b84p+0", "0x1.306fe0p+0", "0x1.4bfdaep+0",
        "0x1.6a09e6p+0", "0x1.8ace54p+0", "0x1.ae89fap+0", "0x1.d5818ep+0",
    )
)  # fmt: skip
LARGEST_VALUE = 32.0  # above the largest magnitude, 18.3: what is sent is the same, and sums cannot overflow
_CANDIDATES = range(-3, 4)  # eighths around the mean's; the best was within -1..1 on Gaussian and Laplace tails


def _magnitude(code: int, level: float) -> float:
    if not 1 <= code <= LARGEST_SCALE_CODE:
        return 0.0
    octave, eighth = divmod(code - 1, 8)
    return ldexp(float(np.float32(_EIGHTHS[eighth] * level)), octave + _SMALLEST_OCTAVE)


MAGNITUDES = torch.tensor([[_magnitude(c, 1.0), _magnitude(c, LARGER)] for c in range(256)], dtype=torch.float32)
"""fp32 [256, 2]: the two magnitudes of every scale code."""

_MAGNITUDES: _Doubles = MAGNITUDES.double().numpy()

_VALUES = torch.cat([MAGNITUDES, -MAGNITUDES], dim=1).view(-1)  # by 4 * scale code + value code
_EIGHTH_TABLE = torch.tensor(_EIGHTHS)
_VALUES[:4] = 0.0  # not -0
_VALUES[4 * (LARGEST_SCALE_CODE + 1) :] = 0.0


def quantize(values: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """Finite fp32 [m, k], and bool [m, k] for which of them exist (None: all) -> scale codes uint8 [m], value codes
    uint8 [m, k].

    The scale is the eighth octave of least squared error near the mean magnitude, ties to the smaller. A mean
    magnitude below the smallest scale gives scale code 0 and value codes 0. Sums are folded by halves, each
    addition elementwise, so that neither thread count nor vector width can change a bit.
    """
    present = torch.ones_like(values, dtype=torch.bool) if present is None else present
    magnitudes = torch.where(present, values.abs().clamp(max=LARGEST_VALUE), 0.0)
    start = _floor_code(_fold(magnitudes) / present.sum(1))
    best, best_error = start, torch.full_like(start, torch.inf, dtype=torch.float32)
    for offset in _CANDIDATES:
        code = (start + offset).clamp(1, LARGEST_SCALE_CODE)
        error = _squared_error(magnitudes, present, code)
        better = error < best_error
        best, best_error = torch.where(better, code, best), torch.where(better, error, best_error)
    sent = start >= 1
    scales = torch.where(sent, best.clamp(1, LARGEST_SCALE_CODE), 0)
    codes = _is_larger(magnitudes, scales).to(torch.uint8) | ((values < 0).to(torch.uint8) << 1)
    return scales.to(torch.uint8), torch.where(present & sent.unsqueeze(1), codes, 0).to(torch.uint8)


def quantize_signs(values: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `quantize`, but every value is sent as ±s: only the sign's bit of a value code is ever set.

    The squared error is least at the scale nearest to the mean magnitude; ties to the smaller.
    """
    magnitudes = values.abs().clamp_(max=LARGEST_VALUE)
    negative = values < 0
    count: Tensor | int = values.shape[1]
    if present is not None:
        magnitudes, negative = torch.where(present, magnitudes, 0.0), negative & present
        count = present.sum(1)
    mean = _fold(magnitudes) / count
    below = _floor_code(mean)
    ends = MAGNITUDES[:, 0]
    code = below.clamp(1, LARGEST_SCALE_CODE - 1)
    above = mean > (ends[code] + ends[code + 1]) * 0.5
    sent = below >= 1
    scales = torch.where(sent, code + above, 0)
    codes = (negative & sent.unsqueeze(1)).to(torch.uint8) << 1
    return scales.to(torch.uint8), codes


def dequantize(scales: Tensor, codes: Tensor) -> Tensor:
    """Scale codes uint8 [...], value codes uint8 [..., k] -> fp32 [..., k]."""
    keys = codes.to(torch.int32).add_(scales.to(torch.int32).mul_(4).unsqueeze(-1))
    return torch.index_select(_VALUES, 0, keys.view(-1)).view(codes.shape)


def dequantize_signs(scales: Tensor, codes: Tensor) -> Tensor:
    """As `dequantize`, of value codes 0 and 2 only: a product with 1 - code, which rounds nothing."""
    magnitudes = MAGNITUDES[:, 0][scales.int()]
    return codes.float().neg_().add_(1.0).mul_(magnitudes.unsqueeze(-1))


def norm(scales: Tensor, codes: Tensor, kept: Tensor) -> float:
    """The L2 norm of the decoded values, the same bits everywhere.

    `kept` int64 [m]: entries of each chunk; other codes are 0. An fp32 sum over a million values depends on how it is
    split; so the codes are counted as integers, and at most 512 products count x magnitude² are summed exactly,
    rounded once (fsum), in fp64.
    """
    larger = (codes & 1).sum(1)
    counts = np.stack([_counted(scales, kept - larger), _counted(scales, larger)], axis=1)
    return _root_of_squares(counts.reshape(-1), _MAGNITUDES.reshape(-1))


def norm_signs(scales: Tensor, _: Tensor, kept: Tensor) -> float:
    """As `norm`, of value codes 0 and 2 only: all values of a chunk have its scale."""
    return _root_of_squares(_counted(scales, kept), _MAGNITUDES[:, 0])


def _counted(scales: Tensor, amounts: Tensor) -> _Doubles:
    """fp64 [256], what of `amounts` int64 [m] each scale code has: sums of integers are exact."""
    return np.bincount(scales.numpy(), weights=amounts.double().numpy(), minlength=256).astype(np.float64)


def _root_of_squares(counts: _Doubles, magnitudes: _Doubles) -> float:
    used = np.flatnonzero(counts)
    return sqrt(fsum((counts[used] * (magnitudes[used] * magnitudes[used])).tolist()))


def _floor_code(mean: Tensor) -> Tensor:
    """The largest scale code whose scale is <= mean; below 1 if there is none. fp32 [m] -> int64 [m]."""
    mantissa, exponent = torch.frexp(mean)  # mantissa in [0.5, 1)
    eighth = torch.bucketize(mantissa * 2, _EIGHTH_TABLE, right=True) - 1
    code = (exponent.long() - 1 - _SMALLEST_OCTAVE) * 8 + eighth + 1
    return torch.where(mean > 0, code, -(1 << 20)).clamp(max=LARGEST_SCALE_CODE)


def _is_larger(magnitudes: Tensor, scales: Tensor) -> Tensor:
    """Whether the larger magnitude is the nearer one: above the middle of the two."""
    return magnitudes > (MAGNITUDES[scales][:, 0] * ((1 + LARGER) / 2)).unsqueeze(1)


def _squared_error(magnitudes: Tensor, present: Tensor, scales: Tensor) -> Tensor:
    pair = MAGNITUDES[scales]
    nearest = torch.where(_is_larger(magnitudes, scales), pair[:, 1:], pair[:, :1])
    error = torch.where(present, magnitudes - nearest, 0.0)
    return _fold(error * error)


def _fold(values: Tensor) -> Tensor:
    """Row sums of [m, k] in a fixed order: the right half is added to the left until one column is left."""
    width = 1 << (values.shape[1] - 1).bit_length()
    if width != values.shape[1]:
        values = torch.nn.functional.pad(values, (0, width - values.shape[1]))
    while width > 1:
        width //= 2
        values = values[:, :width] + values[:, width:]
    return values[:, 0]
