"""How a validator thinks of each miner: an average of the gains its contributions brought. Pure.

A contribution's gain is the relative fall of the loss on random held-out sequences when it alone is applied. It is
paired (the same sequences before and after), so even small gains stand out from the noise of the data.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

FORGOTTEN_ROUNDS = 30
"""Who was away for more starts anew."""


@dataclass(frozen=True)
class Standing:
    """`gain`: exponential average of relative loss gains; `rounds`: how many went into it; `absent`: for how many
    rounds it has been away since."""

    gain: float
    rounds: int
    absent: int = 0


def gain(loss_before: float, loss_after: float) -> float:
    """Relative loss gain in [-1, 1]; a non-finite loss after is as bad as it gets."""
    if not math.isfinite(loss_after) or not math.isfinite(loss_before) or loss_before <= 0:
        return -1.0
    return max(-1.0, min(1.0, (loss_before - loss_after) / loss_before))


def observe(standings: Mapping[str, Standing], gains: Mapping[str, float], decay: float) -> dict[str, Standing]:
    """The standings after a round. Miners that were not scored keep theirs."""
    updated = dict(standings)
    for hotkey, value in gains.items():
        old = standings.get(hotkey)
        average = value if old is None else decay * old.gain + (1 - decay) * value
        updated[hotkey] = Standing(average, (old.rounds if old else 0) + 1)
    return updated


def miss(standings: Mapping[str, Standing], hotkeys: Iterable[str], decay: float) -> dict[str, Standing]:
    """Miners at fault for a missing or invalid contribution earned nothing this round."""
    return observe(standings, {h: min(0.0, standings[h].gain) for h in hotkeys if h in standings}, decay)


def absent(standings: Mapping[str, Standing], hotkeys: Iterable[str], decay: float) -> dict[str, Standing]:
    """Miners that committed to nothing this round: a good average fades as by a miss, and in the end is forgotten."""
    updated = dict(standings)
    for hotkey in hotkeys:
        if (old := updated.pop(hotkey, None)) is not None and old.absent < FORGOTTEN_ROUNDS:
            updated[hotkey] = replace(old, gain=min(old.gain, decay * old.gain), absent=old.absent + 1)
    return updated


def unfit(standings: Mapping[str, Standing], harmful_gain: float, useless_share: float) -> dict[str, str]:
    """Who stays out of the roster, and why: "harmful" if its average gain is below `harmful_gain`; "useless" if,
    after two rounds or more, it is below `useless_share` of the median gain of those that are not away. They are still
    scored: they can return.
    """
    present = sorted(s.gain for s in standings.values() if not s.absent)
    median = present[(len(present) - 1) // 2] if present else 0.0
    reasons = {h: "harmful" for h, s in standings.items() if s.gain < harmful_gain}
    useless = {h: "useless" for h, s in standings.items() if s.rounds >= 2 and s.gain < useless_share * median}
    return {**(useless if median > 0 else {}), **reasons}


def weights(standings: Mapping[str, Standing]) -> dict[str, float]:
    """Shares of the reward, summing to 1: proportional to the positive average gain. Empty when nobody gains."""
    positive = {h: s.gain for h, s in standings.items() if s.gain > 0}
    total = sum(positive.values())
    return {h: g / total for h, g in positive.items()} if total > 0 else {}
