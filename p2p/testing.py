"""A network in memory: transports with latency, uplink rate, cuts and freezes, on trio's clock.

    async def test_it(nursery, autojump_clock):
        network = MemoryNetwork(nursery)
        a, b = network.transport("A"), network.transport("B", Link(rate_bytes_per_second=1e6))

Like the real transport it is unkind: opening a stream proves nothing, and a cut looks like a clean EOF to the reader.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from p2p.errors import P2pError, PeerUnreachable, StreamClosed
from p2p.flows import Flow
from p2p.protocols import PeerId, StreamHandler

_CHUNK_BYTES = 16 << 10
_WINDOW_BYTES = 256 << 10


@dataclass(frozen=True)
class Link:
    """One peer's connection. Streams share the uplink; `cut_probability` is that of a cut per 16 KiB chunk."""

    latency_seconds: float = 0.0
    rate_bytes_per_second: float = math.inf
    cut_probability: float = 0.0


async def inline(function: Callable[..., Any], *arguments: Any) -> Any:
    """Instead of trio.to_thread.run_sync under a jumping clock, which takes waiting for a thread for idleness."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class MemoryNetwork:
    """Every transport made here can reach every other. Handlers run in `nursery`; their bugs surface there."""

    def __init__(self, nursery: trio.Nursery, seed: int = 0) -> None:
        self._nursery = nursery
        self._random = random.Random(seed)
        self._nodes: dict[PeerId, MemoryTransport] = {}
        self._records: dict[str, dict[str, tuple[bytes, float]]] = {}

    def transport(self, peer_id: PeerId, link: Link | None = None) -> "MemoryTransport":
        node = MemoryTransport(self, peer_id, link or Link())
        self._nodes[peer_id] = node
        return node

    def records(self) -> "MemoryRecords":
        return MemoryRecords(self._records)

    def cut(self, peer_id: PeerId) -> None:
        """kill -9: gone for good, its streams end."""
        node = self._nodes.pop(peer_id)
        for end in list(node.ends):
            end.cut()

    def freeze(self, peer_id: PeerId) -> None:
        """SIGSTOP: everything stays open and nothing moves."""
        self._nodes[peer_id].thawed = trio.Event()

    def thaw(self, peer_id: PeerId) -> None:
        self._nodes[peer_id].thawed.set()

    def _reach(self, peer_id: PeerId) -> "MemoryTransport":
        if peer_id not in self._nodes:
            raise PeerUnreachable(f"no peer {peer_id}")
        return self._nodes[peer_id]

    async def _open(self, origin: "MemoryTransport", peer_id: PeerId, protocol: str) -> "MemoryStream":
        await trio.sleep(origin.link.latency_seconds)
        target = self._reach(peer_id)
        handler = target.handlers.get(protocol)
        if handler is None or origin.peer_id not in self._nodes:
            raise PeerUnreachable(f"{peer_id} does not speak {protocol}")
        near, far = MemoryStream(origin, target), MemoryStream(target, origin)
        near.other, far.other = far, near
        self._nursery.start_soon(self._serve, handler, far)
        return near

    @staticmethod
    async def _serve(handler: StreamHandler, stream: "MemoryStream") -> None:
        try:
            await stream.owner.thawed.wait()
            await handler(stream)
        except P2pError:
            pass  # the peer's fault; a bug of ours goes on to the nursery
        finally:
            await stream.aclose()

    def chunk_is_lost(self, link: Link) -> bool:
        return link.cut_probability > 0 and self._random.random() < link.cut_probability


class MemoryTransport:
    """`p2p.protocols.Transport`. `bytes_sent` counts what left through the uplink."""

    def __init__(self, network: MemoryNetwork, peer_id: PeerId, link: Link) -> None:
        self.network = network
        self.link = link
        self.handlers: dict[str, StreamHandler] = {}
        self.ends: set[MemoryStream] = set()
        self.thawed = trio.Event()
        self.thawed.set()
        self.bytes_sent = 0
        self._peer_id = peer_id
        self._uplink_free_at = -math.inf

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        return (f"/memory/0/p2p/{self._peer_id}",)

    async def dial(self, address: str) -> PeerId:
        await trio.sleep(self.link.latency_seconds)
        return self.network._reach(address.rpartition("/p2p/")[2]).peer_id

    async def open(self, peer: PeerId, protocol: str) -> "MemoryStream":
        return await self.network._open(self, peer, protocol)

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        if protocol in self.handlers:
            raise ValueError(f"{protocol} is handled already")
        self.handlers[protocol] = handler

    async def connected(self) -> tuple[PeerId, ...]:
        return tuple(peer for peer in self.network._nodes if peer != self._peer_id)

    def flows(self) -> tuple[Flow, ...]:
        return ()

    async def send_uplink(self, size_bytes: int) -> None:
        """Wait for our turn on the uplink and for the bytes to be on it."""
        start = max(trio.current_time(), self._uplink_free_at)
        self._uplink_free_at = start + size_bytes / self.link.rate_bytes_per_second
        self.bytes_sent += size_bytes
        await trio.sleep_until(self._uplink_free_at)


class MemoryStream:
    """`p2p.protocols.Stream`: one end. `owner` is whose end it is."""

    other: "MemoryStream"

    def __init__(self, owner: MemoryTransport, peer: MemoryTransport) -> None:
        self.owner = owner
        self._remote = peer.peer_id
        self._arrived: deque[tuple[float, bytes]] = deque()  # (time of arrival, bytes)
        self._buffered_bytes = 0
        self._ended = False  # nothing more comes in
        self._closed = False
        self._sending = False
        self._changed = trio.Event()
        owner.ends.add(self)

    @property
    def remote(self) -> PeerId:
        return self._remote

    async def send_all(self, data: bytes | memoryview) -> None:
        """Raises BusyResourceError, as a socket would, when another task is sending."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            for start in range(0, len(data), _CHUNK_BYTES):
                await self._send_chunk(bytes(data[start : start + _CHUNK_BYTES]))
            await trio.lowlevel.checkpoint()
        finally:
            self._sending = False

    async def _send_chunk(self, chunk: bytes) -> None:
        await self.owner.thawed.wait()
        while not self._closed and self.other._buffered_bytes >= _WINDOW_BYTES:
            await self._change()
        await self.owner.send_uplink(len(chunk))
        if self.owner.network.chunk_is_lost(self.owner.link):
            self.cut()
        if self._closed or self.other._closed:
            raise StreamClosed(f"stream to {self._remote} is closed")
        self.other._arrived.append((trio.current_time() + self.owner.link.latency_seconds, chunk))
        self.other._buffered_bytes += len(chunk)
        self.other._wake()

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            await self.owner.thawed.wait()
            if self._closed:
                raise StreamClosed("stream is closed on this side")
            if self._arrived and self._arrived[0][0] <= trio.current_time():
                return self._take(max_bytes)
            if self._arrived:
                await trio.sleep_until(self._arrived[0][0])
            elif self._ended:
                return b""
            else:
                await self._change()

    def _take(self, max_bytes: int) -> bytes:
        at, chunk = self._arrived.popleft()
        if len(chunk) > max_bytes:
            self._arrived.appendleft((at, chunk[max_bytes:]))
        self._buffered_bytes -= len(chunk[:max_bytes])
        self.other._wake()
        return chunk[:max_bytes]

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self.owner.ends.discard(self)
            self.other._ended = True
            self._wake()
            self.other._wake()
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        """Both ends at once; what was on its way is lost and the reader sees a clean EOF."""
        for end in (self, self.other):
            end._arrived.clear()
            end._buffered_bytes = 0
            end._ended = True
            end._wake()
        self._closed = True

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()


class MemoryRecords:
    """`p2p.protocols.RecordStore`, shared by all of a network."""

    def __init__(self, records: dict[str, dict[str, tuple[bytes, float]]]) -> None:
        self._records = records

    async def store(self, key: str, subkey: str, value: bytes, lifetime_seconds: float) -> bool:
        await trio.lowlevel.checkpoint()
        self._records.setdefault(key, {})[subkey] = (value, trio.current_time() + lifetime_seconds)
        return True

    async def fetch(self, key: str) -> dict[str, bytes]:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        return {subkey: value for subkey, (value, until) in self._records.get(key, {}).items() if now < until}
