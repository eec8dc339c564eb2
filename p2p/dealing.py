"""Who is told of which pieces of a blob that only we have, so that each leaves here once before any leaves twice.

Every watcher whom we know is dealt a part, the larger the more it can relay, and hears of that part alone; strangers
hear of nothing. Who takes nothing of its part while others take theirs loses it to them. When all pieces have left, or
none did for a while because those who were dealt the rest do not ask, or the rest takes far longer than the first
pieces did, everybody hears of everything.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy
import trio
from numpy.random import default_rng
from numpy.typing import NDArray

from p2p.limits import Admit, everyone, forget_oldest
from p2p.news import Notices
from p2p.protocols import PeerId

PATIENCE_SECONDS = 3.0  # for watchers who do not ask for what they were dealt
SLOW_SECONDS = 10.0  # for those who did ask: the uplink may be slow, or they gone; and for anybody known to come
IDLE_SECONDS = 4.0  # for one who takes nothing while others do
_LATE_FACTOR = 9.0  # so many times as long as the first quarter took may all of it take: over twice what it should
_AGAIN_SECONDS = 1.0  # what watchers can relay shows only when they do
_MAX_PIECES = 1 << 16
_MAX_BLOBS = 64
_FLOOR = 0.02  # of a part: who is not known to relay anything may well do so


@dataclass
class Progress:
    """Of one who was dealt a part: when a piece of it left last, and how many of all parts had left then."""

    at: float
    left: int


class Dealing:
    """Of one blob. Pure; times are on any clock."""

    def __init__(self, blob_id: str, pieces: int) -> None:
        self._blob_id = blob_id
        self._left = numpy.zeros(pieces, bool)
        self._asked = numpy.zeros(pieces, bool)  # by whom they were dealt to
        self._owners: dict[str, int] = {}
        self._owner = numpy.zeros(pieces, numpy.int64)
        self._progress: dict[str, Progress] = {}
        self._idle: set[str] = set()  # are dealt nothing any more
        self._dealt_at = -math.inf
        self._begun_at = self._progress_at = math.inf  # not yet
        self._late_at = math.inf

    def deal(self, worths: Mapping[str, float], now: float) -> bool:
        """Among the watchers, by what they are worth as relays; whether anything changed."""
        self._idle |= {peer for peer in self._owners if self._idles(peer, now)}
        worths = {peer: worth for peer, worth in worths.items() if peer not in self._idle}
        if set(worths) == set(self._owners) and now - self._dealt_at < _AGAIN_SECONDS:
            return False
        if math.isinf(self._begun_at) or (worths and not self._owners):
            self._begun_at = self._progress_at = now
        self._progress = {peer: self._progress.get(peer, Progress(now, self._count)) for peer in worths}
        before = {peer: self._owner == place for peer, place in self._owners.items()}
        self._dealt_at, self._owners = now, {peer: place for place, peer in enumerate(sorted(worths))}
        if worths:
            self._owner = numpy.stack([self._scores(peer, weight) for peer, weight in self._weights(worths)]).argmax(0)
            for peer in before.keys() & self._owners.keys():
                self._owner[before[peer] & (self._asked | self._left)] = self._owners[peer]
        return before.keys() != self._owners.keys() or any(
            (before[peer] != (self._owner == place)).any() for peer, place in self._owners.items()
        )

    def asked(self, peer: str, piece: int) -> None:
        """It stays with `peer`, if it was dealt to it."""
        if piece < len(self._owner) and self._owner[piece] == self._owners.get(peer, -1):
            self._asked[piece] = True

    def left(self, piece: int, now: float) -> None:
        """It was sent to somebody."""
        if self._left[piece]:
            return
        self._left[piece] = True
        self._progress_at = now
        if math.isinf(self._late_at) and 4 * self._count >= len(self._left):
            self._late_at = self._begun_at + _LATE_FACTOR * (now - self._begun_at) + PATIENCE_SECONDS
        for peer, progress in self._progress.items():
            if self._owners[peer] == self._owner[piece]:
                progress.at, progress.left = now, self._count

    def over(self, now: float) -> bool:
        """Everybody may hear of everything."""
        few = len(self._left) < 2 * len(self._owners)
        waits = not self._owners or bool((self._asked & ~self._left).any())
        stuck = now - self._progress_at > (SLOW_SECONDS if waits else PATIENCE_SECONDS)
        return few or stuck or now > self._late_at or bool(self._left.all())

    def is_first(self, piece: int) -> bool:
        """Nobody else has it."""
        return not self._left[piece]

    def bitmap(self, peer: str) -> bytes:
        """What `peer` hears of while it is not over."""
        mine = self._owner == self._owners.get(peer, -1)
        return numpy.packbits(mine, bitorder="little").tobytes()

    @property
    def _count(self) -> int:
        """Pieces that have left."""
        return int(self._left.sum())

    def _idles(self, peer: str, now: float) -> bool:
        """It would have had several turns since it had one, and has something to take."""
        progress = self._progress[peer]
        if now - progress.at <= IDLE_SECONDS:
            return False
        turns = min(2 * len(self._owners), len(self._left) // 4)
        waits = bool(((self._owner == self._owners[peer]) & ~self._left).any())
        return waits and self._count - progress.left >= turns

    def _weights(self, worths: Mapping[str, float]) -> list[tuple[str, float]]:
        spare = beyond_own(worths)
        most = max(spare.values())
        return [(peer, relative_worth(spare[peer], most)) for peer in sorted(spare)]

    def _scores(self, peer: str, weight: float) -> NDArray[numpy.float64]:
        """The highest score has the piece. When watchers come and go, and weights change, few pieces change hands."""
        seed = zlib.crc32(f"{self._blob_id} {peer}".encode())
        chances = default_rng(seed).random(len(self._left))
        return weight / -numpy.log(numpy.maximum(chances, 1e-12))


def beyond_own(worths: Mapping[str, float]) -> dict[str, float]:
    """What is left of each for relaying, if all have a payload to spread, as we do, and send it once: each must get as
    many payloads as there are others, so it is that part of what a peer sends on average."""
    own = sum(worths.values()) / len(worths) ** 2
    return {peer: max(worth - own, 0.0) for peer, worth in worths.items()}


def relative_worth(worth: float, most: float) -> float:
    """1 is what the best is worth."""
    return _FLOOR + (1.0 - _FLOOR) * (worth / most if most > 0 else 1.0)


class Dealings:
    """Of all blobs that only we have. `worth(peer)`: how much it can relay, in any unit. `admit`: whom we know."""

    def __init__(self, notices: Notices, admit: Admit = everyone) -> None:
        self._admit = admit
        self.worth: Callable[[PeerId], float] = lambda peer: 0.0
        self._notices = notices
        self._open: dict[str, Dealing] = {}

    def begin(self, blob_id: str, pieces: int) -> None:
        if pieces <= _MAX_PIECES:
            self._open[blob_id] = Dealing(blob_id, pieces)
            forget_oldest(self._open, _MAX_BLOBS)

    def bitmap(self, blob_id: str, peer: PeerId, whole: bytes) -> bytes:
        """What `peer`, who watches it, may hear of."""
        dealing = self._open.get(blob_id)
        if dealing is None:
            return whole
        now = trio.current_time()
        dealing.deal({one: self.worth(one) for one in self._notices.watchers(blob_id) if self._admit(one)}, now)
        if dealing.over(now):
            self._end(blob_id)
            return whole
        self._notices.notify(blob_id)  # look again soon: nothing else says that worths changed or time went by
        return dealing.bitmap(peer)

    def asked(self, blob_id: str, peer: PeerId, piece: int) -> None:
        if blob_id in self._open:
            self._open[blob_id].asked(peer, piece)

    def is_first(self, blob_id: str, piece: int) -> bool:
        dealing = self._open.get(blob_id)
        return dealing is not None and dealing.is_first(piece)

    def left(self, blob_id: str, peer: PeerId, piece: int) -> None:
        """It was sent to `peer`; what a stranger has is as if nobody had it."""
        dealing, now = self._open.get(blob_id), trio.current_time()
        if dealing is not None and self._admit(peer):
            dealing.left(piece, now)
            if dealing.over(now):
                self._end(blob_id)

    def _end(self, blob_id: str) -> None:
        del self._open[blob_id]
        self._notices.notify(blob_id)
