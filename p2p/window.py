"""How much to ask of one holder ahead of its answers. Pure: the exchange tells it what happened, and when.

What a holder delivers in `ahead_seconds` covers the bandwidth-delay product and keeps its uplink's queue short however
many ask of it, since each of them sees only a share of its rate. But where our questions take about as long to reach
it, behind our own pieces, we see the rate at which we ask, not what it could do: it says when its uplink idles, and
then we ask further ahead.
"""

from dataclasses import dataclass

_MEMORY_SECONDS = 3.0  # of busy time; older landings weigh less and less
_MAX_AHEAD_SECONDS = 3.0
_DEEPEST = 3.0  # times as far ahead


@dataclass(frozen=True)
class WindowSettings:
    first_bytes: int = 256 << 10  # while nothing is known of the holder
    most_bytes: int = 32 << 20
    ahead_seconds: float = 0.75


class Window:
    """One holder's. `rate` is in bytes a second of the time in which something was asked of it; 0: not known yet."""

    def __init__(self, settings: WindowSettings) -> None:
        self._settings = settings
        self.in_flight_bytes = 0
        self.landed_at = 0.0
        self._latency_seconds = _MAX_AHEAD_SECONDS  # the shortest answer to a question asked of an idle holder
        self._lone = False  # what is in flight was asked when nothing was
        self._busy = False  # by its last answer
        self._depth = 1.0  # so many times `ahead_seconds` are asked ahead
        self._bytes = 0.0
        self._seconds = 0.0

    @property
    def rate(self) -> float:
        return self._bytes / self._seconds if self._seconds > 0 else 0.0

    @property
    def limit_bytes(self) -> float:
        settings = self._settings
        if not self._seconds:
            return settings.first_bytes
        ahead_seconds = max(settings.ahead_seconds, 2 * self._latency_seconds) * self._depth
        return min(self.rate * min(ahead_seconds, _MAX_AHEAD_SECONDS), settings.most_bytes)

    def has_room(self, size_bytes: int, in_flight_bytes: int) -> bool:
        """Whether that much more may be asked than `in_flight_bytes`.

        Two questions may always be open, or the holder would idle for a round trip after each answer; unless it says
        that others keep it busy, and the second one would only stand in line.
        """
        least = 1 if self._busy and self.seconds_for(2 * size_bytes) > _MAX_AHEAD_SECONDS else 2
        return in_flight_bytes + size_bytes <= max(self.limit_bytes, least * size_bytes)

    def asked(self, size_bytes: int, now: float) -> None:
        if self.in_flight_bytes == 0:
            self._lone = True
            self.landed_at = now
        self.in_flight_bytes += size_bytes

    def landed(self, size_bytes: int, now: float, *, arrived: bool = True, idle: bool = False) -> None:
        """An answer to the oldest question; with `arrived` False it was empty. `idle`: the holder could send more."""
        self.in_flight_bytes -= size_bytes
        if not arrived:
            return
        self._busy = not idle
        self._deepen(size_bytes, idle)
        seconds = max(now - self.landed_at, 1e-6)
        if self._lone:
            self._latency_seconds = min(self._latency_seconds, seconds)
            self._lone = False
        fade = 0.5 ** (seconds / _MEMORY_SECONDS)
        self._bytes = self._bytes * fade + size_bytes
        self._seconds = self._seconds * fade + seconds
        self.landed_at = now

    def _deepen(self, size_bytes: int, idle: bool) -> None:
        """Twice as deep after a window's worth of answers; back again over two windows."""
        share = size_bytes / max(self.limit_bytes, 2 * size_bytes)
        self._depth = min(self._depth * (1 + share), _DEEPEST) if idle else max(self._depth * (1 - share / 2), 1.0)

    def seconds_for(self, size_bytes: int) -> float:
        """How long so many bytes take it, as far as is known; half a window's time if nothing is."""
        return size_bytes / self.rate if self._seconds else self._settings.ahead_seconds / 2
