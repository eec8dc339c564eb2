"""How much one peer, and all peers together, may have of us at a time."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from p2p.errors import Busy
from p2p.protocols import PeerId


class SlotLimiter:
    """Slots (streams, requests), so many a peer and so many in all. Who finds none is told so, not queued."""

    def __init__(self, per_peer: int, total: int) -> None:
        self._per_peer = per_peer
        self._total = total
        self._held: Counter[PeerId] = Counter()

    @property
    def held(self) -> int:
        return self._held.total()

    @contextmanager
    def slot(self, peer: PeerId) -> Iterator[None]:
        """Raises Busy when the peer, or everybody together, holds too many."""
        if self._held[peer] >= self._per_peer or self.held >= self._total:
            raise Busy(f"no slot for {peer}: it holds {self._held[peer]}, all hold {self.held}")
        self._held[peer] += 1
        try:
            yield
        finally:
            self._held[peer] -= 1
            if not self._held[peer]:
                del self._held[peer]  # strangers come and go; the table must not grow


class ByteBudget:
    """A bound on the bytes in memory at a time; who asks for more waits, first come first served."""

    def __init__(self, total_bytes: int) -> None:
        self._total = self._free = total_bytes
        self._turn = trio.StrictFIFOLock()
        self._freed = trio.Event()

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        """More than the whole budget counts as the whole budget, so that it can be had at all."""
        size = min(size_bytes, self._total)
        async with self._turn:
            while self._free < size:
                self._freed = trio.Event()
                await self._freed.wait()
            self._free -= size
        try:
            yield
        finally:
            self._free += size
            self._freed.set()
