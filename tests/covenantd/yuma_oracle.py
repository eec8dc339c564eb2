"""Yuma in floats, straight from its definition: dense matrices, no fixed point, nothing shared with the real one."""

import numpy as np
from numpy.typing import NDArray

from covenantd.chain.yuma.subnet import Cells, EpochInputs, EpochRules

U16 = 65535
Floats = NDArray[np.float64]


def oracle(inputs: EpochInputs, rules: EpochRules) -> dict[str, Floats]:
    """Incentive, dividends, consensus, vtrust (n,) and the stored bonds (n, n), in u16 but not floored."""
    stake = np.array(inputs.stakes, dtype=np.float64)
    permits, active = np.array(inputs.permits, dtype=bool), np.array(inputs.active, dtype=bool)
    share = scaled(np.where(permits & active, scaled(stake), 0.0))
    weights, present = vote_matrix(inputs, permits)
    agreed = np.array([median(weights[:, j], share, rules.kappa / U16) for j in range(len(stake))])
    clipped = np.minimum(weights, agreed)
    incentive = scaled(share @ clipped)
    penalty = rules.bonds_penalty / U16
    target = (1 - penalty) * weights + penalty * clipped
    old = dense(inputs.bonds)
    old[:, np.array(inputs.registered) >= inputs.last_epoch_block] = 0
    rate = 1 - rules.bonds_moving_average / 1_000_000
    if rules.mode == "classic":
        bonds = columns(rate * columns(share[:, None] * target) + (1 - rate) * columns(old / U16))
        dividends = scaled(bonds @ incentive)
        largest = bonds.max(axis=0)
        kept = np.divide(bonds, largest, out=np.zeros_like(bonds), where=largest > 0)
    else:
        kept = old / U16
        if rules.mode == "yuma3+liquid" and agreed.any():
            kept = liquid(rules, target, kept, agreed, bonded_cells(present, weights, target, penalty))
        else:
            kept = rate * target + (1 - rate) * kept
        dividends = scaled((columns(kept) @ incentive) * share)
    found = {"incentive": incentive, "dividends": dividends, "consensus": agreed, "vtrust": clipped.sum(axis=1)}
    return {name: value * U16 for name, value in (found | {"bonds": kept}).items()}


def vote_matrix(inputs: EpochInputs, permits: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """Rows of sum 1 or 0, and which cells there are: of who has a permit, on others than itself that were there
    before the weights were."""
    raw, present = dense(inputs.weights), np.zeros((len(permits), len(permits)), dtype=bool)
    for i, row in enumerate(inputs.weights):
        for j in row.uids:
            present[i, j] = permits[i] and i != j and inputs.voted[i] > inputs.registered[j]
    raw[~present] = 0
    total = raw.sum(axis=1, keepdims=True)
    return np.divide(raw, total, out=np.zeros_like(raw), where=total > 0), present


def median(column: Floats, share: Floats, kappa: float) -> float:
    """The least weight with more than 1 - kappa of the stake at or below it; the largest, should none have."""
    voters = [(column[i], share[i]) for i in range(len(share)) if share[i] > 0]
    if not voters:
        return 0.0
    candidates = sorted(weight for weight, _ in voters)
    for weight in candidates:
        if sum(s for w, s in voters if w <= weight) > 1 - kappa + 1e-9:
            return float(weight)
    return float(candidates[-1])


def bonded_cells(present: NDArray[np.bool_], weights: Floats, target: Floats, penalty: float) -> NDArray[np.bool_]:
    """Whose bond is not lost at once: an explicit zero's too, unless it was made by clipping or by interpolating."""
    if penalty == 0:
        return present
    return present & (target > 0) if penalty < 1 else present & ((weights == 0) | (target > 0))


def liquid(rules: EpochRules, target: Floats, old: Floats, agreed: Floats, cells: NDArray[np.bool_]) -> Floats:
    departure = np.clip(np.where(target >= old, target - agreed, old - target), 0, 1)
    low, high = rules.alpha_low / U16, rules.alpha_high / U16
    rate = low + (high - low) / (1 + np.exp(-rules.alpha_steepness / 100 * (departure - 0.5)))
    moved: Floats = np.where(cells, np.minimum((1 - rate) * old + rate * target, 1), 0)
    return moved


def dense(rows: list[Cells] | tuple[Cells, ...]) -> Floats:
    matrix = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        for j, value in zip(row.uids, row.values, strict=True):
            matrix[i, j] = value
    return matrix


def scaled(values: Floats) -> Floats:
    total = values.sum()
    return values / total if total > 0 else np.zeros_like(values)


def columns(matrix: Floats) -> Floats:
    total = matrix.sum(axis=0)
    return np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
