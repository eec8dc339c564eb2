"""In which order pieces leave: the uplink is one, and many ask for it at once.

First what peers want whom we know; of that what matters most; of that what nobody else has, so that others can relay
it; of that what was sent the least; of that who had the least of us for what it is worth as a relay, so that nobody
falls behind for whom all would wait in the end. Nobody waits for ever: requests that waited long enough go before
others, and of them, too, the oldest one of whoever had the least: else who asks for more would get more.
"""

import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2p.dealing import relative_worth
from p2p.limits import forget_oldest
from p2p.pace import Cap, Meter, Paced, Tally
from p2p.protocols import PeerId
from p2p.wire import ByteStream

MANIFEST = -1  # instead of a piece
_MAX_BLOBS_COUNTED = 512
_HAD_SECONDS = 60.0  # half of what a peer had is forgotten: who fell behind must be able to catch up


@dataclass(frozen=True)
class TurnSettings:
    least_bytes: int = 256 << 10  # on their way into the transport at a time
    ahead_seconds: float = 0.3  # of the uplink's rate, where that is more
    slow_seconds: float = 1.0  # who takes longer for a piece does not keep others waiting
    held_up_seconds: float = 10.0  # by the cap; then the rest of a piece leaves at once: who reads it has timeouts
    patience_seconds: float = 2.0  # after so long a request goes before others
    lull_seconds: float = 0.1  # what matters less waits so long for the next piece of what matters more
    full_share: float = 0.7  # of the best rate: below it there is room for what matters less, too


@dataclass(eq=False)
class Turn:
    """A piece or a manifest that somebody wants; those we know come first, of equals the smaller `priority`."""

    peer: PeerId
    blob_id: str
    piece: int
    size_bytes: int
    priority: int
    stranger: bool = False
    first: bool = False  # nobody else has it
    since: float = 0.0  # on trio's clock
    granted: trio.Event = field(default_factory=trio.Event)


def choose(
    waiting: list[Turn],
    times_sent: Callable[[Turn], int],
    had: Callable[[PeerId, bool], float],
    longest_since: float,
    chance: random.Random,
) -> Turn:
    """Whose turn it is. Pure but for `chance`. `waiting` is in order of arrival, and not empty. `had(peer, first)`: see
    `weighed`."""
    first = min((turn.stranger, turn.priority) for turn in waiting)
    waiting = [turn for turn in waiting if (turn.stranger, turn.priority) == first]
    firsts = [turn for turn in waiting if turn.first and not times_sent(turn)]
    waiting = firsts or waiting
    if patient := [turn for turn in waiting if turn.since < longest_since]:
        waiting = patient
    else:
        least = min(map(times_sent, waiting))
        waiting = [turn for turn in waiting if times_sent(turn) == least]
    shares = [had(turn.peer, bool(firsts)) for turn in waiting]
    leading = [turn for turn, share in zip(waiting, shares, strict=True) if share <= min(shares) * 1.0001]
    return leading[0] if patient else chance.choice(leading)


def weighed(
    had: Callable[[PeerId], float], worth: Callable[[PeerId], float], peers: Iterable[PeerId]
) -> Callable[[PeerId, bool], float]:
    """What each had of us, for its worth as a relay if it is about what nobody else has; else by its root, or the best
    relays would have everything."""
    worths = {peer: worth(peer) for peer in set(peers)}
    most = max(worths.values(), default=0.0)
    return lambda peer, first: had(peer) / relative_worth(worths[peer], most) ** (1.0 if first else 0.5)


class Turns:
    """`run` gives turns. `worth(peer)`: how much it can relay, in any unit."""

    def __init__(self, settings: TurnSettings, cap: Cap, sent: Meter, worth: Callable[[PeerId], float]) -> None:
        self._settings = settings
        self._cap = cap
        self._sent = sent
        self._worth = worth
        self._had = Tally(_HAD_SECONDS)
        self._chance = random.Random()
        self._waiting: list[Turn] = []
        self._sending: dict[Turn, float] = {}  # since when, without the time for which the cap held it up
        self._held_up: set[Turn] = set()  # by the cap, now
        self._slow: dict[PeerId, None] = {}  # who took long for a piece last time
        self._sent_at: dict[int, float] = {}  # by priority: when a peer we know was last sent a piece
        self._times_sent: dict[str, Counter[int]] = {}
        self._changed = trio.Event()

    @asynccontextmanager
    async def take(self, turn: Turn) -> AsyncIterator[None]:
        """The block sends the piece."""
        turn.since = trio.current_time()
        self._waiting.append(turn)
        self._wake()
        try:
            await turn.granted.wait()
            yield
        finally:
            since = self._sending.pop(turn, None)
            if since is None:
                self._waiting.remove(turn)
            else:
                if not turn.stranger:
                    self._sent_at[turn.priority] = trio.current_time()
                self._judge(turn.peer, trio.current_time() - since)
            self._wake()

    @property
    def idle(self) -> bool:
        """The uplink could carry more than it is asked for. Without a cap only the transport could say; that no other
        piece is on its way is all we know."""
        if self._waiting:
            return False
        return len(self._sending) <= 1 if self._cap.rate is None else self._cap.unspent

    def paced(self, stream: ByteStream, turn: Turn) -> Paced:
        """For the bytes of the piece, whose turn it is: the cap counts them as they go."""

        async def pay(size_bytes: int) -> None:
            since = trio.current_time()
            self._held_up.add(turn)
            with trio.move_on_at(patient_until) as patience:
                try:
                    await self._cap.take(size_bytes, priority=turn.stranger)
                finally:
                    self._held_up.discard(turn)
                    self._sending[turn] += trio.current_time() - since
            if patience.cancelled_caught:
                self._cap.spend(size_bytes)

        patient_until = math.inf if turn.stranger else trio.current_time() + self._settings.held_up_seconds
        return Paced(stream, self._cap, pay, self._sent.add)

    def charge(self, size_bytes: int) -> None:
        """Something was sent without a turn."""
        self._cap.spend(size_bytes)

    def give_back(self, turn: Turn) -> None:
        """Nothing is sent after all."""
        if turn.blob_id in self._times_sent:
            self._times_sent[turn.blob_id][turn.piece] -= 1

    async def run(self) -> None:
        """Give turns, for ever."""
        while True:
            if ready := self._ready():
                self._grant(ready, trio.current_time())
                continue
            with trio.move_on_after(self._pause_seconds()):
                await self._changed.wait()

    def _grant(self, ready: list[Turn], now: float) -> None:
        longest_since = now - self._settings.patience_seconds
        had = weighed(self._had.of, self._worth, [turn.peer for turn in ready])
        turn = choose(ready, self._times, had, longest_since, self._chance)
        self._had.add(turn.peer, turn.size_bytes)
        self._waiting.remove(turn)
        self._sending[turn] = now
        self._count(turn)
        turn.granted.set()

    def _ready(self) -> list[Turn]:
        """Who waits and may have a turn now. Slow readers have a room of their own, and so have strangers: they only
        hold up each other. Under a cap, strangers have no turn beside those we know."""
        if not self._waiting:
            return []
        room_bytes = max(self._settings.least_bytes, self._sent.rate * self._settings.ahead_seconds)
        busy_bytes, timely = Counter[tuple[bool, bool]](), self._timely()
        for turn in timely:
            busy_bytes[self._room(turn)] += turn.size_bytes
        least = self._least_priority(timely)
        only_known = self._cap.rate is not None and any(not turn.stranger for turn in timely)
        waiting = [turn for turn in self._waiting if turn.priority <= least and not (only_known and turn.stranger)]
        return [turn for turn in waiting if busy_bytes[self._room(turn)] < room_bytes]

    def _room(self, turn: Turn) -> tuple[bool, bool]:
        return turn.stranger, turn.peer in self._slow

    def _least_priority(self, timely: list[Turn]) -> float:
        """What matters less does not go beside what matters more, which it would halve, unless the uplink idles.
        What strangers want keeps nothing waiting."""
        if self._sent.rate < self._settings.full_share * min(self._sent.best, self._cap.allowed):
            return math.inf
        since = trio.current_time() - self._settings.lull_seconds
        recent = [priority for priority, at in self._sent_at.items() if at > since]
        return min([turn.priority for turn in timely if not turn.stranger] + recent, default=math.inf)

    def _timely(self) -> list[Turn]:
        """Those whose readers are not slow, as far as is known."""
        since = trio.current_time() - self._settings.slow_seconds
        return [turn for turn, at in self._sending.items() if at > since or turn in self._held_up]

    def _pause_seconds(self) -> float:
        """How long to wait, unless something changes."""
        if not self._waiting:
            return math.inf
        reading = [self._sending[turn] for turn in self._timely() if turn not in self._held_up]
        slow_in_seconds = [at + self._settings.slow_seconds - trio.current_time() for at in reading]
        return min([self._settings.lull_seconds, *slow_in_seconds]) + 1e-6

    def _judge(self, peer: PeerId, seconds: float) -> None:
        self._slow.pop(peer, None)
        if seconds >= self._settings.slow_seconds:
            self._slow[peer] = None
            forget_oldest(self._slow)

    def _times(self, turn: Turn) -> int:
        counts = self._times_sent.get(turn.blob_id)
        return 0 if counts is None else counts[turn.piece]

    def _count(self, turn: Turn) -> None:
        counts = self._times_sent.pop(turn.blob_id, None)
        self._times_sent[turn.blob_id] = counts = Counter() if counts is None else counts
        counts[turn.piece] += 1
        forget_oldest(self._times_sent, _MAX_BLOBS_COUNTED)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
