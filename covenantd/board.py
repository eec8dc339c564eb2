"""The daemon's present Status and its last rounds, with a way to wait for a change."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import trio

from covenantd.status import RoundSummary, Status

KEPT_ROUNDS = 1000


class StatusBoard:
    """Written by the coordinator, read by control, http and notify. One thread."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._rounds: deque[RoundSummary] = deque(maxlen=KEPT_ROUNDS)
        self._changed = trio.Event()
        self.on_round: Callable[[RoundSummary], None] = lambda summary: None

    @property
    def status(self) -> Status:
        return self._status

    @property
    def rounds(self) -> tuple[RoundSummary, ...]:
        """The last rounds, oldest first."""
        return tuple(self._rounds)

    def update(self, **changes: Any) -> None:
        """Replace fields of the status, e.g. `update(state="running", round=3)`."""
        self._status = replace(self._status, **changes)
        self._wake()

    def add_round(self, summary: RoundSummary) -> None:
        """A finished round, or a later word on one (an unknown result that became known)."""
        kept = [one for one in self._rounds if one.round != summary.round]
        self._rounds = deque(sorted([*kept, summary], key=lambda one: one.round), maxlen=KEPT_ROUNDS)
        self.on_round(summary)
        self._wake()

    async def wait_for(self, holds: Callable[[Status], bool]) -> Status:
        """The first status, the present one included, that meets it. Set a deadline around it."""
        while not holds(self._status):
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        return self._status

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
