"""What validators with stake agree on: each miner's weight, cut at the highest that enough stake supports."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covenantd.chain.yuma.fixed import ONE, Fixed, divide, from_u16, multiply, normalized, scatter
from covenantd.chain.yuma.subnet import EpochInputs


@dataclass(frozen=True)
class Votes:
    """The weights that count, dense over the rows that matter: (r, n), sums of rows 1 or 0."""

    rows: NDArray[np.int64]  # (r,) uids that have a permit or bonds
    stake: Fixed  # (r,) of active validators, sum 1 or 0
    weights: Fixed  # (r, n)
    present: NDArray[np.bool_]  # (r, n): a weight was set there, be it 0


@dataclass(frozen=True)
class Agreed:
    consensus: Fixed  # (n,)
    clipped: Fixed  # (r, n)
    ranks: Fixed  # (n,) stake-weighted sum of the clipped weights


def votes(inputs: EpochInputs) -> Votes:
    """Leaves out rows without a permit, self-weights and weights that were meant for a former owner of the uid."""
    size = len(inputs.stakes)
    rows = np.array([uid for uid in range(size) if inputs.permits[uid] or len(inputs.bonds[uid].uids)], dtype=np.int64)
    weights = np.zeros((len(rows), size), dtype=np.int64)
    present = np.zeros((len(rows), size), dtype=np.bool_)
    registered = np.array(inputs.registered, dtype=np.int64)
    for row, uid in enumerate(rows.tolist()):
        if inputs.permits[uid]:
            present[row, scatter(inputs.weights[uid], into=weights[row])] = True
            present[row, uid] = False
            present[row] &= registered < inputs.voted[uid]
    weights[~present] = 0
    return Votes(rows, _active_stake(inputs)[rows], divide(weights, weights.sum(axis=1, keepdims=True)), present)


def _active_stake(inputs: EpochInputs) -> Fixed:
    """(n,): each one's share of all stake first, as the chain does, so that it floors where the chain does."""
    total = sum(inputs.stakes)
    shares = np.array([stake * ONE // total if total else 0 for stake in inputs.stakes], dtype=np.int64)
    counted = np.array(inputs.permits, dtype=np.bool_) & np.array(inputs.active, dtype=np.bool_)
    return normalized(np.where(counted, shares, 0))


def agree(cast: Votes, kappa: int) -> Agreed:
    """`kappa`: u16 share of the stake."""
    consensus = _weighted_median(cast, from_u16(kappa))
    clipped = np.minimum(cast.weights, consensus)
    ranks: Fixed = multiply(clipped, cast.stake[:, None]).sum(axis=0)
    return Agreed(consensus, clipped, ranks)


def _weighted_median(cast: Votes, majority: int) -> Fixed:
    """(n,): for each column the least weight with more than 1 - majority of the stake at or below it."""
    voting = cast.stake > 0
    if not voting.any():
        return np.zeros(cast.weights.shape[1], dtype=np.int64)
    stake, weights = normalized(cast.stake[voting]), cast.weights[voting]
    minority = stake.sum() - majority
    order = np.argsort(weights, axis=0)  # of equal weights any will do: only the weight is looked at
    beyond = np.cumsum(stake[order], axis=0) > minority
    first = np.where(beyond.any(axis=0), beyond.argmax(axis=0), len(stake) - 1)
    chosen = np.take_along_axis(order, first[None, :], axis=0)
    median: Fixed = np.take_along_axis(weights, chosen, axis=0)[0]
    return median
