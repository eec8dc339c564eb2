"""Our dealings with one holder: a stream of news about what it has, and lanes that pieces come on.

See `p2p.serving` for the protocol. What to ask is for `Fetching` to say; here it is asked and received.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from p2p.agenda import Ask
from p2p.errors import Busy, ProtocolViolation, TransportTimeout
from p2p.exchange_settings import IDLE, MAX_MANIFEST_FRAME_BYTES, PROTOCOL, ExchangeSettings, Priority
from p2p.lane import Hello, Lane, ManifestAsk
from p2p.manifest import MAX_BITMAP_BYTES
from p2p.news import MAX_WATCHED, Patience
from p2p.protocols import PeerId, Stream, Transport
from p2p.watchlists import WatchLists
from p2p.wire import (
    MAX_FRAME_BYTES,
    Fields,
    ReadAhead,
    receive_buffer,
    receive_frame,
    receive_length,
    receive_rest,
    send_frame,
    unpack,
)

_CLOSE_SECONDS = 1.0
_GATHER_SECONDS = 0.02
_TRICKLE_BYTES = 12 << 10  # who brings less in that time is left to gather
_TAIL_BYTES = 8 << 10  # of a frame are not waited for
_AHEAD_BYTES, _NEWS_AHEAD_BYTES = 32 << 10, 4 << 10  # received with the length of a frame
_LEAST_BYTES_PER_SECOND = 16 << 10  # at which a piece arrives once it began to
_LANE_BYTES = 64 << 10  # asked on one lane before the next is opened: who has one gets half of who has two
_PROGRESS_BYTES = 64 << 10  # of a piece that is not whole yet count as much as a piece
_REMEMBERED_BYTES = 1 << 20  # of bitmaps a holder told us; what is more is as if not told


class Desk(Protocol):
    """Who says what to ask, and takes what comes."""

    def next_ask(self, holder: PeerId) -> "Ask | ManifestAsk | None": ...

    def take_news(self, holder: PeerId, blob_id: str, bitmap: bytes | None) -> None: ...

    def take_piece(self, holder: PeerId, ask: Ask, data: bytearray, *, idle: bool) -> Awaitable[None]: ...

    def take_manifest(self, holder: PeerId, blob_id: str, answer: Fields) -> Awaitable[None]: ...

    def may_receive(self, ask: Ask) -> Awaitable[None]: ...

    def overheard(self, size_bytes: int) -> None: ...

    def room_for(self, holder: PeerId, ask: Ask) -> AbstractAsyncContextManager[None]: ...


class Session:
    """`run` lasts until the holder fails us or `scope` is cancelled. `useful_at`: when something last came of it."""

    def __init__(self, holder: PeerId, desk: Desk, transport: Transport, settings: ExchangeSettings) -> None:
        self.holder = holder
        self.scope = trio.CancelScope()
        self.fruitful = False
        self.barren = False  # given up because nothing came of it
        self.refused = False  # it did not give something that it says it has
        self.cancelled: set[tuple[str, int]] = set()  # (blob id, piece) that it need not give
        self.useful_at = self.heard_at = trio.current_time()
        self.watched: frozenset[str] = frozenset()
        self.have: dict[str, bytes] = {}  # what it said last of those; not judged
        self._desk = desk
        self._transport = transport
        self._settings = settings
        self._lanes: list[Lane] = []
        self._patience = Patience(settings)
        self._progress_bytes = 0
        self._nursery: trio.Nursery | None = None
        self._asked_to_watch: frozenset[str] = frozenset()  # the holder knows what it told us of these
        self._lists = WatchLists()
        self._watching_changed = trio.Event()
        self._woken = trio.Event()

    def watch(self, blob_ids: Iterable[str]) -> None:
        blob_ids = frozenset(sorted(blob_ids)[:MAX_WATCHED])
        if blob_ids != self.watched:
            self.watched = blob_ids
            self._watching_changed.set()

    def remember(self, blob_id: str, bitmap: bytes | None) -> bool:
        """Whether there is room for it: what is said of blobs of which we know nothing is not kept without end."""
        self.have.pop(blob_id, None)
        if bitmap is None or blob_id not in self._asked_to_watch:
            return True
        if sum(map(len, self.have.values())) + len(bitmap) > _REMEMBERED_BYTES:
            return False
        self.have[blob_id] = bitmap
        return True

    def wake(self) -> None:
        """There may be something to ask."""
        self._woken.set()

    def waits_since(self) -> float | None:
        """Since when nothing came although something was asked; None if nothing is due."""
        due = any(not isinstance(one, Hello) for lane in self._lanes for one in lane.asked)
        return self.useful_at if due else None

    def overdue(self, patience_seconds: Callable[[int], float]) -> list[Ask]:
        """What was asked on lanes whose oldest question waits for too long, whatever comes on the others; how long it
        may, given the bytes that it and the other lanes wait for."""
        now, total_bytes = trio.current_time(), sum(lane.asked_bytes for lane in self._lanes)
        overdue: list[Ask] = []
        for lane in self._lanes:
            asks = [one for one in lane.asked if isinstance(one, Ask)]
            ahead_bytes = total_bytes - sum(one.size_bytes for one in asks[1:])
            if asks and now - lane.asked_at[0] > patience_seconds(ahead_bytes):
                overdue += asks
        return overdue

    def progressed(self, size_bytes: int) -> None:
        self._progress_bytes += size_bytes
        if self._progress_bytes >= _PROGRESS_BYTES:
            self._useful()

    def _useful(self) -> None:
        self._progress_bytes = 0
        self.useful_at = trio.current_time()

    def give_up(self) -> None:
        self.barren = True
        self.scope.cancel()

    def cancel(self, blob_id: str, piece: int) -> None:
        """The holder need not send it any more. Too late is no harm."""
        self.cancelled.add((blob_id, piece))
        nursery = self._nursery
        if nursery is None or nursery.cancel_scope.cancel_called or self.scope.cancel_called:
            return  # it ends, though its holder is not let go of yet
        for lane in self._lanes:
            if any(isinstance(one, Ask) and (one.blob_id, one.piece) == (blob_id, piece) for one in lane.asked):
                # not cut short, or the next question would begin in the middle of this frame
                nursery.start_soon(lane.say, {"cancel": piece, "of": blob_id})

    async def run(self) -> None:
        """Raises an exception group of ProtocolViolation (it lies) and TransportError."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._follow_news)
            nursery.start_soon(self._watch_over)
            while True:
                self._woken = trio.Event()
                what = self._desk.next_ask(self.holder)
                if what is None:
                    await self._woken.wait()
                    continue
                if isinstance(what, Ask):
                    await self._desk.may_receive(what)
                lane = await self._lane(nursery, self._lane_priority(what))
                if self.waits_since() is None:
                    self.useful_at = trio.current_time()
                await lane.ask(what)

    def _lane_priority(self, what: Ask | ManifestAsk) -> int:
        """A manifest opens the lane that its pieces come on, but waits behind no piece."""
        behind = isinstance(what, ManifestAsk) and any(lane.asked_bytes for lane in self._lanes)
        return Priority.CONTROL if behind else what.priority

    async def _lane(self, nursery: trio.Nursery, priority: int) -> Lane:
        lanes = [lane for lane in self._lanes if lane.priority == priority]
        best = min(lanes, key=lambda lane: lane.asked_bytes, default=None)
        most = self._settings.lanes if self.fruitful else 1  # opening them all at the start costs everybody time
        if best is not None and (best.asked_bytes < _LANE_BYTES or len(lanes) >= most):
            return best
        lane = Lane(await self._open(), priority)
        self._lanes.append(lane)
        await lane.ask(Hello())
        nursery.start_soon(self._receive, lane)
        return lane

    async def _open(self) -> Stream:
        with trio.move_on_after(self._settings.connect_seconds):
            return await self._transport.open(self.holder, PROTOCOL)
        raise TransportTimeout(f"{self.holder}: no stream in {self._settings.connect_seconds} s")

    async def _follow_news(self) -> None:
        stream = await self._open()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._say_what_we_watch, stream)
                heard = _Heard(ReadAhead(stream, _NEWS_AHEAD_BYTES), self, self._overheard)
                while True:
                    answer = Fields(await receive_frame(heard, MAX_FRAME_BYTES))
                    if answer.has("busy"):
                        raise Busy(f"{self.holder} is busy")
                    blob_ids = self._lists.named(answer.number("list", 0, 2**32))
                    for item in answer.items("news", MAX_WATCHED):
                        self._take_news(item, blob_ids)
        finally:
            await _close(stream)

    def _overheard(self, size_bytes: int) -> None:
        self._desk.overheard(size_bytes)
        self._patience.heard(size_bytes, len(self.watched))

    def _take_news(self, item: object, blob_ids: list[str]) -> None:
        match item:
            case [int(place), bytes() | None as bitmap] if (
                0 <= place < len(blob_ids) and len(bitmap or b"") <= MAX_BITMAP_BYTES
            ):
                self._desk.take_news(self.holder, blob_ids[place], bitmap)
            case _:
                raise ProtocolViolation("news that are none")

    async def _say_what_we_watch(self, stream: Stream) -> None:
        while True:
            self._watching_changed = trio.Event()
            self._asked_to_watch = self.watched
            self.have = {blob_id: bitmap for blob_id, bitmap in self.have.items() if blob_id in self.watched}
            await send_frame(stream, self._lists.next(self.watched))
            await self._watching_changed.wait()
            await self._lists.room()

    async def _watch_over(self) -> None:
        """Signs of life come on the stream of news; when neither they nor pieces do, the holder is gone."""
        while True:
            silent_seconds = trio.current_time() - self.heard_at
            if silent_seconds >= self._settings.stall_seconds:
                raise TransportTimeout(f"{self.holder}: silent for {silent_seconds:.0f} s")
            await trio.sleep(self._settings.stall_seconds - silent_seconds + 1e-3)

    async def _receive(self, lane: Lane) -> None:
        heard = _Heard(ReadAhead(lane.stream, _AHEAD_BYTES), self, self.progressed)
        try:
            while await self._asked(lane):
                match lane.asked[0]:
                    case Ask() as ask:
                        size_bytes = await receive_length(heard, 1 + ask.size_bytes)  # comes when its turn has come
                        async with self._desk.room_for(self.holder, ask):
                            await self._receive_piece(lane, heard, ask, size_bytes)
                    case ManifestAsk(blob_id):
                        body = await receive_buffer(heard, MAX_MANIFEST_FRAME_BYTES)
                        self._desk.overheard(len(body))
                        answer = Fields(unpack(body))
                        lane.landed()
                        self._useful()
                        await self._desk.take_manifest(self.holder, blob_id, answer)
                    case Hello():
                        if Fields(await receive_frame(heard)).has("busy"):
                            raise Busy(f"{self.holder} is busy")
                        lane.landed()
                self.wake()
        finally:
            await _close(lane.stream)

    async def _receive_piece(self, lane: Lane, heard: "_Heard", ask: Ask, size_bytes: int) -> None:
        """Who sends byte by byte does not keep others' pieces out of memory for long."""
        patience_seconds = 2 * self._settings.stall_seconds + ask.size_bytes / _LEAST_BYTES_PER_SECOND
        with trio.move_on_after(patience_seconds) as patience:
            data = await receive_rest(heard, size_bytes)
        if patience.cancelled_caught:
            raise TransportTimeout(f"{self.holder}: a piece of {ask.size_bytes} bytes took {patience_seconds:.0f} s")
        idle = data[:1] == IDLE
        del data[:1]
        lane.landed()
        self.fruitful = self.fruitful or bool(data)
        if data or (ask.blob_id, ask.piece) in self.cancelled:
            self._useful()
        await self._desk.take_piece(self.holder, ask, data, idle=idle)

    async def _asked(self, lane: Lane) -> bool:
        """Wait for a question; after a long silence the lane is given up, before the holder does so."""
        with trio.move_on_after(self._settings.idle_seconds / 3):
            while not lane.asked:
                lane.filled = trio.Event()
                await lane.filled.wait()
        if not lane.asked:
            self._lanes.remove(lane)
        return bool(lane.asked)


class _Heard:
    """A stream whose every byte is a sign of life. What trickles in is left to gather: reading each packet by itself
    costs more than all the rest."""

    def __init__(
        self, stream: ReadAhead, session: Session, progressed: Callable[[int], None] = lambda size_bytes: None
    ) -> None:
        self._stream = stream
        self._progressed = progressed
        self._session = session
        self._trickles = False

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        held = bool(self._stream.held)  # that says nothing of how the rest comes
        if self._trickles and not held and max_bytes > _TAIL_BYTES:
            await trio.sleep(_GATHER_SECONDS)
        data = await self._stream.receive_some(max_bytes)
        self._trickles = not held and len(data) < min(max_bytes, _TRICKLE_BYTES)
        self._session.heard_at = trio.current_time()
        self._progressed(len(data))
        return data


async def _close(stream: Stream) -> None:
    with trio.move_on_after(_CLOSE_SECONDS, shield=True):
        await stream.aclose()
