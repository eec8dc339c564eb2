"""The fetching half of the exchange: one blob, from several holders at once.

Each holder has a task of its own that asks ahead and takes pieces; `Schedule` says which. Every piece is verified
before it is written, and can be served on at once.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from p2p.blobs import BlobStore, PartialBlob
from p2p.errors import (
    BlobCorrupt,
    BlobError,
    BlobTooLarge,
    DiskFull,
    ProtocolViolation,
    TransportError,
    TransportTimeout,
)
from p2p.exchange_settings import MAX_MANIFEST_FRAME_BYTES, PROTOCOL, ExchangeSettings, Offload, call
from p2p.manifest import Manifest
from p2p.protocols import PeerId, Transport
from p2p.reputation import Reputation
from p2p.schedule import Schedule
from p2p.stall import StallGuard
from p2p.wire import Fields, receive_buffer, receive_frame, send_frame

_log = logging.getLogger(__name__)
_MAX_ANSWER_BYTES = 128 << 10  # a bitmap and a few words
_FAREWELL_SECONDS = 1.0


@dataclass(frozen=True)
class Surroundings:
    """What every download of an exchange shares."""

    transport: Transport
    store: BlobStore
    settings: ExchangeSettings
    offload: Offload
    reputation: Reputation
    notify: Callable[[str], None]  # a piece of this blob came in
    on_violation: Callable[[PeerId, str], None]
    on_received: Callable[[PeerId, int], None]


@dataclass
class Visit:
    """Our dealings with one holder while its stream is open."""

    holder: PeerId
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    asked: deque[int] = field(default_factory=deque)  # pieces, in the order in which answers come
    waiting_since: float = 0.0  # for the first of them
    claimed: int = 0  # pieces it says it has; some of them it may have failed to give
    leaving: bool = False
    fruitful: bool = False


@dataclass
class Pause:
    """When a holder may be tried again."""

    failures: int = 0
    until: float = 0.0


class Download:
    """Runs once. `holders` may change between calls; whoever else wants the blob adds its own."""

    def __init__(self, blob_id: str, max_bytes: int, seed: Path | None, around: Surroundings) -> None:
        self.blob_id = blob_id
        self.sources: list[Callable[[], Iterable[PeerId]]] = []
        self.ended = trio.Event()
        self.partial: PartialBlob | None = None
        self._max_bytes = max_bytes
        self._seed = seed
        self._around = around
        self._settings = around.settings
        self._schedule: Schedule | None = None
        self._opening = trio.Lock()
        self._visits: dict[PeerId, Visit] = {}
        self._pauses: dict[PeerId, Pause] = {}
        self._liars: set[PeerId] = set()
        self._failure: BlobError | None = None
        self._changed = trio.Event()

    async def run(self) -> Path:
        """Until the blob is whole. Raises DiskFull, BlobTooLarge, BlobError; waits for holders for ever."""
        try:
            await self._resume()
            async with trio.open_nursery() as nursery:
                while not self._settled():
                    self._engage(nursery)
                    self._call_late()
                    await self._wait_for_change(self._settings.poll_seconds)
                self._dismiss()
            if self._failure is not None:
                raise self._failure
            assert self.partial is not None
            return await call(
                self._around.offload, self.partial.manifest.size, self._around.store.complete, self.partial
            )
        finally:
            if self.partial is not None:
                self._around.store.close(self.partial)
            self._around.notify(self.blob_id)
            self.ended.set()

    def _settled(self) -> bool:
        """Pieces can also go bad on disk after they came: only the partial knows whether it is whole."""
        if self._failure is not None:
            return True
        if self.partial is None or self._schedule is None or not self._schedule.done:
            return False
        for piece in self.partial.missing():
            self._schedule.lost(piece)
        return self._schedule.done

    async def _resume(self) -> None:
        manifest = self._around.store.manifest(self.blob_id)
        if manifest is not None:
            if manifest.size > self._max_bytes:
                raise BlobTooLarge(f"blob {self.blob_id} has {manifest.size} bytes, more than {self._max_bytes}")
            await self._open(manifest)

    async def _open(self, manifest: Manifest) -> None:
        """The manifest is proven by the blob's id, so the first that comes is the right one."""
        async with self._opening:
            if self._schedule is not None:
                return
            store, offload = self._around.store, self._around.offload
            self.partial = await call(offload, manifest.size, store.partial, manifest)
            if self._seed is not None:
                await self._take_seed(self.partial, self._seed)
            depth = min(max(self._settings.pipeline_bytes // manifest.piece_bytes, 2), 32)
            missing = self.partial.missing()
            self._schedule = Schedule(manifest.pieces, missing, depth, random.getrandbits(32))
            self._wake()

    async def _take_seed(self, partial: PartialBlob, seed: Path) -> None:
        try:
            count = await call(self._around.offload, partial.manifest.size, partial.seed, seed)
            _log.debug("blob %s: %d pieces taken from %s", self.blob_id, count, seed)
        except DiskFull:
            raise
        except BlobError as error:
            _log.warning("blob %s: nothing taken from the seed: %s", self.blob_id, error)

    def _engage(self, nursery: trio.Nursery) -> None:
        """Visit further holders, those of whom we think best first."""
        now, reputation = trio.current_time(), self._around.reputation
        known = {peer for source in self.sources for peer in source()}
        known -= self._liars | set(self._visits) | {self._around.transport.peer_id}
        ready = [p for p in known if now >= self._pauses.setdefault(p, Pause()).until]
        ready = [p for p in ready if not reputation.is_banned(p)]
        random.shuffle(ready)
        ready.sort(key=lambda p: (self._pauses[p].failures, reputation.penalty(p)))
        for holder in ready[: max(self._settings.max_holders - len(self._visits), 0)]:
            self._visits[holder] = Visit(holder)
            nursery.start_soon(self._visit, self._visits[holder])

    def _call_late(self) -> None:
        now = trio.current_time()
        for visit in self._visits.values():
            if visit.asked and self._schedule and now - visit.waiting_since >= self._settings.late_seconds:
                for piece in visit.asked:
                    self._schedule.late(visit.holder, piece)
                self._around.reputation.slow(visit.holder, 0.1)
                self._wake()

    def _dismiss(self) -> None:
        """Nobody needs what is still on its way; those who only wait for us may take their leave."""
        for visit in self._visits.values():
            if not visit.leaving:
                visit.scope.cancel()

    async def _visit(self, visit: Visit) -> None:
        limit = self._settings.slow_retry_limit_seconds
        try:
            with visit.scope:
                await self._converse(visit)
                limit = self._settings.retry_limit_seconds
        except ProtocolViolation as error:
            self._liars.add(visit.holder)
            self._around.on_violation(visit.holder, str(error))
        except TransportError as error:
            _log.debug("blob %s: left %s: %s", self.blob_id, visit.holder, error)
            if isinstance(error, TransportTimeout):
                self._around.reputation.slow(visit.holder)
        except BlobError as error:
            self._failure = error
        finally:
            del self._visits[visit.holder]
            if self._schedule is not None:
                self._schedule.gone(visit.holder)
            self._pause(visit, limit)
            self._wake()

    def _pause(self, visit: Visit, limit_seconds: float) -> None:
        pause = self._pauses[visit.holder]
        pause.failures = 0 if visit.fruitful else pause.failures + 1
        seconds = min(self._settings.retry_seconds * 2.0 ** min(pause.failures, 16), limit_seconds)
        pause.until = trio.current_time() + seconds * random.uniform(0.75, 1.25)

    async def _converse(self, visit: Visit) -> None:
        settings = self._settings
        try:
            with trio.fail_after(settings.connect_seconds):
                opened = await self._around.transport.open(visit.holder, PROTOCOL)
        except trio.TooSlowError:
            raise TransportTimeout(f"{visit.holder}: no stream in {settings.connect_seconds} s") from None
        stream = StallGuard(opened, settings.stall_seconds)
        try:
            if await self._hello(visit, stream):
                await self._take_pieces(visit, stream)
        finally:
            with trio.move_on_after(_FAREWELL_SECONDS, shield=True):
                await stream.aclose()

    async def _hello(self, visit: Visit, stream: StallGuard) -> bool:
        """Whether the holder has something of the blob; its manifest is taken when we have none."""
        await send_frame(stream, {"want": self.blob_id, "brief": self._schedule is not None})
        answer = Fields(await receive_frame(stream, MAX_MANIFEST_FRAME_BYTES))
        if answer.has("busy") or answer.has("absent"):
            return False
        if self._schedule is None:
            manifest = Manifest.from_message(answer.fields("manifest").as_map(), self.blob_id, self._max_bytes)
            await self._open(manifest)
        self._take_offer(visit, answer)
        return True

    def _take_offer(self, visit: Visit, answer: Fields) -> bool:
        """Whether the holder has more pieces than it said before."""
        assert self._schedule is not None
        bitmap = answer.raw("have", exact=-(-self._schedule.pieces // 8))
        self._schedule.offer(visit.holder, bitmap)
        before, visit.claimed = visit.claimed, int.from_bytes(bitmap).bit_count()
        return visit.claimed > before

    async def _take_pieces(self, visit: Visit, stream: StallGuard) -> None:
        schedule = self._schedule
        assert schedule is not None
        while not schedule.done:
            while (piece := schedule.next_for(visit.holder)) is not None:
                if not visit.asked:
                    visit.waiting_since = trio.current_time()
                visit.asked.append(piece)
                await send_frame(stream, {"piece": piece})
            if visit.asked:
                await self._take_piece(visit, stream)
            elif not await self._wait_for_more(visit, stream):
                break
        await self._farewell(visit, stream)

    async def _take_piece(self, visit: Visit, stream: StallGuard) -> None:
        assert self._schedule is not None and self.partial is not None
        piece = visit.asked[0]
        length = self.partial.manifest.length(piece)
        data = await receive_buffer(stream, length)
        visit.asked.popleft()
        visit.waiting_since = trio.current_time()
        self._around.on_received(visit.holder, len(data))
        if not data:
            self._schedule.failed(visit.holder, piece)
            return
        if self._schedule.wants(piece):
            try:
                await call(self._around.offload, length, self.partial.write_piece, piece, data)
            except BlobCorrupt as error:
                raise ProtocolViolation(str(error)) from error
        visit.fruitful = True
        self._around.reputation.good(visit.holder)
        self._schedule.got(visit.holder, piece)
        self._around.notify(self.blob_id)
        if self._schedule.done:
            self._wake()

    async def _wait_for_more(self, visit: Visit, stream: StallGuard) -> bool:
        """The holder has nothing to ask for now. Whether to stay."""
        assert self._schedule is not None
        if visit.claimed >= self._schedule.pieces:
            return await self._wait_for_change(self._settings.linger_seconds)
        await send_frame(stream, {"update": visit.claimed})
        answer = Fields(await receive_frame(stream, _MAX_ANSWER_BYTES))
        return not answer.has("absent") and self._take_offer(visit, answer)

    async def _farewell(self, visit: Visit, stream: StallGuard) -> None:
        visit.leaving = True
        with trio.move_on_after(_FAREWELL_SECONDS):
            await send_frame(stream, {"done": True})
            await receive_frame(stream, _MAX_ANSWER_BYTES)

    async def _wait_for_change(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self._changed.wait()
            return True
        return False

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
