"""G: the mean of the roster's contributions, each clipped per tensor to the roster's median norm.

arXiv 2603.08163 divides by the roster's size, "roster"; Templar's code by how many sent a coordinate, "senders". A
contribution may have a weight w (all 1 unless given): then the mean is Σ w·v / Σ w. Every peer must get the same bits:
norms come from integer counts (`sparse.norm`); all that a contribution's tensor is multiplied by, clip · w / Σ w · α
(by senders clip · w · α), is one factor, computed in fp64 and rounded once to fp32; and in fp32 each value is
multiplied by it, the products are added in roster order, by senders the sum is divided by the sum of their w, and
the result is subtracted from θ: each operation separately rounded. Each coordinate takes part in at most one addition
a contribution, and a band of chunks is summed up before the next is begun: neither threads nor sharding reorder
anything, and all that is held beside the contributions is a band.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, isfinite

import torch
from torch import Tensor

from model import sparse as sparse_module
from model.config import MAX_ALPHA
from model.layout import Layout
from model.quantize import LARGEST_VALUE
from model.rules import combination_of
from model.sparse import Band, Sparse, add_, amounts, indices_of

MAX_WEIGHT_RATIO = 1e18
SUMMED_CHUNKS = 64  # of a band: their sums stay in a core's own cache

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


@dataclass(frozen=True, eq=False)
class Entries:
    """A band of all contributions, for `kernels.Kernels.step`."""

    indices: Tensor  # int16 [contributions, chunks, k]
    codes: Tensor  # uint8 [contributions, chunks, k]
    scales: Tensor  # uint8 [contributions, chunks]
    said: Tensor  # fp32 [contributions, scales, 4]: what a code adds in a chunk of that scale

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.indices, self.codes, self.scales, self.said


@dataclass(frozen=True, eq=False)
class Combination:
    """α·G of one roster, ready to be reckoned band by band."""

    layout: Layout
    roster: Sequence[Sparse]
    factors: Sequence[Tensor]  # by group: fp32 [contributions]
    shares: Sequence[float]
    by_senders: bool

    def sum_up(self, band: Band, total: Tensor) -> None:
        """total ← α·G of a band: fp32 [its chunks, chunk]."""
        indices = indices_of(band, self.roster).long()
        add_(total.zero_(), indices, amounts(band, self.roster, self.factors[band.number]))
        if self.by_senders:
            total.div_(self._senders(band, indices, torch.zeros_like(total)))

    def entries(self, band: Band) -> Entries:
        """What `sum_up` adds."""
        roster, factors, four = self.roster, self.factors[band.number], torch.arange(4, dtype=torch.uint8)
        indices = torch.stack([sparse.indices[band.rows] for sparse in roster])
        codes = torch.stack([sparse.codes[band.rows] for sparse in roster])
        if band.rule.per_tensor:
            levels = torch.stack([sparse.scales[band.number] for sparse in roster])
            said, scales = band.rule.dequantise(levels, four.expand(len(roster), 4)), torch.zeros(indices.shape[:2])
            return Entries(indices, codes, scales.to(torch.uint8), said.mul_(factors.unsqueeze(1)).unsqueeze(1))
        scales = torch.stack([sparse.scales[band.rows] for sparse in roster])
        said = band.rule.dequantise(torch.arange(256, dtype=torch.uint8), four.expand(256, 4))
        return Entries(indices, codes, scales, said * factors.view(-1, 1, 1))

    def _senders(self, band: Band, indices: Tensor, divisor: Tensor) -> Tensor:
        """The shares of who sent each coordinate, summed up in `divisor`, 1 where nobody did; who sends a chunk with
        scale 0 sends nothing of it."""
        shares = torch.tensor(self.shares, dtype=torch.float32)
        share = shares.view(1, -1, 1).expand(indices.shape).clone()
        if not band.rule.per_tensor:
            silent = torch.stack([sparse.scales[band.rows] == 0 for sparse in self.roster], dim=1)
            share.masked_fill_(silent.unsqueeze(2), 0.0)
        if band.present is not None:
            share.masked_fill_(~band.present.unsqueeze(1), 0.0)
        add_(divisor, indices, share)
        return divisor.masked_fill_(divisor == 0, 1.0)


def combination(
    layout: Layout, roster: Sequence[Sparse], clips: Factors, alpha: float, weights: Sequence[float] | None = None
) -> Combination:
    """Raises ValueError for an empty roster, and for what could give a number that is not finite."""
    by_senders = combination_of(layout.compression) == "senders"
    shares = _shares(roster, weights, by_senders)
    _check_finite(layout, roster, alpha)
    factors = [_factors(of_group, shares, alpha) for of_group in clips]
    return Combination(layout, roster, factors, shares, by_senders)


def _shares(roster: Sequence[Sparse], weights: Sequence[float] | None, by_senders: bool) -> list[float]:
    """What each contribution counts for: of 1 in all or, by senders, against the one of most weight."""
    if not roster:
        raise ValueError("a void round has no update")
    weights = [1.0] * len(roster) if weights is None else weights
    if len(weights) != len(roster) or not all(isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"each contribution needs a weight that is positive and finite: {list(weights)!r:.200}")
    shares = [weight / max(weights) for weight in weights]
    if min(shares) < 1 / MAX_WEIGHT_RATIO:
        raise ValueError(f"weights are further apart than {MAX_WEIGHT_RATIO:.0e}: {list(weights)!r:.200}")
    total = 1.0 if by_senders else fsum(shares)
    return [share / total for share in shares]


def _check_finite(layout: Layout, roster: Sequence[Sparse], alpha: float) -> None:
    """No |value| above 32 and no |α| above 1e9 means no update above 2^41: a θ that was finite stays so."""
    if not abs(alpha) <= MAX_ALPHA:
        raise ValueError(f"α is {alpha}: at most {MAX_ALPHA:.0e} is possible")
    for number, sparse in enumerate(roster):
        if sparse.scales.is_floating_point():
            wrong = ~(sparse.scales.abs() <= LARGEST_VALUE).all(1)
            if wrong.any():
                name = layout.groups[int(wrong.nonzero()[0])].name
                raise ValueError(f"contribution {number} of the roster has a level of {name} beyond ±{LARGEST_VALUE}")


def _factors(clips: Sequence[float | None], shares: Sequence[float], alpha: float) -> Tensor:
    """clip · share · α of each contribution: in fp64, rounded once, fp32 [contributions]."""
    rate = float(torch.tensor(alpha, dtype=torch.float32))
    pairs = zip(clips, shares, strict=True)
    factors = [(share if clip is None else clip * share) * rate for clip, share in pairs]
    return torch.tensor(factors, dtype=torch.float32)
