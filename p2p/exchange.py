"""Fetches blobs from whoever holds them and serves ours: see `p2p.serving` for the protocol."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from p2p.blobs import BlobStore
from p2p.errors import BlobTooLarge, BlobUnavailable, ProtocolViolation, TransportError
from p2p.exchange_settings import PROTOCOL, ExchangeSettings, Offload, Priority
from p2p.fetching import Fetching
from p2p.limits import count as count_for
from p2p.limits import forget_oldest
from p2p.manifest import is_blob_id
from p2p.news import Notices
from p2p.pace import Cap, Meter, Tally
from p2p.protocols import PeerId, Stream, Transport
from p2p.queueing import UplinkQueue
from p2p.reputation import Reputation
from p2p.serving import Serving
from p2p.turns import Turns, TurnSettings

__all__ = ["PROTOCOL", "Exchange", "ExchangeSettings", "Priority"]
_MAX_PRIORITIES = 4096
_TOLD_SECONDS = 10.0
_ACKNOWLEDGED = 0.018  # of what comes goes back as TCP's acknowledgements: 52 bytes for two packets


class Exchange:
    """Call `start` once. What is withheld after a restart must be withheld again before that.

    `on_violation(peer, reason)` is called after the peer was banned. `priority_of(blob_id)` says what to serve first,
    also of blobs that are here since before a restart; None: as it was fetched. `uplink_of(peer)`: what it says that
    its uplink can, 0 if it does not; believed only until somebody gave us something.
    """

    def __init__(
        self,
        transport: Transport,
        store: BlobStore,
        settings: ExchangeSettings | None = None,
        *,
        reputation: Reputation | None = None,
        offload: Offload = trio.to_thread.run_sync,
    ) -> None:
        self.store = store
        self.reputation = reputation or Reputation()
        self.on_violation: Callable[[PeerId, str], None] = lambda peer, reason: None
        self.on_bytes: Callable[[str, PeerId, str, int], None] = lambda direction, peer, blob_id, count: None
        self.priority_of: Callable[[str], int | None] = lambda blob_id: None
        self.received_bytes: Counter[PeerId] = Counter()
        self._transport = transport
        self._offload = offload
        self._notices = Notices()
        self._given = Tally()
        self._uplink, self._downlink = Cap(), Cap()
        self._queue = UplinkQueue(self._uplink, transport.flows)
        self._sent, self._received = Meter(window_seconds=5.0, settle_seconds=3.0), Meter()
        self._priorities: dict[str, int] = {}
        self._told: dict[PeerId, tuple[float, float]] = {}  # uplinks by their own word; until when that is new
        settings = settings or ExchangeSettings()
        self.uplink_of: Callable[[PeerId], float] = lambda peer: 0.0
        self._turns = Turns(TurnSettings(), self._uplink, self._sent, self._worth)
        self._serving = Serving(store, settings, offload, self._notices, self._turns)
        self._serving.on_bytes = self._count_sent
        self._serving.dealings.worth = self._worth
        self._serving.priority_of = self._priority
        self._fetching = Fetching(transport, store, settings, offload, self.reputation, self._downlink)
        self._fetching.on_piece = self._notices.notify
        self._fetching.on_violation = self._violated
        self._fetching.on_received = self._count_received

    @property
    def sent_bytes(self) -> Counter[PeerId]:
        """Bytes of pieces, without framing."""
        return self._serving.sent_bytes

    @property
    def admit(self) -> Callable[[PeerId], bool]:
        """Whether we know a peer: others have a part of the streams and memory that leaves enough for those we do."""
        return self._serving.admit

    @admit.setter
    def admit(self, admit: Callable[[PeerId], bool]) -> None:
        self._serving.admit = admit

    @property
    def on_corrupt(self) -> Callable[[str], None]:
        """Called with a blob id when a piece of ours turned out bad on disk."""
        return self._serving.on_corrupt

    @on_corrupt.setter
    def on_corrupt(self, callback: Callable[[str], None]) -> None:
        self._serving.on_corrupt = callback

    async def start(self, nursery: trio.Nursery) -> None:
        """Serve from now on, and fetch, in tasks of `nursery`."""
        nursery.start_soon(self._turns.run)
        nursery.start_soon(self._fetching.run)
        nursery.start_soon(self._queue.keep_short)
        await self._transport.handle(PROTOCOL, self._serve)

    def set_limits(
        self, uplink_bytes_per_second: float | None = None, downlink_bytes_per_second: float | None = None
    ) -> None:
        """Hold the average of all that is sent, and of all that is received, to these rates; None: no limit. Headers,
        acknowledgements, news and manifests count; what other protocols of the peer say is not held back.

        Raises ValueError for a rate that is not positive.
        """
        self._uplink.set(uplink_bytes_per_second)
        self._downlink.set(downlink_bytes_per_second)

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """(uplink, downlink) in bytes a second, as set."""
        return self._uplink.rate, self._downlink.rate

    @property
    def uplink_queue_seconds(self) -> float | None:
        """How long what we send waits before the link takes it; None while the uplink has no limit, or where the
        kernel does not say."""
        return self._queue.seconds

    @property
    def rates(self) -> tuple[float, float]:
        """(up, down): bytes a second of pieces in the last second."""
        return self._sent.rate, self._received.rate

    @property
    def best_rates(self) -> tuple[float, float]:
        """(up, down): what the link has shown it can, at its best in the last hour; 0 while it is not known."""
        return self._sent.best, self._received.best

    async def adopt(
        self,
        path: Path,
        piece_bytes: int,
        *,
        keep: bool = False,
        withheld: bool = False,
        shared: bool = False,
    ) -> str:
        """`BlobStore.adopt` off the loop; with `withheld` nobody can read the blob in between.

        Unless it is `shared`, as what all compute alike, others can have it of us alone: see `p2p.dealing`.
        """
        manifest = await self._offload(self.store.measure, path, piece_bytes)
        if not shared:
            self._serving.dealings.begin(manifest.blob_id, manifest.pieces)
        if withheld:
            self.withhold(manifest.blob_id)
        blob_id: str = await self._offload(self.store.adopt_as, path, manifest, keep)
        self._notices.notify(blob_id)
        return blob_id

    def withhold(self, blob_id: str) -> None:
        """From now on the blob looks absent to everyone."""
        self._serving.withheld.add(blob_id)
        self._notices.notify(blob_id)

    def release(self, blob_id: str) -> None:
        self._serving.withheld.discard(blob_id)
        self._notices.notify(blob_id)

    def progress(self) -> dict[str, tuple[int, int]]:
        """(bytes here, bytes in all) of every blob being fetched whose manifest is known."""
        known = {blob_id: download.progress() for blob_id, download in self._fetching.downloads.items()}
        return {blob_id: held for blob_id, held in known.items() if held is not None}

    async def fetch(
        self,
        blob_id: str,
        holders: Callable[[], Sequence[PeerId]],
        *,
        max_bytes: int,
        deadline_seconds: float | None = None,
        seed: Path | None = None,
        priority: int = Priority.CONTRIBUTION,
    ) -> Path:
        """The file of the whole blob, from the store or from `holders()` (asked again and again).

        Pieces that `seed`, a similar local file, has at the same place are not fetched. What has a smaller
        `priority` goes first, here and when it is served on. Raises BlobUnavailable at
        the deadline (what came stays for a later try; without a deadline it keeps trying), BlobTooLarge, DiskFull,
        BlobError; ValueError for what is not a blob id.
        """
        if not is_blob_id(blob_id):
            raise ValueError(f"not a blob id: {blob_id!r:.80}")
        with trio.move_on_after(math.inf if deadline_seconds is None else deadline_seconds):
            self._remember(blob_id, priority)
            return await self._fetch(blob_id, holders, max_bytes, seed, priority)
        raise BlobUnavailable(f"blob {blob_id} was not to be had whole within {deadline_seconds} s")

    async def _fetch(
        self, blob_id: str, holders: Callable[[], Sequence[PeerId]], max_bytes: int, seed: Path | None, priority: int
    ) -> Path:
        """Whoever comes first does the work; when it gives up, the next one goes on from there."""
        while (path := self.store.path(blob_id)) is None:
            download = self._fetching.downloads.get(blob_id)
            if download is None:
                download = self._fetching.begin(blob_id, max_bytes, seed, priority, holders)
                try:
                    await download.filling.resume()
                    return await download.run(self._fetching.wake_all)
                finally:
                    self._fetching.end(download)
            self._fetching.raise_priority(download, priority)
            download.sources.append(holders)
            try:
                await download.ended.wait()
            finally:
                download.sources.remove(holders)
        manifest = self.store.manifest(blob_id)
        if manifest is not None and manifest.size > max_bytes:
            raise BlobTooLarge(f"blob {blob_id} has {manifest.size} bytes, more than {max_bytes}")
        return path

    async def _serve(self, stream: Stream) -> None:
        if self.reputation.is_banned(stream.remote):
            return
        self._fetching.returned(stream.remote)
        try:
            await self._serving.answer(stream)
        except ProtocolViolation as error:
            self._violated(stream.remote, str(error))
        except TransportError:
            pass  # it went away; whether it has everything is for it to say elsewhere

    def _violated(self, peer: PeerId, reason: str) -> None:
        self.reputation.ban(peer, reason)
        self.on_violation(peer, reason)

    def _count_received(self, peer: PeerId, blob_id: str, count: int) -> None:
        count_for(self.received_bytes, peer, count)
        self._received.add(count)
        self._uplink.owe(round(count * _ACKNOWLEDGED))
        self._given.add(peer, count)
        self.on_bytes("in", peer, blob_id, count)

    def _count_sent(self, peer: PeerId, blob_id: str, count: int) -> None:
        self.on_bytes("out", peer, blob_id, count)

    def _worth(self, peer: PeerId) -> float:
        if self._given:
            return self._given.of(peer)
        now = trio.current_time()
        told, until = self._told.get(peer, (0.0, -math.inf))
        if until < now:
            told = self.uplink_of(peer)
            self._told[peer] = (told, now + _TOLD_SECONDS)
            forget_oldest(self._told)
        return told

    def _priority(self, blob_id: str) -> int:
        known = self.priority_of(blob_id)
        return self._priorities.get(blob_id, Priority.CONTRIBUTION) if known is None else known

    def _remember(self, blob_id: str, priority: int) -> None:
        """The priority of what is served; the oldest are forgotten and count as contributions."""
        self._priorities[blob_id] = min(priority, self._priorities.pop(blob_id, priority))
        forget_oldest(self._priorities, _MAX_PRIORITIES)
