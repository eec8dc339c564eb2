"""Whose turn it is to propose the roster of a round, and when a vote may move. Pure.

Stake rank i proposes in turn i. The turns begin at fixed blocks, the same for everybody, who also reads the same
votes there: where a roster has its quorum by then, nobody turns away from it and whoever can joins it; where none
has, everybody may move to the proposal of that turn, one vote a turn. So whoever proposed different rosters to
different certifiers, or nothing, costs a turn and not the round: the first turn of an honest certifier unites the
honest ones, and a quorum of theirs stays. Only the latest commitment of each hotkey at V_r counts, so no two rosters
can have a quorum there, however often votes have moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from covenantd.timing import Timing

EARLY = "early"
"""The one refusal that is worth another try: we cannot judge that round or turn yet."""


@dataclass(frozen=True)
class Turns:
    order: tuple[str, ...]  # certifiers of the round, by stake
    blocks: tuple[int, ...]  # turn i, of order[i], begins here; the later ones have none

    def at(self, block: int) -> int:
        """The turn that has begun last."""
        return max(0, sum(first <= block for first in self.blocks) - 1)

    def of(self, hotkey: str) -> int | None:
        """The turn in which it proposes; None: it does not."""
        turn = self.order.index(hotkey) if hotkey in self.order else len(self.blocks)
        return turn if turn < len(self.blocks) else None


def turns(timing: Timing, round: int, stakes: Mapping[str, int]) -> Turns:
    """Rank 0 proposes from the serving of contributions on, as soon as it can. The others' turns take the last third
    of the time to the vote, or up to half where those that may fail with a third of the stake need it; where even
    that is not enough, turns are shorter than `proposal_blocks`."""
    first, vote, step = timing.serve(round), timing.vote(round), max(1, timing.of(round).proposal_blocks)
    may_fail = max(1, _leading_third(list(stakes.values())))
    kept = min(max((vote - first) // 3, may_fail * step), max(1, (vote - first) // 2))
    step = min(step, max(1, kept // may_fail))
    blocks = (first, *range(vote - kept, vote - step + 1, step))[: len(stakes)]
    return Turns(tuple(stakes), blocks)


def _leading_third(stakes: list[int]) -> int:
    """How many of the first in stake order have a third of the stake together at most: as many may be lost."""
    together = [sum(stakes[: count + 1]) for count in range(len(stakes))]
    return sum(3 * stake <= sum(stakes) for stake in together)


@dataclass(frozen=True)
class Ballots:
    """What decides whether a vote may be cast: our last one in the round (its turn and digest), and the roster that
    had a quorum where the turn that is on began."""

    turn: int
    leading: str | None
    voted: tuple[int, str] | None

    def refusal(self, turn: int, digest: str) -> str | None:
        """Why not to vote for what the certifier of that turn proposes."""
        if self.voted is not None and self.voted[1] == digest:
            return None
        if turn > self.turn:
            return EARLY
        if self.leading is not None and self.leading != digest:
            return f"a quorum votes for {self.leading[:16]}"
        if self.voted is not None and (self.voted[0] >= turn or turn < self.turn):
            return f"voted already, for {self.voted[1][:16]}"  # a turn that is over moves nobody
        return None
