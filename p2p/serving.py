"""The serving half of the exchange: answers one stream's requests, in order.

    {"want": id, "brief": bool}  ->  {"manifest": map (not if brief), "have": bitmap} | {"absent": true}
    {"piece": index, "of": id}   ->  a raw frame with the piece; an empty one if it cannot be had now. Without "of",
                                     of the blob wanted last
    {"cancel": index, "of": id}  ->  nothing; if the piece's turn has not come yet, its frame will be empty
    {"hello": true}              ->  {"ok": true}
    {"done": true}               ->  {"ok": true}; then the requester closes
    {"watch": [id, ...]}         ->  {"news": [[id, bitmap or nil], ...]} from now on, about those of them that
                                     changed, and an empty one now and then as a sign of life. The requester may
                                     send another list. Nothing else is answered on that stream any more

Who comes when we are at a limit reads {"busy": true}. Requests may be sent ahead of the answers.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2p._background import leaves
from p2p.blobs import BlobStore
from p2p.errors import BlobCorrupt, BlobError, Busy, P2pError, ProtocolViolation, StreamClosed
from p2p.exchange_settings import MAX_MANIFEST_FRAME_BYTES, ExchangeSettings, Offload, Priority, call
from p2p.limits import ByteBudget, SlotLimiter
from p2p.manifest import Manifest, is_blob_id
from p2p.news import Notices, push_news, watched_ids
from p2p.protocols import PeerId, Stream
from p2p.stall import StallGuard
from p2p.turns import Turn, Turns
from p2p.wire import Fields, receive_frame, send_bytes, send_frame

_MAX_REQUEST_BYTES = 256 << 10  # a list of blobs to watch
_MAX_QUEUED = 512
_GOODBYE_SECONDS = 2.0


@dataclass
class Queue:
    """Requests of one stream that have been read ahead."""

    requests: deque[Fields] = field(default_factory=deque)
    changed: trio.Event = field(default_factory=trio.Event)
    blob_id: str = ""  # wanted last
    answering: tuple[str, int] | None = None  # the piece at the head, until its turn comes
    ended: bool = False

    def cancel(self, blob_id: str, piece: int) -> None:
        """Its frame will be empty; nothing if it is on its way already."""
        if self.answering == (blob_id, piece):
            self.answering = None
        for place, request in enumerate(self.requests):
            if request.has("piece") and request.as_map().get("of") == blob_id and request.as_map()["piece"] == piece:
                self.requests[place] = Fields({"void": True})

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Serving:
    """What is here and not withheld, for everyone, within limits."""

    def __init__(
        self, store: BlobStore, settings: ExchangeSettings, offload: Offload, notices: Notices, turns: Turns
    ) -> None:
        self._store = store
        self._settings = settings
        self._offload = offload
        self._notices = notices
        self._turns = turns
        self._slots = SlotLimiter(settings.streams_per_peer, settings.streams_total)
        self._budget = ByteBudget(settings.send_budget_bytes)
        self.withheld: set[str] = set()
        self.priority_of: Callable[[str], int] = lambda blob_id: Priority.CONTRIBUTION
        self.sent_bytes: Counter[PeerId] = Counter()
        self.on_bytes: Callable[[PeerId, str, int], None] = lambda peer, blob_id, count: None
        self.on_corrupt: Callable[[str], None] = lambda blob_id: None

    async def answer(self, stream: Stream) -> None:
        """Serve one inbound stream to its end. Raises ProtocolViolation, TransportError."""
        guarded = StallGuard(stream, self._settings.stall_seconds, self._settings.least_bytes_per_second)
        try:
            with self._slots.slot(stream.remote):
                await self._converse(stream, guarded)
        except Busy:
            await send_frame(guarded, {"busy": True})
            await self._goodbye(stream)

    async def _converse(self, stream: Stream, guarded: StallGuard) -> None:
        queue = Queue()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_ahead, stream, queue)
                await self._answer_all(stream, guarded, queue)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _gravest(group) from None

    async def _read_ahead(self, stream: Stream, queue: Queue) -> None:
        try:
            while True:
                request = Fields(await receive_frame(stream, _MAX_REQUEST_BYTES))
                if request.has("cancel"):
                    queue.cancel(_blob_id(request, "of"), request.number("cancel", 0, 2**32))
                    continue
                queue.requests.append(request)
                queue.wake()
                while len(queue.requests) >= _MAX_QUEUED:
                    await queue.changed.wait()
        except StreamClosed:
            queue.ended = True  # the requester closes, with or without a word
            queue.wake()

    async def _answer_all(self, stream: Stream, guarded: StallGuard, queue: Queue) -> None:
        while True:
            with trio.move_on_after(self._settings.idle_seconds) as idle:
                while not queue.requests and not queue.ended:
                    await queue.changed.wait()
            if idle.cancelled_caught or not queue.requests:
                return None
            request = queue.requests.popleft()
            queue.wake()
            if request.has("want"):
                queue.blob_id = await self._offer(guarded, request)
            elif request.has("piece"):
                await self._send_piece(guarded, request, queue)
            elif request.has("watch"):
                return await self._push_news(guarded, request, queue)
            elif request.has("void"):
                await send_bytes(guarded, b"")
            elif request.has("hello"):
                await send_frame(guarded, {"ok": True})
            elif request.flag("done"):
                await send_frame(guarded, {"ok": True})
                return await self._goodbye_read(queue)

    async def _offer(self, stream: StallGuard, request: Fields) -> str:
        blob_id = _blob_id(request, "want")
        manifest, bitmap = self._available(blob_id)
        if manifest is None or bitmap is None:
            await send_frame(stream, {"absent": True})
            return ""
        offer: dict[str, object] = {"have": bitmap}
        if not request.has("brief") or not request.flag("brief"):
            offer["manifest"] = manifest.as_message()
        await send_frame(stream, offer, MAX_MANIFEST_FRAME_BYTES)
        return blob_id

    async def _send_piece(self, stream: StallGuard, request: Fields, queue: Queue) -> None:
        index = request.number("piece", 0, 2**32)
        blob_id = _blob_id(request, "of") if request.has("of") else queue.blob_id
        manifest, _ = self._available(blob_id)
        if manifest is None:
            return await send_bytes(stream, b"")
        if index >= manifest.pieces:
            raise ProtocolViolation(f"asked for piece {index} of {manifest.pieces}")
        length = manifest.length(index)
        turn = Turn(stream.remote, blob_id, index, length, self.priority_of(blob_id))
        queue.answering = (blob_id, index)
        async with self._turns.take(turn), self._budget.hold(length):
            if queue.answering is None:
                self._turns.give_back(turn)
                return await send_bytes(stream, b"")
            queue.answering = None
            data = await self._read(blob_id, index, length)
            await send_bytes(stream, data)
        self.sent_bytes[stream.remote] += len(data)
        self.on_bytes(stream.remote, blob_id, len(data))
        return None

    async def _read(self, blob_id: str, index: int, length: int) -> bytes:
        """The piece, or nothing: what went bad on disk is never served."""
        if blob_id in self.withheld:
            return b""  # since it was asked for
        try:
            return await call(self._offload, length, self._store.read_piece, blob_id, index)
        except BlobCorrupt:
            self.on_corrupt(blob_id)
            self._notices.notify(blob_id)
        except BlobError:
            pass  # deleted meanwhile; the requester learns that it cannot be had here
        return b""

    async def _push_news(self, stream: StallGuard, request: Fields, queue: Queue) -> None:
        with self._notices.watching(watched_ids(request)) as watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(push_news, stream, watch, self._bitmap, self._settings)
                while not queue.ended:
                    while queue.requests:
                        watch.follow(watched_ids(queue.requests.popleft()))
                    queue.wake()
                    await queue.changed.wait()
                nursery.cancel_scope.cancel()

    def _bitmap(self, blob_id: str) -> bytes | None:
        return self._available(blob_id)[1]

    def _available(self, blob_id: str) -> tuple[Manifest | None, bytes | None]:
        if not blob_id or blob_id in self.withheld:
            return None, None
        bitmap = self._store.bitmap(blob_id)
        return (self._store.manifest(blob_id), bitmap) if bitmap is not None else (None, None)

    @staticmethod
    async def _goodbye_read(queue: Queue) -> None:
        """Closing first could cut off our last words: wait for the requester to close."""
        with trio.move_on_after(_GOODBYE_SECONDS):
            while not queue.ended:
                queue.requests.clear()
                queue.wake()
                await queue.changed.wait()

    @staticmethod
    async def _goodbye(stream: Stream) -> None:
        with trio.move_on_after(_GOODBYE_SECONDS):
            try:
                while await stream.receive_some(_MAX_REQUEST_BYTES):
                    pass
            except P2pError:
                pass


def _blob_id(request: Fields, name: str) -> str:
    blob_id = request.text(name, 64)
    if not is_blob_id(blob_id):
        raise ProtocolViolation(f"not a blob id: {blob_id!r}")
    return blob_id


def _gravest(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """A violation before an accident; anything that is neither stays in its group."""
    found = leaves(group)
    if not all(isinstance(error, P2pError) for error in found):
        return group
    return next((error for error in found if isinstance(error, ProtocolViolation)), found[0])
