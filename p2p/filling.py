"""A blob on its way in: what is here, what is missing, and who is waiting for a change of that."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from p2p.blobs import BlobStore, PartialBlob
from p2p.errors import BlobError, BlobTooLarge, DiskFull
from p2p.exchange_settings import ExchangeSettings, Offload, call
from p2p.manifest import Manifest
from p2p.protocols import PeerId, Transport
from p2p.reputation import Reputation
from p2p.schedule import Schedule

_log = logging.getLogger(__name__)


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
    on_received: Callable[[PeerId, str, int], None]  # from whom, of which blob, bytes


@dataclass(frozen=True)
class Work:
    """There is a manifest: pieces can be asked for."""

    partial: PartialBlob
    schedule: Schedule


class Filling:
    """Shared by the visits of one download."""

    def __init__(self, blob_id: str, max_bytes: int, seed: Path | None, around: Surroundings) -> None:
        self.blob_id = blob_id
        self.max_bytes = max_bytes
        self.around = around
        self.settings = around.settings
        self.work: Work | None = None
        self._seed = seed
        self._opening = trio.Lock()
        self._changed = trio.Event()

    async def resume(self) -> None:
        """Go on from what an earlier try left on disk. Raises BlobTooLarge, DiskFull, BlobError."""
        manifest = self.around.store.manifest(self.blob_id)
        if manifest is not None:
            if manifest.size > self.max_bytes:
                raise BlobTooLarge(f"blob {self.blob_id} has {manifest.size} bytes, more than {self.max_bytes}")
            await self.open(manifest)

    async def open(self, manifest: Manifest) -> Work:
        """The manifest is proven by the blob's id, so the first that comes is the right one."""
        async with self._opening:
            if self.work is None:
                store, offload = self.around.store, self.around.offload
                partial = await call(offload, manifest.size, store.partial, manifest)
                try:
                    await self._take_seed(partial)
                except (BlobError, trio.Cancelled):
                    store.close(partial)
                    raise
                depth = min(max(self.settings.pipeline_bytes // manifest.piece_bytes, 2), 32)
                order_seed = random.getrandbits(32)
                self.work = Work(partial, Schedule(manifest.pieces, partial.missing(), depth, order_seed))
                self.wake()
                self.around.notify(self.blob_id)
            return self.work

    def whole(self) -> bool:
        """Pieces can go bad on disk after they came: only the partial knows what is here."""
        if self.work is None or not self.work.schedule.done:
            return False
        for piece in self.work.partial.missing():
            self.work.schedule.lost(piece)
        return self.work.schedule.done

    async def complete(self) -> Path:
        assert self.work is not None
        partial = self.work.partial
        return await call(self.around.offload, partial.manifest.size, self.around.store.complete, partial)

    def close(self) -> None:
        if self.work is not None:
            self.around.store.close(self.work.partial)
        self.around.notify(self.blob_id)

    async def wait_for_change(self, seconds: float) -> bool:
        """Whether something changed in that time."""
        with trio.move_on_after(seconds):
            await self._changed.wait()
            return True
        return False

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _take_seed(self, partial: PartialBlob) -> None:
        if self._seed is None:
            return
        try:
            count = await call(self.around.offload, partial.manifest.size, partial.seed, self._seed)
            _log.debug("blob %s: %d pieces taken from %s", self.blob_id, count, self._seed)
        except DiskFull:
            raise
        except BlobError as error:
            _log.warning("blob %s: nothing taken from the seed: %s", self.blob_id, error)
