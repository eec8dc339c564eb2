"""A stream that gives up on a silent peer: libp2p notices one that froze after 39 s, we want to sooner."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from p2p.errors import TransportTimeout
from p2p.protocols import PeerId, Stream

_CHUNK_BYTES = 64 << 10  # a slow peer is not a stalled one: it has the whole time for each of these


class StallGuard:
    """A `Stream` whose sends and receives raise TransportTimeout when nothing moves for `stall_seconds`.

    Who reads one message slower than `least_bytes_per_second`, which is generous, is given up, too.
    """

    def __init__(self, stream: Stream, stall_seconds: float, least_bytes_per_second: float = 0.0) -> None:
        self._stream = stream
        self._stall_seconds = stall_seconds
        self._least_rate = least_bytes_per_second

    @property
    def remote(self) -> PeerId:
        return self._stream.remote

    async def send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        started = trio.current_time()
        for start in range(0, len(view), _CHUNK_BYTES):
            with self._patience():
                await self._stream.send_all(view[start : start + _CHUNK_BYTES])
            waited_seconds = trio.current_time() - started - self._stall_seconds
            if self._least_rate and waited_seconds * self._least_rate > start + _CHUNK_BYTES:
                raise TransportTimeout(f"{self.remote}: reads less than {self._least_rate:g} bytes a second")

    async def receive_some(self, max_bytes: int) -> bytes:
        with self._patience():
            return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()

    @contextmanager
    def _patience(self) -> Iterator[None]:
        try:
            with trio.fail_after(self._stall_seconds):
                yield
        except trio.TooSlowError:
            message = f"{self.remote}: nothing moved for {self._stall_seconds} s"
            raise TransportTimeout(message) from None
