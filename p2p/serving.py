"""The serving half of the exchange: answers one stream's requests, in order.

    {"want": id, "brief": bool}  ->  {"manifest": map (not if brief), "have": bitmap} | {"absent": true}
    {"piece": index, "of": id}   ->  a raw frame: a byte that is 1 if our uplink could carry more than we are asked
                                     for, then the piece; an empty one if it cannot be had now. Without "of", of the
                                     blob wanted last
    {"cancel": index, "of": id}  ->  nothing; if the piece's turn has not come yet, its frame will be empty
    {"hello": true}              ->  {"ok": true}
    {"done": true}               ->  {"ok": true}; then the requester closes
    {"watch": [id, ...], "list": n}  ->  {"news": [[place in list n, bitmap or nil], ...], "list": n} from now on,
                                     about those of them that changed, and an empty one now and then as a sign of life.
                                     The requester may send another list. Nothing else is answered on that stream any
                                     more

Who comes when we are at a limit reads {"busy": true}. Requests may be sent ahead of the answers. Every piece is its
own acknowledgement: its length is told and its hash is in the manifest, so who got it whole knows without a word from
us; who did not asks again, here or elsewhere. Nor do we need one from them.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import trio

from p2p._background import leaves
from p2p.blobs import BlobStore
from p2p.dealing import Dealings
from p2p.errors import BlobCorrupt, BlobError, Busy, P2pError, ProtocolViolation, StreamClosed
from p2p.exchange_settings import BUSY, IDLE, MAX_MANIFEST_FRAME_BYTES, ExchangeSettings, Offload, Priority, call
from p2p.limits import ByteBudget, SlotLimiter, count, everyone
from p2p.manifest import Manifest
from p2p.news import Notices, push_news
from p2p.pace import Charged
from p2p.protocols import PeerId, Stream
from p2p.requests import (
    MAX_QUEUED,
    MAX_REQUEST_BYTES,
    MAX_SMALL_BYTES,
    Done,
    Hello,
    PieceRequest,
    Queue,
    Void,
    Want,
    WatchList,
    parse_request,
)
from p2p.stall import StallGuard
from p2p.turns import MANIFEST, Turn, Turns
from p2p.wire import ReadAhead, receive_length, receive_rest, send_bytes, send_frame, unpack

_GOODBYE_SECONDS = 2.0
_AHEAD_BYTES = 1 << 10  # received with the length of a request: a few of them
_OFFER_BYTES = 128  # of a manifest's frame besides hashes and bitmap


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
        self.admit: Callable[[PeerId], bool] = everyone
        admit = lambda peer: self.admit(peer)  # noqa: E731
        self._slots = SlotLimiter(settings.streams_per_peer, settings.streams_total, admit)
        self._watches = SlotLimiter(settings.watches_per_peer, max(settings.streams_total // 3, 1), admit)
        self._budget = ByteBudget(settings.send_budget_bytes, admit)
        self.dealings = Dealings(notices, admit)
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
            with ExitStack() as held:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_ahead, stream, queue, held)
                    await self._answer_all(guarded, Charged(guarded, self._turns.charge), queue)
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _gravest(group) from None

    async def _read_ahead(self, stream: Stream, queue: Queue, held: ExitStack) -> None:
        """Raises Busy: a list of blobs to watch takes long to read and room to keep, so a peer may have few of them."""
        asked = ReadAhead(stream, _AHEAD_BYTES)
        try:
            while True:
                length = await receive_length(asked, MAX_REQUEST_BYTES)
                is_long, watched = length > MAX_SMALL_BYTES, queue.watches
                if is_long and not watched:
                    held.enter_context(self._watches.slot(stream.remote))
                request = parse_request(unpack(await receive_rest(asked, length)))
                if is_long and not isinstance(request, WatchList):
                    raise ProtocolViolation(f"a request of {length} bytes")
                queue.add(request)
                if isinstance(request, PieceRequest) and request.blob_id is not None:
                    self.dealings.asked(request.blob_id, stream.remote, request.index)
                if queue.watches and not watched and not is_long:
                    held.enter_context(self._watches.slot(stream.remote))
                while len(queue.requests) >= MAX_QUEUED:
                    await queue.changed.wait()
        except StreamClosed:
            queue.end()

    async def _answer_all(self, guarded: StallGuard, words: Charged, queue: Queue) -> None:
        while True:
            with trio.move_on_after(self._settings.idle_seconds) as idle:
                while not queue.requests and not queue.ended:
                    await queue.changed.wait()
            if idle.cancelled_caught or not queue.requests:
                return None
            request = queue.requests.popleft()
            queue.wake()
            match request:
                case Want():
                    queue.blob_id = await self._offer(guarded, request)
                case PieceRequest():
                    await self._send_piece(guarded, request, queue)
                case WatchList():
                    return await self._push_news(guarded.remote, words, request, queue)
                case Void():
                    await send_bytes(guarded, b"")
                case Hello():
                    await send_frame(words, {"ok": True})
                case Done():
                    await send_frame(guarded, {"ok": True})
                    return await self._goodbye_read(queue)

    async def _offer(self, stream: StallGuard, request: Want) -> str:
        manifest, bitmap = self._available(request.blob_id)
        if manifest is None or bitmap is None:
            await send_frame(Charged(stream, self._turns.charge), {"absent": True})
            return ""
        size_bytes = _OFFER_BYTES + len(bitmap) + (0 if request.brief else len(manifest.hashes))
        stranger = not self.admit(stream.remote)
        turn = Turn(stream.remote, request.blob_id, MANIFEST, size_bytes, Priority.CONTROL, stranger)
        async with self._turns.take(turn), self._budget.hold(size_bytes, stream.remote):
            offer: dict[str, object] = {"have": bitmap}
            if not request.brief:
                offer["manifest"] = manifest.as_message()
            await send_frame(self._turns.paced(stream, turn), offer, MAX_MANIFEST_FRAME_BYTES)
        return request.blob_id

    async def _send_piece(self, stream: StallGuard, request: PieceRequest, queue: Queue) -> None:
        index = request.index
        blob_id = queue.blob_id if request.blob_id is None else request.blob_id
        manifest, _ = self._available(blob_id)
        if manifest is None:
            return await send_bytes(stream, b"")
        if index >= manifest.pieces:
            raise ProtocolViolation(f"asked for piece {index} of {manifest.pieces}")
        length = manifest.length(index)
        stranger = not self.admit(stream.remote)
        first = self.dealings.is_first(blob_id, index)
        turn = Turn(stream.remote, blob_id, index, length, self.priority_of(blob_id), stranger, first)
        queue.answering = (blob_id, index)
        async with self._turns.take(turn), self._budget.hold(length, stream.remote):
            if queue.answering is None:
                self._turns.give_back(turn)
                return await send_bytes(stream, b"")
            queue.answering = None
            data = await self._read(blob_id, index, length)
            self.dealings.left(blob_id, stream.remote, index)
            head = (IDLE if self._turns.idle else BUSY) if data else b""
            await send_bytes(self._turns.paced(stream, turn), data, head)
        count(self.sent_bytes, stream.remote, len(data))
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

    async def _push_news(self, peer: PeerId, stream: Charged, request: WatchList, queue: Queue) -> None:
        with self._notices.watching(peer, request.blob_ids, request.number) as watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(push_news, stream, watch, self._bitmap, self._settings)
                while not queue.ended:
                    while queue.requests:
                        newer = queue.requests.popleft()
                        assert isinstance(newer, WatchList)
                        watch.follow(newer.blob_ids, newer.number)
                    queue.wake()
                    await queue.changed.wait()
                nursery.cancel_scope.cancel()

    def _bitmap(self, blob_id: str, peer: PeerId) -> bytes | None:
        bitmap = self._available(blob_id)[1]
        return None if bitmap is None else self.dealings.bitmap(blob_id, peer, bitmap)

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
                while await stream.receive_some(MAX_REQUEST_BYTES):
                    pass
            except P2pError:
                pass


def _gravest(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """A violation before an accident; anything that is neither stays in its group."""
    found = leaves(group)
    if not all(isinstance(error, P2pError) for error in found):
        return group
    return next((error for error in found if isinstance(error, ProtocolViolation)), found[0])
