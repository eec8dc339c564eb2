"""One blob that is wanted here: who may have it, and the wait until it is whole."""

from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from p2p.filling import Filling
from p2p.protocols import PeerId

Source = Callable[[], Iterable[PeerId]]


class Download:
    """Runs once. `sources` name the holders and are asked again and again; all who want the blob add theirs.

    `offers`: what holders say they have, while the manifest is not known and it cannot be judged.
    """

    def __init__(self, filling: Filling, priority: int) -> None:
        self.filling = filling
        self.priority = priority
        self.sources: list[Source] = []
        self.ended = trio.Event()
        self.liars: set[PeerId] = set()
        self.offers: dict[PeerId, bytes] = {}
        self.manifest_asked: tuple[PeerId, float] | None = None

    def holders(self) -> set[PeerId]:
        return {peer for source in self.sources for peer in source()} - self.liars

    def progress(self) -> tuple[int, int] | None:
        """(bytes here, bytes in all); None before the manifest is known."""
        work = self.filling.work
        return None if work is None else (work.partial.held_bytes, work.partial.manifest.size)

    async def run(self, wake: Callable[[], None]) -> Path:
        """Until the blob is whole, be it for ever; `wake` is called when there may be more to ask for.

        Raises DiskFull, BlobTooLarge, BlobError.
        """
        filling = self.filling
        while filling.failure is None and not filling.whole():
            changed = filling.change
            wake()
            await changed.wait()
        if filling.failure is not None:
            raise filling.failure
        return await filling.complete()
