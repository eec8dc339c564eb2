"""What to ask of which holder next, over all blobs wanted. Pure: no clock, no I/O; `Schedule` knows each blob.

Of what a holder offers, the most important blob comes first and in it the rarest piece. In the end, when a holder has
nothing left that nobody was asked for, it takes over what waits at a slower one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from p2p.schedule import Holder, Schedule
from p2p.window import Window, WindowSettings

_TAKEOVER_MARGIN_SECONDS = 0.25
_TAKEOVER_GAIN = 2.0


@dataclass(frozen=True, eq=False)
class Ask:
    """A piece asked of a holder; each time is another. `instead_of`: of whom it was asked before, in vain so far."""

    blob_id: str
    piece: int
    size_bytes: int
    priority: int = 0
    instead_of: Holder | None = None


@dataclass(frozen=True)
class Wanted:
    schedule: Schedule
    size_bytes: Callable[[int], int]
    priority: int


class Agenda:
    """`add` what is wanted, `offer` through its schedule, ask `next_for` each holder until there is nothing."""

    def __init__(self, settings: WindowSettings) -> None:
        self._settings = settings
        self._wanted: dict[str, Wanted] = {}
        self._windows: dict[Holder, Window] = {}
        self._flights: dict[Holder, dict[Ask, None]] = {}  # in the order of asking

    def add(self, blob_id: str, wanted: Wanted) -> None:
        self._wanted[blob_id] = wanted

    def raise_priority(self, blob_id: str, priority: int) -> None:
        """Of what is asked from now on."""
        if blob_id in self._wanted:
            self._wanted[blob_id] = replace(self._wanted[blob_id], priority=priority)

    def remove(self, blob_id: str) -> None:
        """Answers to what was asked are still due, and count for the windows."""
        self._wanted.pop(blob_id, None)

    def window(self, holder: Holder) -> Window:
        return self._windows.setdefault(holder, Window(self._settings))

    def in_flight(self, holder: Holder) -> int:
        return len(self._flights.get(holder, ()))

    def next_for(self, holder: Holder, now: float) -> Ask | None:
        """What to ask `holder` now, noted as asked; None if it has been asked for enough, or has nothing of use."""
        if self._is_full(holder):
            return None
        best = self._best(holder)
        if best is None:
            return self._take_over(holder, now)
        blob_id, piece = best
        size_bytes = self._wanted[blob_id].size_bytes(piece)
        priority = self._wanted[blob_id].priority
        if not self._has_room(holder, size_bytes, priority):
            return None
        return self._ask(holder, Ask(blob_id, piece, size_bytes, priority), now)

    def landed(self, holder: Holder, ask: Ask, now: float, *, arrived: bool, idle: bool = False) -> None:
        """An answer came, in the order of asking; say `got` or `failed` to the schedule as well. `idle`: the holder
        could send more."""
        flights = self._flights.get(holder, {})
        if ask in flights:
            del flights[ask]
            self.window(holder).landed(ask.size_bytes, now, arrived=arrived, idle=idle)

    def late(self, holder: Holder, asks: Iterable[Ask] | None = None) -> bool:
        """Others may now be asked for what `holder` was (None: for all of it); whether that is news."""
        flights = self._flights.get(holder, {})
        late = [ask for ask in (flights if asks is None else asks) if ask in flights and ask.blob_id in self._wanted]
        return any([self._wanted[ask.blob_id].schedule.late(holder, ask.piece) for ask in late])

    def gone(self, holder: Holder) -> None:
        self._flights.pop(holder, None)
        self._windows.pop(holder, None)
        for wanted in self._wanted.values():
            wanted.schedule.gone(holder)

    def _is_full(self, holder: Holder) -> bool:
        """For sure: nothing that is wanted has room, not even a blob's first piece, than which none is larger. That is
        cheaper to find out than what would be next, and mostly so."""
        most_urgent = min((wanted.priority for wanted in self._wanted.values()), default=0)
        before_bytes = self._before_bytes(holder, most_urgent)
        if before_bytes < self.window(holder).limit_bytes:
            return False
        return before_bytes > max(
            (one.size_bytes(0) for one in self._wanted.values() if one.schedule.pieces), default=0
        )

    def _has_room(self, holder: Holder, size_bytes: int, priority: int) -> bool:
        """What matters less does not stand in the way: the holder will send it later."""
        return self.window(holder).has_room(size_bytes, self._before_bytes(holder, priority))

    def _before_bytes(self, holder: Holder, priority: int) -> int:
        return sum(ask.size_bytes for ask in self._flights.get(holder, ()) if ask.priority <= priority)

    def _best(self, holder: Holder) -> tuple[str, int] | None:
        candidates = (
            (wanted.priority, *candidate, blob_id)
            for blob_id, wanted in self._wanted.items()
            if (candidate := wanted.schedule.candidate(holder)) is not None
        )
        found = min(candidates, default=None)
        return None if found is None else (found[-1], found[-2])

    def _ask(self, holder: Holder, ask: Ask, now: float) -> Ask:
        self._wanted[ask.blob_id].schedule.ask(holder, ask.piece)
        self._flights.setdefault(holder, {})[ask] = None
        self.window(holder).asked(ask.size_bytes, now)
        return ask

    def _take_over(self, holder: Holder, now: float) -> Ask | None:
        """The question that waits longest elsewhere, if `holder` would answer it much sooner."""
        window = self.window(holder)
        longest: tuple[float, Holder | None, Ask | None] = (0.0, None, None)
        for other in self._flights:
            for ask, seconds in self._waits(other, now) if other != holder else ():
                wanted = self._wanted.get(ask.blob_id)
                here_seconds = window.seconds_for(window.in_flight_bytes + ask.size_bytes)
                gain = seconds > here_seconds * _TAKEOVER_GAIN + _TAKEOVER_MARGIN_SECONDS
                if wanted is None or seconds <= longest[0] or not gain:
                    continue
                may = wanted.schedule.may_take_over(holder, other, ask.piece)
                if may and self._has_room(holder, ask.size_bytes, ask.priority):  # last: it is the dearest to find out
                    longest = (seconds, other, ask)
        _, slower, waiting = longest
        if slower is None or waiting is None:
            return None
        self._wanted[waiting.blob_id].schedule.late(slower, waiting.piece)
        again = Ask(waiting.blob_id, waiting.piece, waiting.size_bytes, waiting.priority, slower)
        return self._ask(holder, again, now)

    def _waits(self, holder: Holder, now: float) -> Iterable[tuple[Ask, float]]:
        """(what, how much longer it takes) of all that was asked of `holder`, in order. What is overdue takes as much
        longer again: a piece that stopped on its way would be about to come for ever."""
        window, ahead_bytes, first_seconds = self.window(holder), 0, 0.0
        since_seconds = now - window.landed_at
        for ask in self._flights[holder]:
            ahead_bytes += ask.size_bytes
            first_seconds = first_seconds or window.seconds_for(ahead_bytes)
            more_seconds = window.seconds_for(ahead_bytes) - first_seconds
            yield ask, abs(first_seconds - since_seconds) + more_seconds
