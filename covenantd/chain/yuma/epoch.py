"""One epoch of Yuma."""

import numpy as np

from covenantd.chain.yuma import bonds as bonding
from covenantd.chain.yuma.consensus import Agreed, Votes, agree, votes
from covenantd.chain.yuma.fixed import Fixed, normalized, packed, to_u16
from covenantd.chain.yuma.subnet import EpochInputs, EpochResult, EpochRules, PackedRow


def run_epoch(inputs: EpochInputs, rules: EpochRules) -> EpochResult:
    """Yuma: weights clipped where too little stake agrees with them, emission half to those who are voted for
    (incentive), half to those who voted for them early (dividends, through bonds)."""
    cast = votes(inputs)
    agreed = agree(cast, rules.kappa)
    incentive = normalized(agreed.ranks)
    raw_dividends, kept = _bond(inputs, rules, cast, agreed, incentive)
    dividends = np.zeros_like(incentive)
    dividends[cast.rows] = normalized(raw_dividends)
    trust = np.zeros_like(incentive)
    trust[cast.rows] = agreed.clipped.sum(axis=1)
    return EpochResult(
        incentive=_shares(incentive),
        dividends=_shares(dividends),
        consensus=_shares(agreed.consensus),
        vtrust=_shares(trust),
        bonds=_sparse(kept, cast, len(inputs.stakes)),
        emission_parts=_emission_parts(inputs, incentive + dividends),
    )


def _bond(inputs: EpochInputs, rules: EpochRules, cast: Votes, agreed: Agreed, incentive: Fixed) -> tuple[Fixed, Fixed]:
    """Dividends before they are normalised, and the bonds to store; both by row of `cast`."""
    if rules.mode == "classic":
        return bonding.classic(inputs, rules, cast, agreed, incentive)
    return bonding.yuma3(inputs, rules, cast, agreed, incentive)


def _emission_parts(inputs: EpochInputs, earned: Fixed) -> tuple[int, ...]:
    """What was earned; if that is nothing, active validators' stake; if that is nothing, stake."""
    parts = tuple(int(value) for value in earned)
    if any(parts):
        return parts
    voting = zip(inputs.stakes, inputs.permits, inputs.active, strict=True)
    active = tuple(stake if permit and is_active else 0 for stake, permit, is_active in voting)
    return active if any(active) else tuple(inputs.stakes)


def _shares(values: Fixed) -> tuple[int, ...]:
    return tuple(int(value) for value in to_u16(values))


def _sparse(kept: Fixed, cast: Votes, size: int) -> tuple[PackedRow, ...]:
    result = [PackedRow()] * size
    for row, uid in enumerate(cast.rows):
        values = to_u16(kept[row])
        columns = np.flatnonzero(values)
        result[uid] = packed(columns, values[columns])
    return tuple(result)
