"""The serving half of the exchange: answers one stream's requests, in order.

    {"want": id, "brief": bool}  ->  {"manifest": map (not if brief), "have": bitmap} | {"absent": true}
    {"piece": index}             ->  a raw frame with the piece; an empty one if it cannot be had now
    {"update": count}            ->  {"have": bitmap}, as soon as more than `count` pieces are here, or after a while
    {"done": true}               ->  {"ok": true}; then the requester closes

Who comes when we are at a limit reads {"busy": true}. Requests may be sent ahead of the answers.
"""

from collections import Counter
from collections.abc import Callable

import trio

from p2p.blobs import BlobStore
from p2p.errors import BlobCorrupt, BlobError, Busy, P2pError, ProtocolViolation, StreamClosed
from p2p.exchange_settings import MAX_MANIFEST_FRAME_BYTES, ExchangeSettings, Offload, call
from p2p.limits import ByteBudget, SlotLimiter
from p2p.manifest import Manifest, is_blob_id
from p2p.protocols import PeerId, Stream
from p2p.stall import StallGuard
from p2p.wire import Fields, receive_frame, send_bytes, send_frame

_MAX_REQUEST_BYTES = 1 << 10
_GOODBYE_SECONDS = 2.0


class Notices:
    """Wakes those who wait for more of a blob."""

    def __init__(self) -> None:
        self._events: dict[str, trio.Event] = {}

    def notify(self, blob_id: str) -> None:
        event = self._events.pop(blob_id, None)
        if event is not None:
            event.set()

    async def wait(self, blob_id: str) -> None:
        await self._events.setdefault(blob_id, trio.Event()).wait()


class Serving:
    """What is here and not withheld, for everyone, within limits."""

    def __init__(self, store: BlobStore, settings: ExchangeSettings, offload: Offload, notices: Notices) -> None:
        self._store = store
        self._settings = settings
        self._offload = offload
        self._notices = notices
        self._slots = SlotLimiter(settings.streams_per_peer, settings.streams_total)
        self._budget = ByteBudget(settings.send_budget_bytes)
        self.withheld: set[str] = set()
        self.sent_bytes: Counter[PeerId] = Counter()
        self.on_bytes: Callable[[PeerId, str, int], None] = lambda peer, blob_id, count: None
        self.on_corrupt: Callable[[str], None] = lambda blob_id: None

    async def answer(self, stream: Stream) -> None:
        """Serve one inbound stream to its end. Raises ProtocolViolation, TransportError."""
        guarded = StallGuard(stream, self._settings.stall_seconds)
        try:
            with self._slots.slot(stream.remote):
                await self._converse(stream, guarded)
        except Busy:
            await send_frame(guarded, {"busy": True})
            await self._goodbye(stream)

    async def _converse(self, stream: Stream, guarded: StallGuard) -> None:
        blob_id = ""
        while True:
            with trio.move_on_after(self._settings.idle_seconds) as idle:
                try:
                    request = Fields(await receive_frame(stream, _MAX_REQUEST_BYTES))
                except StreamClosed:
                    return None  # the requester closes, with or without a word
            if idle.cancelled_caught:
                return None
            if request.has("want"):
                blob_id = await self._offer(guarded, request)
            elif request.has("piece"):
                await self._send_piece(guarded, blob_id, request.number("piece", 0, 2**32))
            elif request.has("update"):
                await self._update(guarded, blob_id, request.number("update", 0, 2**32))
            elif request.flag("done"):
                await send_frame(guarded, {"ok": True})
                return await self._goodbye(stream)

    async def _offer(self, stream: StallGuard, request: Fields) -> str:
        blob_id = request.text("want", 64)
        if not is_blob_id(blob_id):
            raise ProtocolViolation(f"not a blob id: {blob_id!r}")
        manifest, bitmap = self._available(blob_id)
        if manifest is None or bitmap is None:
            await send_frame(stream, {"absent": True})
            return ""
        offer: dict[str, object] = {"have": bitmap}
        if not request.has("brief") or not request.flag("brief"):
            offer["manifest"] = manifest.as_message()
        await send_frame(stream, offer, MAX_MANIFEST_FRAME_BYTES)
        return blob_id

    async def _send_piece(self, stream: StallGuard, blob_id: str, index: int) -> None:
        manifest, _ = self._available(blob_id)
        if manifest is None:
            return await send_bytes(stream, b"")
        if index >= manifest.pieces:
            raise ProtocolViolation(f"asked for piece {index} of {manifest.pieces}")
        async with self._budget.hold(manifest.length(index)):
            data = await self._read(blob_id, index, manifest.length(index))
            await send_bytes(stream, data)
        self.sent_bytes[stream.remote] += len(data)
        self.on_bytes(stream.remote, blob_id, len(data))
        return None

    async def _read(self, blob_id: str, index: int, length: int) -> bytes:
        """The piece, or nothing: what went bad on disk is never served."""
        try:
            return await call(self._offload, length, self._store.read_piece, blob_id, index)
        except BlobCorrupt:
            self.on_corrupt(blob_id)
        except BlobError:
            pass  # deleted meanwhile; the requester learns that it cannot be had here
        return b""

    async def _update(self, stream: StallGuard, blob_id: str, count: int) -> None:
        with trio.move_on_after(self._settings.update_wait_seconds):
            while (bitmap := self._available(blob_id)[1]) and int.from_bytes(bitmap).bit_count() <= count:
                await self._notices.wait(blob_id)
        bitmap = self._available(blob_id)[1]
        await send_frame(stream, {"absent": True} if bitmap is None else {"have": bitmap}, MAX_MANIFEST_FRAME_BYTES)

    def _available(self, blob_id: str) -> tuple[Manifest | None, bytes | None]:
        if not blob_id or blob_id in self.withheld:
            return None, None
        bitmap = self._store.bitmap(blob_id)
        return (self._store.manifest(blob_id), bitmap) if bitmap is not None else (None, None)

    @staticmethod
    async def _goodbye(stream: Stream) -> None:
        """Closing first could cut off our last words: wait for the requester to close."""
        with trio.move_on_after(_GOODBYE_SECONDS):
            try:
                while await stream.receive_some(_MAX_REQUEST_BYTES):
                    pass
            except P2pError:
                pass
