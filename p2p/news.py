"""Which pieces we have, told to those who watch as they come."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from p2p.errors import ProtocolViolation
from p2p.exchange_settings import ExchangeSettings
from p2p.manifest import MAX_BITMAP_BYTES, is_blob_id
from p2p.protocols import PeerId
from p2p.wire import ByteStream, Fields, send_frame

MAX_WATCHED = 2048
_FRAME_BYTES = 256 << 10
_ITEM_BYTES = 10  # of news of one blob besides the bitmap
_EXCESS_FACTOR = 4.0  # of the rate that news come at


class Watch:
    """What one requester wants to hear of, and what it has not heard yet."""

    def __init__(self, peer: PeerId, blob_ids: Sequence[str], number: int) -> None:
        self.peer = peer
        self.news = trio.Event()
        self._places: dict[str, int] = {}
        self._fresh: set[str] = set()
        self.told: dict[str, bytes | None] = {}
        self.follow(blob_ids, number)

    def follow(self, blob_ids: Sequence[str], number: int) -> None:
        before, self._places = self._places, {blob_id: place for place, blob_id in enumerate(blob_ids)}
        self.list = number
        wanted = self._places.keys()
        self._fresh = (self._fresh & wanted) | (wanted - before.keys())
        self.told = {blob_id: bitmap for blob_id, bitmap in self.told.items() if blob_id in wanted}
        if self._fresh:
            self.news.set()

    def follows(self, blob_id: str) -> bool:
        return blob_id in self._places

    def place(self, blob_id: str) -> int | None:
        """In the newest list."""
        return self._places.get(blob_id)

    def tell(self, blob_id: str) -> None:
        if blob_id in self._places:
            self._fresh.add(blob_id)
            self.news.set()

    def take(self) -> set[str]:
        """What there may be news of; all of it if nothing was told: the store changes by other hands, too."""
        fresh, self._fresh = self._fresh or set(self._places), set()
        self.news = trio.Event()
        return fresh


class Notices:
    """Passes on that something about a blob changed here."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()

    def notify(self, blob_id: str) -> None:
        for watch in self._watches:
            watch.tell(blob_id)

    def watchers(self, blob_id: str) -> set[PeerId]:
        return {watch.peer for watch in self._watches if watch.follows(blob_id)}

    @contextmanager
    def watching(self, peer: PeerId, blob_ids: Sequence[str], number: int) -> Iterator[Watch]:
        watch = Watch(peer, blob_ids, number)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)


async def push_news(
    stream: ByteStream, watch: Watch, bitmap: Callable[[str, PeerId], bytes | None], settings: ExchangeSettings
) -> None:
    """For ever; the more there is to tell, the less often. What turns out to be no news is not told: a frame costs
    both sides more than finding out."""
    said_at = -math.inf
    while True:
        if not watch.news.is_set():
            with trio.move_on_at(said_at + settings.update_wait_seconds):
                await watch.news.wait()
        sent_bytes = 0
        for frame in _frames(watch, bitmap):
            if frame or trio.current_time() - said_at >= settings.update_wait_seconds:
                await send_frame(stream, {"news": frame, "list": watch.list})
                said_at = trio.current_time()
            sent_bytes += sum(len(bits or b"") for _, bits in frame)
        await trio.sleep(max(settings.news_seconds, sent_bytes / settings.news_bytes_per_second))


def _frames(watch: Watch, bitmap: Callable[[str, PeerId], bytes | None]) -> Iterator[list[tuple[int, bytes | None]]]:
    """At least one: an empty one is a sign of life. Each is of the list that is the newest when it is taken."""
    frame: list[tuple[int, bytes | None]] = []
    frame_bytes = 0
    for blob_id in watch.take():
        if frame_bytes > _FRAME_BYTES:
            yield frame
            frame, frame_bytes = [], 0
        place = watch.place(blob_id)
        if place is None:
            continue  # another list came meanwhile
        bits = bitmap(blob_id, watch.peer)
        if bits and not any(bits):
            bits = None  # it has pieces, and none is here
        if watch.told.get(blob_id) == bits:
            continue
        watch.told[blob_id] = bits
        frame.append((place, bits))
        frame_bytes += len(bits or b"") + _ITEM_BYTES
    yield frame


class Patience:
    """With a holder's news. They come in bursts, at first of all that is watched; on average they are few."""

    def __init__(self, settings: ExchangeSettings) -> None:
        self._rate = _EXCESS_FACTOR * settings.news_bytes_per_second
        self._room_bytes = self._rate * settings.stall_seconds  # what was held up on its way comes at once
        self._excess_bytes = 0.0
        self._watched = 0  # at most so far
        self._at = trio.current_time()

    def heard(self, size_bytes: int, watched: int) -> None:
        """Raises ProtocolViolation."""
        now = trio.current_time()
        self._excess_bytes = max(self._excess_bytes - (now - self._at) * self._rate, 0.0) + size_bytes
        self._at, self._watched = now, max(self._watched, watched)
        if self._excess_bytes > self._room_bytes + self._watched * (MAX_BITMAP_BYTES + _ITEM_BYTES):
            raise ProtocolViolation(f"news of more than {self._rate:g} bytes a second")


def watched_ids(request: Fields) -> list[str]:
    """Raises ProtocolViolation."""
    blob_ids = request.items("watch", MAX_WATCHED)
    if not all(isinstance(one, str) and is_blob_id(one) for one in blob_ids):
        raise ProtocolViolation("asked to watch what is not a blob id")
    return blob_ids
