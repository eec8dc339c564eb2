"""Whole units out of shares."""

from collections.abc import Sequence


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
