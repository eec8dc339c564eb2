"""A sign of life for the daemon, from wherever the engine's long work comes in steps."""

import time
from collections.abc import Callable

from model.messages import Alive

Beat = Callable[[], None]
"""Called between two steps of long work."""


class Pulse:
    """A `Beat` that says `Alive`, but not more often than every `seconds`."""

    def __init__(self, emit: Callable[[Alive], None], seconds: float = 1.0) -> None:
        self._emit = emit
        self._seconds = seconds
        self._said_at = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._said_at >= self._seconds:
            self._said_at = now
            self._emit(Alive())


def no_beat() -> None:
    """Where nobody watches."""
