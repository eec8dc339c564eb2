"""Bonds: what a validator's past weights earn it of a miner's incentive. Three kinds, as the chain has them.

Sparseness matters: a bond whose weight cell is absent decays like any other, but under liquid alpha it is lost at
once. An explicit 0 is a cell, unless the penalty lies strictly between 0 and 1: interpolating drops zeros.
"""

import numpy as np
from numpy.typing import NDArray

from covenantd.chain.yuma.consensus import Agreed, Votes
from covenantd.chain.yuma.fixed import ONE, U16_MAX, Fixed, divide, from_u16, multiply, normalized, scatter, sigmoid
from covenantd.chain.yuma.subnet import EpochInputs, EpochRules

_MILLION = 1_000_000


def classic(
    inputs: EpochInputs, rules: EpochRules, cast: Votes, agreed: Agreed, incentive: Fixed
) -> tuple[Fixed, Fixed]:
    """Bonds are shares of a column: (dividends (r,), bonds to store (r, n), each column's largest 1)."""
    target, _ = _target(rules, cast, agreed)
    bought = normalized(multiply(target, cast.stake[:, None]), axis=0)
    held = normalized(_held(inputs, cast), axis=0)
    bonds = normalized(_average(rules, bought, held), axis=0)
    dividends: Fixed = multiply(bonds, incentive).sum(axis=1)
    return dividends, divide(bonds, bonds.max(axis=0, initial=0, keepdims=True))


def yuma3(inputs: EpochInputs, rules: EpochRules, cast: Votes, agreed: Agreed, incentive: Fixed) -> tuple[Fixed, Fixed]:
    """Bonds are each validator's own, stake counts at the end: (dividends (r,), bonds to store (r, n))."""
    target, cells = _target(rules, cast, agreed)
    held = divide(_held(inputs, cast), U16_MAX)
    if rules.mode == "yuma3+liquid" and agreed.consensus.any():
        rate = _liquid_rate(rules, target, held, agreed.consensus)
        moved = multiply(ONE - rate, held) + multiply(rate, target)
        bonds = np.where(cells, np.minimum(moved, ONE), 0)
    else:
        bonds = _average(rules, target, held)
    earned = multiply(normalized(bonds, axis=0), incentive).sum(axis=1)
    return multiply(earned, cast.stake), bonds


def _target(rules: EpochRules, cast: Votes, agreed: Agreed) -> tuple[Fixed, NDArray[np.bool_]]:
    """The weights bonds move towards, and which cells there are."""
    penalty = from_u16(rules.bonds_penalty)
    if penalty == 0:
        return cast.weights, cast.present
    if penalty == ONE:
        return agreed.clipped, cast.present & ((cast.weights == 0) | (agreed.clipped > 0))
    # From the clipped side: the chain's W + floor(p · (W' - W)), whose step is negative, comes to the same.
    target = agreed.clipped + multiply(cast.weights - agreed.clipped, ONE - penalty)
    return target, target > 0


def _held(inputs: EpochInputs, cast: Votes) -> Fixed:
    """(r, n) in u16: the stored bonds, without those on neurons that came since the last epoch."""
    size = len(inputs.stakes)
    held = np.zeros((len(cast.rows), size), dtype=np.int64)
    for row, uid in enumerate(cast.rows.tolist()):
        scatter(inputs.bonds[uid], into=held[row])
    held[:, np.array(inputs.registered, dtype=np.int64) >= inputs.last_epoch_block] = 0
    return held


def _average(rules: EpochRules, new: Fixed, old: Fixed) -> Fixed:
    rate = ONE - rules.bonds_moving_average * ONE // _MILLION
    return multiply(new, rate) + multiply(old, ONE - rate)


def _liquid_rate(rules: EpochRules, target: Fixed, held: Fixed, consensus: Fixed) -> Fixed:
    """(r, n): how far a bond moves. Faster where a validator departs from consensus, or sells a bond it holds."""
    departure = np.where(target >= held, target - consensus, held - target)
    low, high = from_u16(rules.alpha_low), from_u16(rules.alpha_high)
    rate = low + multiply(sigmoid(np.clip(departure, 0, ONE), rules.alpha_steepness * ONE // 100), high - low)
    return np.clip(rate, low, high)
