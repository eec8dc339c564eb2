"""What an epoch makes of stakes and weights. Pure, integers only, so that every node gets the same units.

For now a stake-weighted average; Yuma's clipping and bonds go behind the same function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

U16_MAX = 65535
_FIXED_ONE = 1 << 32


@dataclass(frozen=True)
class EpochInputs:
    """One subnet before an epoch. Every sequence is indexed by uid and has the same length."""

    stakes: Sequence[int]  # rao
    permits: Sequence[bool]
    last_updates: Sequence[int]  # block
    registered: Sequence[int]  # block
    weights: Sequence[Mapping[int, int]]  # uid -> u16; an absent cell counts as zero


@dataclass(frozen=True)
class EpochResult:
    """Indexed by uid."""

    incentive: tuple[int, ...]  # u16, floor of the normalised rank
    dividends: tuple[int, ...]  # u16, floor
    emission_parts: tuple[int, ...]  # proportional to the emission due, in no unit; all zero if nobody has stake


def run_consensus(inputs: EpochInputs) -> EpochResult:
    """Incentive is the stake-weighted mean of the permitted validators' normalised weights; dividends follow the
    stake that voted. Half the emission follows each; without any vote it follows stake."""
    ranks = [0] * len(inputs.stakes)
    voting = [0] * len(inputs.stakes)
    for uid, stake in enumerate(inputs.stakes):
        row = _counted_row(inputs, uid)
        total = sum(row.values())
        if not (inputs.permits[uid] and stake > 0 and total > 0):
            continue
        voting[uid] = stake
        for target, weight in row.items():
            ranks[target] += stake * (weight * _FIXED_ONE // total)
    parts = [a + b for a, b in zip(_scaled(ranks, _FIXED_ONE), _scaled(voting, _FIXED_ONE), strict=True)]
    return EpochResult(
        incentive=tuple(_scaled(ranks, U16_MAX)),
        dividends=tuple(_scaled(voting, U16_MAX)),
        emission_parts=tuple(parts if any(parts) else inputs.stakes),
    )


def apportion(amount: int, parts: Sequence[int]) -> tuple[int, ...]:
    """Split `amount` in proportion to `parts`, conserving it to the unit: floors, then one unit each to the largest
    remainders, lower index first. All zero if every part is zero: then nothing is to be handed out."""
    total = sum(parts)
    if total <= 0:
        return (0,) * len(parts)
    shares = [amount * part // total for part in parts]
    left = amount - sum(shares)
    order = sorted(range(len(parts)), key=lambda i: (-(amount * parts[i] % total), i))
    for index in order[:left]:
        shares[index] += 1
    return tuple(shares)


def _counted_row(inputs: EpochInputs, uid: int) -> dict[int, int]:
    """A row without its self-weight, and without weights meant for a former owner of a uid."""
    last_update = inputs.last_updates[uid]
    return {
        target: weight
        for target, weight in inputs.weights[uid].items()
        if target != uid and 0 <= target < len(inputs.stakes) and last_update > inputs.registered[target]
    }


def _scaled(values: Sequence[int], scale: int) -> list[int]:
    total = sum(values)
    return [scale * value // total if total else 0 for value in values]
