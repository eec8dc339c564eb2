"""The fetching half of the exchange: all blobs that are wanted, from all holders at once.

Each holder has a session of its own; `Agenda` says what is asked of whom. Every piece is verified before it is
written, and can be served on at once.
"""

import logging
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import trio

from p2p._background import leaves
from p2p.agenda import Agenda, Ask, Wanted
from p2p.blobs import BlobStore
from p2p.download import Download, Source
from p2p.errors import BlobCorrupt, BlobError, Busy, ProtocolViolation, TransportError, TransportTimeout
from p2p.exchange_settings import ExchangeSettings, Offload
from p2p.filling import Filling, Work
from p2p.lane import ManifestAsk
from p2p.limits import ByteBudget, forget_oldest
from p2p.manifest import MAX_PIECE_BYTES, Manifest
from p2p.pace import Cap
from p2p.protocols import PeerId, Transport
from p2p.reputation import Reputation
from p2p.session import Session
from p2p.window import WindowSettings
from p2p.wire import Fields

_log = logging.getLogger(__name__)
_LATE_FACTOR = 3.0  # a piece may take so many times longer than it should


@dataclass
class Pause:
    """When a holder may be tried again."""

    failures: int = 0
    until: float = 0.0
    deserved: bool = False  # it was there and gave nothing


class Fetching:
    """`run` it in the background; then `download` blobs. `on_piece(blob_id)`: there is more to serve."""

    def __init__(
        self,
        transport: Transport,
        store: BlobStore,
        settings: ExchangeSettings,
        offload: Offload,
        reputation: Reputation,
        downlink: Cap,
    ) -> None:
        self.on_piece: Callable[[str], None] = lambda blob_id: None
        self.on_violation: Callable[[PeerId, str], None] = lambda peer, reason: None
        self.on_received: Callable[[PeerId, str, int], None] = lambda peer, blob_id, count: None
        self.downloads: dict[str, Download] = {}
        self._transport = transport
        self._store = store
        self._settings = settings
        self._offload = offload
        self._reputation = reputation
        self._downlink = downlink
        windows = WindowSettings(settings.first_window_bytes, settings.max_window_bytes, settings.ahead_seconds)
        self._agenda = Agenda(windows)
        self._budget = ByteBudget(max(settings.receive_budget_bytes, MAX_PIECE_BYTES))
        self._sessions: dict[PeerId, Session] = {}
        self._pauses: dict[PeerId, Pause] = {}
        self._named: set[PeerId] = set()  # as holders, when we looked last
        self._news = trio.Event()

    def begin(self, blob_id: str, max_bytes: int, seed: Path | None, priority: int, source: Source) -> Download:
        """Nobody else works on that blob. `end` it."""

        def opened(work: Work) -> None:
            manifest = work.partial.manifest
            self._agenda.add(blob_id, Wanted(work.schedule, manifest.length, download.priority))
            offers, download.offers = download.offers, {}
            for holder, bitmap in offers.items():
                self._judge(download, holder, bitmap)
            self.on_piece(blob_id)

        filling = Filling(blob_id, max_bytes, seed, self._store, self._offload, opened)
        download = self.downloads[blob_id] = Download(filling, priority)
        download.sources.append(source)
        told = {holder: self._sessions[holder].have.get(blob_id) for holder in download.holders() & set(self._sessions)}
        download.offers.update({holder: bitmap for holder, bitmap in told.items() if bitmap is not None})
        self._look_again()
        return download

    def raise_priority(self, download: Download, priority: int) -> None:
        """Somebody to whom it matters more wants it, too."""
        if priority < download.priority:
            download.priority = priority
            self._agenda.raise_priority(download.filling.blob_id, priority)
            self.wake_all()

    def end(self, download: Download) -> None:
        blob_id = download.filling.blob_id
        del self.downloads[blob_id]
        self._agenda.remove(blob_id)
        download.filling.close()
        download.ended.set()
        self.on_piece(blob_id)
        self._look_again()

    async def run(self) -> None:
        """Keep sessions with those who may have what is wanted, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                self._engage(nursery)
                self._call_late()
                if any(download.filling.work is None for download in self.downloads.values()):
                    self.wake_all()
                with trio.move_on_after(self._settings.poll_seconds if self._busy else float("inf")):
                    await self._news.wait()

    @property
    def _busy(self) -> bool:
        return bool(self.downloads or self._sessions)

    def _look_again(self) -> None:
        self._news.set()

    def _engage(self, nursery: trio.Nursery) -> None:
        """Visit holders, those of whom we think best first; take leave of those who are of no use."""
        useful: dict[PeerId, set[str]] = {}
        for blob_id, download in self.downloads.items():
            for holder in download.holders() - {self._transport.peer_id}:
                useful.setdefault(holder, set()).add(blob_id)
        if self.downloads:
            for holder in useful.keys() - self._named:
                self.returned(holder)
            self._named = set(useful)
        ready = self._ready(set(useful) - set(self._sessions))
        self._dismiss(useful, crowded=len(ready) + len(self._sessions) > self._settings.max_holders)
        for holder in ready[: max(self._settings.max_holders - len(self._sessions), 0)]:
            session = self._sessions[holder] = Session(holder, self, self._transport, self._settings)
            session.watch(useful[holder])
            nursery.start_soon(self._visit, session)
        for holder, session in self._sessions.items():
            session.watch(useful.get(holder, ()))

    def returned(self, holder: PeerId) -> None:
        """It is connected again, or spoke to us: whoever was gone need not be waited for any longer."""
        pause = self._pauses.get(holder)
        if pause is not None and not pause.deserved:
            del self._pauses[holder]
            self._look_again()

    def _ready(self, holders: set[PeerId]) -> list[PeerId]:
        now, reputation = trio.current_time(), self._reputation
        ready = [p for p in holders if p not in self._pauses or now >= self._pauses[p].until]
        ready = [p for p in ready if not reputation.is_banned(p)]
        random.shuffle(ready)
        ready.sort(key=lambda p: (self._pauses.get(p, Pause()).failures, reputation.penalty(p)))
        return ready

    def _dismiss(self, useful: dict[PeerId, set[str]], crowded: bool) -> None:
        """Who has nothing for us makes room for others, or just goes."""
        now, settings = trio.current_time(), self._settings
        for holder, session in self._sessions.items():
            waits, idle_seconds = session.waits_since() is not None, now - session.useful_at
            dispensable = crowded or session.refused or holder not in useful
            if dispensable and not waits and idle_seconds >= settings.linger_seconds:
                session.scope.cancel()
            elif crowded and waits and idle_seconds >= 2 * settings.stall_seconds:
                session.give_up()  # signs of life alone do not keep others out

    def _call_late(self) -> None:
        now, settings = trio.current_time(), self._settings
        for holder, session in self._sessions.items():
            seconds_for, least = self._agenda.window(holder).seconds_for, settings.overdue_seconds
            patience = lambda size_bytes, f=seconds_for, least=least: max(least, _LATE_FACTOR * f(size_bytes))  # noqa: E731
            silent = now - session.heard_at >= settings.late_seconds
            if self._agenda.late(holder, None if silent else session.overdue(patience)):
                self._reputation.slow(holder, 0.1)
                self.wake_all()

    def wake_all(self) -> None:
        for session in self._sessions.values():
            session.wake()

    async def _visit(self, session: Session) -> None:
        holder, limit_seconds = session.holder, self._settings.slow_retry_limit_seconds
        try:
            with session.scope:
                await session.run()
            if session.barren:
                self._reputation.slow(holder)
            else:
                limit_seconds = self._settings.retry_limit_seconds
        except* ProtocolViolation as group:
            self._lied(holder, str(leaves(group)[0]))
        except* TransportError as group:
            errors = leaves(group)
            _log.debug("left %s: %s", holder, errors[0])
            if any(isinstance(error, TransportTimeout) for error in errors):
                self._reputation.slow(holder)
            elif any(isinstance(error, Busy) for error in errors):
                limit_seconds = self._settings.retry_limit_seconds
        finally:
            del self._sessions[holder]
            self._agenda.gone(holder)
            for download in self.downloads.values():
                download.offers.pop(holder, None)
                if download.manifest_asked is not None and download.manifest_asked[0] == holder:
                    download.manifest_asked = None
            self._pause(session, limit_seconds)
            self.wake_all()
            self._look_again()

    def _lied(self, holder: PeerId, reason: str) -> None:
        for download in self.downloads.values():
            download.liars.add(holder)
        self.on_violation(holder, reason)

    def _pause(self, session: Session, limit_seconds: float) -> None:
        pause = self._pauses.pop(session.holder, Pause())
        self._pauses[session.holder] = pause
        forget_oldest(self._pauses)
        pause.deserved = session.barren
        pause.failures = 0 if session.fruitful and not session.barren else pause.failures + 1
        seconds = min(self._settings.retry_seconds * 2.0 ** min(pause.failures, 16), limit_seconds)
        pause.until = trio.current_time() + seconds * random.uniform(0.75, 1.25)

    # What sessions ask and tell

    def next_ask(self, holder: PeerId) -> Ask | ManifestAsk | None:
        now = trio.current_time()
        for blob_id, download in self.downloads.items():
            if (
                holder in download.offers
                and download.filling.work is None
                and self._may_ask_manifest(download, holder, now)
            ):
                download.manifest_asked = (holder, now)
                return ManifestAsk(blob_id, download.priority)
        ask = self._agenda.next_for(holder, now)
        if ask is not None and ask.instead_of in self._sessions:
            self._sessions[ask.instead_of].cancel(ask.blob_id, ask.piece)
        return ask

    def _may_ask_manifest(self, download: Download, holder: PeerId, now: float) -> bool:
        """Once of a holder: what it was asked for is on its way, or ends with the session."""
        if download.manifest_asked is None or download.manifest_asked[0] not in self._sessions:
            return True
        asked, since = download.manifest_asked
        return holder != asked and now - since > self._settings.late_seconds

    def take_news(self, holder: PeerId, blob_id: str, bitmap: bytes | None) -> None:
        session = self._sessions[holder]
        has_room = session.remember(blob_id, bitmap)
        download = self.downloads.get(blob_id)
        if download is None:
            return
        if bitmap is None:
            download.offers.pop(holder, None)
            if download.filling.work is not None:
                download.filling.work.schedule.withdraw(holder)
        elif download.filling.work is None:
            if has_room:
                download.offers[holder] = bitmap
        else:
            self._offer(download, holder, bitmap)
        session.wake()

    def _offer(self, download: Download, holder: PeerId, bitmap: bytes) -> None:
        """Raises ProtocolViolation."""
        assert download.filling.work is not None
        try:
            download.filling.work.schedule.offer(holder, bitmap)
        except ValueError as error:
            raise ProtocolViolation(str(error)) from error
        self._sessions[holder].wake()

    def _judge(self, download: Download, holder: PeerId, bitmap: bytes) -> None:
        """An offer made before it could be checked."""
        if holder in self._sessions:
            try:
                self._offer(download, holder, bitmap)
            except ProtocolViolation as error:
                self._lied(holder, str(error))
                self._sessions[holder].scope.cancel()

    async def take_manifest(self, holder: PeerId, blob_id: str, answer: Fields) -> None:
        download = self.downloads.get(blob_id)
        if download is None or download.filling.work is not None:
            return
        if answer.has("busy") or answer.has("absent"):
            download.manifest_asked = None
            download.offers.pop(holder, None)
            return
        try:
            message = answer.fields("manifest").as_map()
            await download.filling.open(Manifest.from_message(message, blob_id, download.filling.max_bytes))
        except BlobError as error:
            download.manifest_asked = None
            download.filling.fail(error)
        self.wake_all()

    async def take_piece(self, holder: PeerId, ask: Ask, data: bytearray, *, idle: bool) -> None:
        """`idle`: the holder could send more than we ask. Raises ProtocolViolation."""
        now = trio.current_time()
        self.on_received(holder, ask.blob_id, len(data))
        download = self.downloads.get(ask.blob_id)
        work = None if download is None else download.filling.work
        self._agenda.landed(holder, ask, now, arrived=bool(data), idle=idle)
        session = self._sessions[holder]
        session.wake()
        cancelled = (ask.blob_id, ask.piece) in session.cancelled
        session.cancelled.discard((ask.blob_id, ask.piece))
        if download is None or work is None:
            return
        if not data:
            session.refused = session.refused or not cancelled
            (work.schedule.dropped if cancelled else work.schedule.failed)(holder, ask.piece)
            return
        try:
            if work.schedule.wants(ask.piece) and not await download.filling.store(ask.piece, data):
                return
        except BlobCorrupt as error:
            raise ProtocolViolation(str(error)) from error
        self._reputation.good(holder)
        work.schedule.got(holder, ask.piece)
        self.on_piece(ask.blob_id)
        if work.schedule.done:
            download.filling.wake()

    def overheard(self, size_bytes: int) -> None:
        """News and manifests: they do not wait for the cap, what is asked next does."""
        self._downlink.owe(size_bytes)

    def room_for(self, holder: PeerId, ask: Ask) -> AbstractAsyncContextManager[None]:
        return self._budget.hold(ask.size_bytes, holder)

    async def may_receive(self, ask: Ask) -> None:
        await self._downlink.take(ask.size_bytes, ask.priority)
