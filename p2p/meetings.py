"""Whom to try to meet when: one try at a time each, few at once, and less often the more have failed."""

import random
from collections.abc import Awaitable, Callable, Iterable

import trio

from p2p.errors import PeerUnreachable, TransportError
from p2p.protocols import PeerId

Acquaintance = tuple[str, PeerId]
"""(hotkey, peer id) as claimed: a false claim must not use up the tries of a true one."""


class Backoff:
    """Waiting times that double, with jitter: peers that fail together must not return together."""

    def __init__(self, first_seconds: float, last_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._last_seconds = last_seconds
        self._seconds = first_seconds

    def reset(self) -> None:
        self._seconds = self._first_seconds

    def next_seconds(self) -> float:
        seconds = self._seconds
        self._seconds = min(2 * seconds, self._last_seconds)
        return seconds * random.uniform(0.75, 1.25)


class Meetings:
    def __init__(self, first_seconds: float, last_seconds: float, at_once: int) -> None:
        self._waits_seconds = (first_seconds, last_seconds)
        self._limiter = trio.CapacityLimiter(at_once)
        self._running: set[Acquaintance] = set()
        self._backoffs: dict[Acquaintance, Backoff] = {}
        self._next_try: dict[Acquaintance, float] = {}

    def keep_only(self, wanted: Iterable[Acquaintance]) -> None:
        """Forget the others: what strangers claim must not pile up here."""
        kept = set(wanted) | self._running
        self._backoffs = {who: backoff for who, backoff in self._backoffs.items() if who in kept}
        self._next_try = {who: at for who, at in self._next_try.items() if who in kept}

    def begin(self, who: Acquaintance) -> bool:
        """Whether now is the time; if so, call `hold`."""
        if who in self._running or self._next_try.get(who, 0.0) > trio.current_time():
            return False
        self._running.add(who)
        return True

    async def hold(self, who: Acquaintance, meet: Callable[[], Awaitable[bool]]) -> None:
        """`meet()`, which says whether it went well; otherwise the next try is later than the last."""
        try:
            async with self._limiter:
                if await meet():
                    self._backoffs.pop(who, None)
                    self._next_try.pop(who, None)
                else:
                    backoff = self._backoffs.setdefault(who, Backoff(*self._waits_seconds))
                    self._next_try[who] = trio.current_time() + backoff.next_seconds()
        finally:
            self._running.discard(who)


async def dial_any(dial: Callable[[str], Awaitable[PeerId]], addresses: tuple[str, ...], timeout_seconds: float) -> str:
    """Dial all at once; the first to succeed, which is returned, wins: dead addresses take long. Raises
    TransportError."""
    errors: list[TransportError] = []
    reached: list[str] = []

    async def try_one(address: str) -> None:
        try:
            await dial(address)
            reached.append(address)
            nursery.cancel_scope.cancel()
        except TransportError as error:
            errors.append(error)

    with trio.move_on_after(timeout_seconds):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(try_one, address)
    if not reached:
        raise errors[0] if errors else PeerUnreachable(f"none of {len(addresses)} addresses answered in time")
    return reached[0]
