"""Our dealings with one holder of a blob while a stream to it is open; see `p2p.serving` for the protocol."""

from collections import deque

import trio

from p2p.errors import BlobCorrupt, ProtocolViolation, TransportTimeout
from p2p.exchange_settings import MAX_MANIFEST_FRAME_BYTES, PROTOCOL, call
from p2p.filling import Filling, Work
from p2p.manifest import Manifest
from p2p.protocols import PeerId
from p2p.stall import StallGuard
from p2p.wire import Fields, receive_buffer, receive_frame, send_frame

_MAX_ANSWER_BYTES = 128 << 10  # a bitmap and a few words
_FAREWELL_SECONDS = 1.0


class Visit:
    """Asks ahead and takes pieces, until the blob is whole or the holder has nothing for us."""

    def __init__(self, holder: PeerId, filling: Filling) -> None:
        self.holder = holder
        self.scope = trio.CancelScope()
        self.leaving = False
        self.fruitful = False
        self._filling = filling
        self._settings = filling.settings
        self._asked: deque[int] = deque()  # pieces, in the order in which answers come
        self._waiting_since = 0.0  # for the first of them
        self._claimed = 0  # pieces it says it has; some of them it may have failed to give

    async def run(self) -> None:
        """Raises ProtocolViolation (it lies), TransportError, BlobError (our disk, or the blob is too large)."""
        try:
            with trio.fail_after(self._settings.connect_seconds):
                opened = await self._filling.around.transport.open(self.holder, PROTOCOL)
        except trio.TooSlowError:
            message = f"{self.holder}: no stream in {self._settings.connect_seconds} s"
            raise TransportTimeout(message) from None
        stream = StallGuard(opened, self._settings.stall_seconds)
        try:
            work = await self._hello(stream)
            if work is not None:
                await self._take_pieces(work, stream)
                await self._farewell(stream)
        finally:
            with trio.move_on_after(_FAREWELL_SECONDS, shield=True):
                await stream.aclose()

    def call_late(self) -> bool:
        """Whether we wait for too long; others may then be asked for the same pieces."""
        waited = trio.current_time() - self._waiting_since
        if not self._asked or waited < self._settings.late_seconds or self._filling.work is None:
            return False
        for piece in self._asked:
            self._filling.work.schedule.late(self.holder, piece)
        return True

    async def _hello(self, stream: StallGuard) -> Work | None:
        """None if the holder has nothing of the blob or no time; its manifest is taken when we have none."""
        brief = self._filling.work is not None
        await send_frame(stream, {"want": self._filling.blob_id, "brief": brief})
        answer = Fields(await receive_frame(stream, MAX_MANIFEST_FRAME_BYTES))
        if answer.has("busy") or answer.has("absent"):
            return None
        work = self._filling.work
        if work is None:
            message = answer.fields("manifest").as_map()
            manifest = Manifest.from_message(message, self._filling.blob_id, self._filling.max_bytes)
            work = await self._filling.open(manifest)
        self._take_offer(work, answer)
        return work

    def _take_offer(self, work: Work, answer: Fields) -> bool:
        """Whether the holder has more pieces than it said before."""
        bitmap = answer.raw("have", exact=-(-work.schedule.pieces // 8))
        work.schedule.offer(self.holder, bitmap)
        before, self._claimed = self._claimed, int.from_bytes(bitmap).bit_count()
        return self._claimed > before

    async def _take_pieces(self, work: Work, stream: StallGuard) -> None:
        while not work.schedule.done:
            while (piece := work.schedule.next_for(self.holder)) is not None:
                if not self._asked:
                    self._waiting_since = trio.current_time()
                self._asked.append(piece)
                await send_frame(stream, {"piece": piece})
            if self._asked:
                await self._take_piece(work, stream)
            elif not await self._wait_for_more(work, stream):
                return

    async def _take_piece(self, work: Work, stream: StallGuard) -> None:
        filling, piece = self._filling, self._asked[0]
        length = work.partial.manifest.length(piece)
        data = await receive_buffer(stream, length)
        self._asked.popleft()
        self._waiting_since = trio.current_time()
        filling.around.on_received(self.holder, filling.blob_id, len(data))
        if not data:
            work.schedule.failed(self.holder, piece)
            return
        if work.schedule.wants(piece):
            try:
                await call(filling.around.offload, length, work.partial.write_piece, piece, data)
            except BlobCorrupt as error:
                raise ProtocolViolation(str(error)) from error
        self.fruitful = True
        filling.around.reputation.good(self.holder)
        work.schedule.got(self.holder, piece)
        filling.around.notify(filling.blob_id)
        if work.schedule.done:
            filling.wake()

    async def _wait_for_more(self, work: Work, stream: StallGuard) -> bool:
        """The holder has nothing to ask for now. Whether to stay."""
        if self._claimed >= work.schedule.pieces:
            return await self._filling.wait_for_change(self._settings.linger_seconds)
        await send_frame(stream, {"update": self._claimed})
        answer = Fields(await receive_frame(stream, _MAX_ANSWER_BYTES))
        return not answer.has("absent") and self._take_offer(work, answer)

    async def _farewell(self, stream: StallGuard) -> None:
        self.leaving = True
        with trio.move_on_after(_FAREWELL_SECONDS):
            await send_frame(stream, {"done": True})
            await receive_frame(stream, _MAX_ANSWER_BYTES)
