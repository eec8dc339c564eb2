"""A blob on its way in: what is here, what is missing, and what ended it."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from p2p.blobs import BlobStore, PartialBlob
from p2p.errors import BlobCorrupt, BlobError, BlobTooLarge, DiskFull
from p2p.exchange_settings import Offload, call
from p2p.manifest import Manifest
from p2p.schedule import Schedule

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """There is a manifest: pieces can be asked for."""

    partial: PartialBlob
    schedule: Schedule


class Filling:
    """Shared by all who give something of the blob. `on_opened` is called once, when its pieces are known."""

    def __init__(
        self,
        blob_id: str,
        max_bytes: int,
        seed: Path | None,
        store: BlobStore,
        offload: Offload,
        on_opened: Callable[[Work], None],
    ) -> None:
        self.blob_id = blob_id
        self.max_bytes = max_bytes
        self.work: Work | None = None
        self.failure: BlobError | None = None
        self._store = store
        self._offload = offload
        self._on_opened = on_opened
        self._seed = seed
        self._opening = trio.Lock()
        self._changed = trio.Event()

    async def resume(self) -> None:
        """Go on from what an earlier try left on disk. Raises BlobTooLarge, DiskFull, BlobError."""
        manifest = self._store.manifest(self.blob_id)
        if manifest is not None:
            if manifest.size > self.max_bytes:
                raise BlobTooLarge(f"blob {self.blob_id} has {manifest.size} bytes, more than {self.max_bytes}")
            await self.open(manifest)

    async def open(self, manifest: Manifest) -> Work:
        """The manifest is proven by the blob's id, so the first that comes is the right one."""
        async with self._opening:
            if self.work is None:
                partial = await call(self._offload, manifest.size, self._store.partial, manifest)
                try:
                    await self._take_seed(partial)
                except (BlobError, trio.Cancelled):
                    self._store.close(partial)
                    raise
                schedule = Schedule(manifest.pieces, partial.missing(), random.getrandbits(32))
                self.work = Work(partial, schedule)
                self.wake()
                self._on_opened(self.work)
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
        return await call(self._offload, partial.manifest.size, self._store.complete, partial)

    async def store(self, piece: int, data: bytes | bytearray) -> bool:
        """Whether it is here now; if not, `failure` says why. Raises BlobCorrupt if it is not that piece."""
        assert self.work is not None
        try:
            await call(self._offload, len(data), self.work.partial.write_piece, piece, data)
        except BlobCorrupt:
            raise
        except BlobError as error:
            self.fail(error)
            return False
        return True

    def fail(self, error: BlobError) -> None:
        self.failure = error
        self.wake()

    def close(self) -> None:
        if self.work is not None:
            self._store.close(self.work.partial)

    @property
    def change(self) -> trio.Event:
        """Set when there is something to look at."""
        return self._changed

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _take_seed(self, partial: PartialBlob) -> None:
        if self._seed is None:
            return
        try:
            count = await call(self._offload, partial.manifest.size, partial.seed, self._seed)
            _log.debug("blob %s: %d pieces taken from %s", self.blob_id, count, self._seed)
        except DiskFull:
            raise
        except BlobError as error:
            _log.warning("blob %s: nothing taken from the seed: %s", self.blob_id, error)
