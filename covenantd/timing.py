"""Where a round's fixed points lie, in blocks. A run may change its pace; each round keeps what it began under."""

from dataclasses import dataclass, replace
from typing import Any, Optional

from covenantd.errors import ConfigError


@dataclass(frozen=True)
class Timing:
    """`earlier` governs the rounds before `first_round`, which begins at `start_block`."""

    start_block: int
    blocks_per_round: int
    seal_blocks: int  # S_r: training stops
    commit_blocks: int  # C_r: the last block a commit may be receipted at
    vote_blocks: int  # V_r: votes are read in the state of this block
    serve_slack_blocks: int = 1  # after C_r, until contributions may be served
    block_seconds: float = 12.0  # what the chain aims at; for lifetimes and hints, never for agreement
    proposal_blocks: int = 2  # from a proposal until the finalized state shows the votes for it; then the next's turn
    first_round: int = 0
    earlier: Optional["Timing"] = None

    def of(self, round: int) -> "Timing":
        """The timing that round runs under."""
        return self.earlier.of(round) if self.earlier is not None and round < self.first_round else self

    def start(self, round: int) -> int:
        timing = self.of(round)
        return timing.start_block + (round - timing.first_round) * timing.blocks_per_round

    def seal(self, round: int) -> int:
        return self.start(round) + self.of(round).seal_blocks

    def commit(self, round: int) -> int:
        return self.start(round) + self.of(round).commit_blocks

    def serve(self, round: int) -> int:
        return self.commit(round) + self.of(round).serve_slack_blocks

    def vote(self, round: int) -> int:
        return self.start(round) + self.of(round).vote_blocks

    def last_decided(self, block: int) -> int:
        """The newest round whose votes can be read at `block`; -1 before the first."""
        beyond = block - self.start_block - self.vote_blocks
        if beyond >= 0:
            return self.first_round + beyond // self.blocks_per_round
        return -1 if self.earlier is None else min(self.earlier.last_decided(block), self.first_round - 1)

    def from_round(self, first_round: int, **changes: Any) -> "Timing":
        """As this, but changed from a round on, which still begins when it would have begun anyway."""
        return replace(self, **changes, start_block=self.start(first_round), first_round=first_round, earlier=self)

    def check(self) -> None:
        """Raises ConfigError."""
        order = (0, self.seal_blocks, self.commit_blocks, self.commit_blocks + self.serve_slack_blocks)
        points = (*order, self.vote_blocks, self.blocks_per_round)
        if any(a >= b for a, b in zip(points, points[1:], strict=False)) or self.start_block < 1:
            raise ConfigError(
                f"run spec: timing must satisfy 0 < seal < commit < serve < vote < blocks_per_round, got {self}"
            )
        if not self.block_seconds > 0 or self.proposal_blocks < 1:
            raise ConfigError(f"run spec: timing with block_seconds {self.block_seconds} makes no sense")
        certify, step = self.vote_blocks - self.commit_blocks - self.serve_slack_blocks, self.proposal_blocks
        if certify < 2 * step or self.blocks_per_round - self.vote_blocks < step:
            raise ConfigError(
                f"run spec: a vote takes proposal_blocks ({step}) to be in the finalized state, so there must be twice "
                f"as many from serve to vote, not {certify}, and as many from vote to the end of the round, not "
                f"{self.blocks_per_round - self.vote_blocks}"
            )
