"""Rates: held to a cap, and measured. On trio's clock."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from p2p.wire import ByteStream

_BURST_SECONDS = 0.1
_WINDOW_SECONDS = 1.0
_BEST_SECONDS = 3600.0
_PAUSE_SECONDS = 1.0
_OWED_SECONDS = 5.0
_PART_SECONDS, _LEAST_PART_BYTES = 0.06, 16 << 10  # each costs both ends as much as a piece
_SHORT_BYTES = 8  # are not waited with: that there is no piece is said at once
_UNUSED_SHARE, _UNUSED_HALF_LIFE_SECONDS = 0.1, 0.2
_HEADERS = 1.04  # IP, TCP and Noise add so much to what we send, by the packet


@dataclass(order=True)
class _Place:
    """In the line of those who want to spend: whoever is first waits for the time to come, the others for their place.
    All waiting for the time would cost the more the longer the line."""

    priority: int
    number: int
    first: trio.Event = field(default_factory=trio.Event, compare=False)

    async def called(self) -> None:
        await self.first.wait()
        self.first = trio.Event()


class Cap:
    """So many bytes a second on average, headers of packets included; `rate` None: no cap. May be changed at any
    time."""

    def __init__(self, rate: float | None = None) -> None:
        self._rate = rate
        self._share = 1.0
        self._allowance = 0.0  # in bytes; negative: borrowed from the future
        self._at = -math.inf
        self._unused = 1.0  # share of the rate of late
        self._changed = trio.Event()
        self._waiting: list[_Place] = []  # a heap
        self._numbers = itertools.count()

    @property
    def rate(self) -> float | None:
        return self._rate

    def set(self, rate: float | None) -> None:
        """Raises ValueError unless it is positive."""
        if rate is not None and not rate > 0:
            raise ValueError(f"a rate of {rate} bytes a second is none")
        self._settle()
        self._rate, self._share = rate, 1.0
        self._allowance = min(self._allowance, 0.0)
        if rate is not None:
            self._allowance = max(self._allowance, -_OWED_SECONDS * rate)
        self._wake()

    def ease(self, share: float) -> None:
        """Until the next word, allow only that share of the rate, more than 0."""
        self._settle()
        self._share = share
        self._wake()

    async def take(self, size_bytes: int, priority: int = 0) -> None:
        """Those of smaller `priority` first, then first come first served."""
        place = _Place(priority, next(self._numbers))
        heapq.heappush(self._waiting, place)
        try:
            await self._first(place)
            self.spend(size_bytes)
        finally:
            self._waiting.remove(place)
            heapq.heapify(self._waiting)
            if self._waiting:
                self._waiting[0].first.set()

    async def _first(self, place: _Place) -> None:
        while True:
            while self._waiting[0] is not place:
                await place.called()
            await self.ready()
            if self._waiting[0] is place:
                return

    async def ready(self) -> None:
        """Wait until something may be spent, be it more than is there: the next one pays for it."""
        while self._rate is not None:
            self._settle()
            if self._allowance >= 0:
                return
            with trio.move_on_after(-self._allowance / self.allowed + 1e-6):
                await self._changed.wait()

    @property
    def allowed(self) -> float:
        """Bytes a second for now."""
        return math.inf if self._rate is None else self._rate * self._share

    @property
    def part_bytes(self) -> float:
        """What to spend at a time, where there is a choice."""
        return math.inf if self._rate is None else max(self._rate * _PART_SECONDS, _LEAST_PART_BYTES)

    @property
    def unspent(self) -> bool:
        """There is a rate, and a part of what it would have allowed of late was of no use to anybody."""
        self._settle()
        return self._rate is not None and self._unused > _UNUSED_SHARE

    def spend(self, size_bytes: int) -> None:
        if self._rate is not None:
            self._allowance -= size_bytes * _HEADERS

    def owe(self, size_bytes: int) -> None:
        """Spend on what others send unasked; more of it than we pay for in a few seconds does not hold up the rest."""
        if self._rate is not None:
            self._settle()
            least = min(self._allowance, -_OWED_SECONDS * self._rate)
            self._allowance = max(self._allowance - size_bytes * _HEADERS, least)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _settle(self) -> None:
        now = trio.current_time()
        seconds = now - self._at
        if self._rate is not None and seconds > 0:
            earned = seconds * self.allowed
            allowance = min(self._allowance + earned, self._rate * _BURST_SECONDS)
            unused = 1.0 if math.isinf(earned) else (self._allowance + earned - allowance) / earned
            kept = 0.5 ** (seconds / _UNUSED_HALF_LIFE_SECONDS)
            self._unused = kept * self._unused + (1 - kept) * unused
            self._allowance = allowance
        self._at = now


class Paced:
    """A stream whose sends are paid for before, a part at a time: all at once they would leave as fast as the
    transport takes them, beside what goes to others, and be dropped where the link begins."""

    def __init__(
        self,
        stream: ByteStream,
        cap: Cap,
        pay: Callable[[int], Awaitable[None]],
        sent: Callable[[int], None],
    ) -> None:
        self._stream = stream
        self._cap = cap
        self._pay = pay
        self._sent = sent

    async def send_all(self, data: bytes | memoryview) -> None:
        if len(data) < _SHORT_BYTES:
            self._cap.spend(len(data))
            return await self._stream.send_all(data)
        view = memoryview(data)
        while view:
            parts = max(round(len(view) / self._cap.part_bytes), 1)  # of one size: a rest is too cheap to wait for
            part = view[: -(-len(view) // parts)]
            await self._pay(len(part))
            await self._stream.send_all(part)
            self._sent(len(part))
            view = view[len(part) :]
        return None

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)


class Charged:
    """A stream whose sends are paid for after the fact: what is said on it is short and matters more than pieces."""

    def __init__(self, stream: ByteStream, spend: Callable[[int], None]) -> None:
        self._stream = stream
        self._spend = spend

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)
        self._spend(len(data))

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)


class _Window:
    """Bytes a second over the last so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._recent: deque[tuple[float, int]] = deque()
        self._bytes = 0

    def add(self, size_bytes: int, now: float) -> None:
        self._recent.append((now, size_bytes))
        self._bytes += size_bytes

    def rate(self, now: float) -> float:
        while self._recent and now - self._recent[0][0] > self._seconds:
            self._bytes -= self._recent.popleft()[1]
        return self._bytes / self._seconds


class Meter:
    """Bytes a second: over the last second, and the best of the last hour, which is what a link has shown it can.

    What is sent disappears in buffers at first, as fast as they take it: the best rate is over `window_seconds` and
    after `settle_seconds` without a pause.
    """

    def __init__(self, window_seconds: float = 1.0, settle_seconds: float = 0.0) -> None:
        self._last_second = _Window(_WINDOW_SECONDS)
        self._window = _Window(window_seconds)
        self._steady_seconds = window_seconds + settle_seconds if settle_seconds else 0.0
        self._busy_since = self._added_at = -math.inf
        self._best: deque[tuple[float, float]] = deque()  # falling rates, rising times

    def add(self, size_bytes: int) -> None:
        now = trio.current_time()
        self._last_second.add(size_bytes, now)
        self._window.add(size_bytes, now)
        if now - self._added_at > _PAUSE_SECONDS:
            self._busy_since = now
        self._added_at = now
        rate = self._window.rate(now)
        if now - self._busy_since < self._steady_seconds:
            return
        while self._best and self._best[-1][1] <= rate:
            self._best.pop()
        self._best.append((now, rate))

    @property
    def rate(self) -> float:
        return self._last_second.rate(trio.current_time())

    @property
    def best(self) -> float:
        now = trio.current_time()
        while self._best and now - self._best[0][0] > _BEST_SECONDS:
            self._best.popleft()
        return self._best[0][1] if self._best else 0.0


class Tally:
    """Bytes by peer, half of which are forgotten every half-life. Who is forgotten takes no memory."""

    def __init__(self, half_life_seconds: float = 10.0, max_peers: int = 1024) -> None:
        self._half_life_seconds = half_life_seconds
        self._max_peers = max_peers
        self._counts: dict[str, tuple[float, float]] = {}  # bytes, at time

    def __bool__(self) -> bool:
        """Whether anything was added yet."""
        return bool(self._counts)

    def add(self, peer: str, size_bytes: int) -> None:
        held = self.of(peer)
        self._counts.pop(peer, None)
        self._counts[peer] = (held + size_bytes, trio.current_time())
        if len(self._counts) > self._max_peers:
            del self._counts[next(iter(self._counts))]

    def of(self, peer: str) -> float:
        held, at = self._counts.get(peer, (0.0, 0.0))
        return held * 0.5 ** ((trio.current_time() - at) / self._half_life_seconds) if held else 0.0
