"""Records in a distributed hash table: what everybody announces, and nobody has to be trusted with."""

import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from p2p._asyncio_thread import AsyncioThread, asyncio_thread
from p2p._background import background
from p2p._hivemind import Accept, HivemindNode, key_id, load
from p2p._p2pd import P2pdTransport
from p2p.errors import TransportDied, TransportError
from p2p.protocols import PeerId

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_EXPIRY_TOLERANCE_SECONDS = 1e-3  # of a float through two encodings
_SHUTDOWN_SECONDS = 2.0
_JOIN_BRIEFLY_SECONDS = 1.0


@dataclass(frozen=True)
class Placement:
    """Where an entry belongs: its key, and its expiry in seconds since the epoch."""

    key: str
    expires_at: float


Place = Callable[[str, bytes], Placement | None]
"""(subkey, value) -> where this entry belongs, by what its author signed; None if nowhere. Never raises.

With it, a node refuses entries that their author did not put there, so that nobody overwrites, moves, or
shortens or extends the life of another's records. It must say the same on all nodes, or they refuse each
other's answers.
"""


@dataclass(frozen=True)
class DhtSettings:
    """`join_seconds`: how often connected peers that are not in our DHT are introduced to it; ever less often, up to
    `join_last_seconds`, while the same peers are connected."""

    max_value_bytes: int = 10 << 10
    replicas: int = 5
    call_seconds: float = 10.0
    rpc_seconds: float = 3.0
    join_seconds: float = 0.5
    join_last_seconds: float = 5.0
    retry_seconds: float = 15.0


class Dht:
    """A `RecordStore`; made by `open_dht`. Peers' clocks must agree within 3 s.

    `admit` (settable): the subkeys under which we store entries for others, so that strangers cannot fill the
    memory of all. It is called from another thread.
    """

    def __init__(
        self,
        thread: AsyncioThread,
        transport: P2pdTransport,
        place: Place | None,
        settings: DhtSettings,
    ) -> None:
        self._thread = thread
        self._transport = transport
        self.admit: Callable[[str], bool] = lambda subkey: True
        self._place = place
        self._settings = settings
        self._next_try: dict[PeerId, float] = {}
        self._node: HivemindNode

    async def store(self, key: str, subkey: str, value: bytes, lifetime_seconds: float) -> bool:
        """Whether some node took it. Raises ValueError (too long, or not where it belongs), TransportError.

        With a `Place`, the expiry is the one it names, and `lifetime_seconds` is not used.
        """
        if len(value) > self._settings.max_value_bytes:
            raise ValueError(f"a DHT value of {len(value)} bytes exceeds {self._settings.max_value_bytes}")
        expires_at = time.time() + lifetime_seconds
        if self._place is not None:
            placement = self._place(subkey, value)
            if placement is None or placement.key != key:
                raise ValueError(f"a DHT value that does not belong under {key!r}, {subkey!r}")
            expires_at = placement.expires_at
        await self._join_briefly()
        return await self._call(lambda: self._node.store(key, subkey, value, expires_at))

    async def fetch(self, key: str) -> dict[str, bytes]:
        """Subkey -> value, as the nodes asked know it. Raises TransportError."""
        await self._join_briefly()
        return await self._call(lambda: self._node.fetch(key))

    async def size(self) -> int:
        """Other nodes we know."""
        return await self._call(self._node.size)

    async def start(self, accept: Accept | None) -> None:
        """Raises TransportError."""
        address, settings = self._transport.control_address, self._settings

        async def create() -> HivemindNode:
            return await HivemindNode.create(
                address, accept, lambda subkey: self.admit(subkey), settings.replicas, settings.rpc_seconds
            )

        self._node = await self._call(create)

    async def shut_down(self) -> None:
        """Politely if p2pd still answers; the thread ends in any case."""
        with trio.move_on_after(_SHUTDOWN_SECONDS):
            try:
                await self._call(self._node.shutdown)
            except TransportError as error:
                _log.debug("shutting down: %s", error)

    async def keep_joining(self) -> None:
        settings, before = self._settings, frozenset[PeerId]()
        pause_seconds = settings.join_seconds
        while True:
            try:
                connected = await self.join()
                pause_seconds = min(2 * pause_seconds, settings.join_last_seconds)
                if connected != before:
                    before, pause_seconds = connected, settings.join_seconds
            except TransportDied:
                return  # the transport's own context raises it
            except TransportError as error:
                _log.debug("joining the DHT: %s", error)
            await trio.sleep(pause_seconds)

    async def join(self) -> frozenset[PeerId]:
        """Introduce ourselves to the connected peers we do not know as nodes. Returns all who are connected.

        Peers that start at once form islands, each with a DHT of its own; that every peer keeps doing this
        with everybody it is connected to is what makes them one.
        """
        connected = await self._transport.connected()
        now = trio.current_time()
        self._next_try = {peer: at for peer, at in self._next_try.items() if peer in connected}
        due = [peer for peer in connected if self._next_try.get(peer, -math.inf) <= now]
        strangers = await self._call(lambda: self._node.strangers(due))
        if strangers:
            for peer in strangers:
                self._next_try[peer] = now + self._settings.retry_seconds
            met = await self._call(lambda: self._node.introduce(strangers))
            _log.debug("introduced to %d of %d peers", len(met), len(strangers))
        return frozenset(connected)

    async def _join_briefly(self) -> None:
        """So that whom we met a moment ago takes part; a peer that is slow to answer takes part later."""
        with trio.move_on_after(_JOIN_BRIEFLY_SECONDS):
            await self.join()

    async def _call(self, start: Callable[[], Awaitable[_Result]]) -> _Result:
        try:
            return await self._thread.call(start, self._settings.call_seconds)
        except TransportError:
            raise
        except Exception as error:
            # hivemind raises whatever it likes; to our callers it is all "the DHT failed"
            raise TransportError(f"DHT: {error!r}"[:500]) from error


@asynccontextmanager
async def open_dht(
    transport: P2pdTransport, place: Place | None = None, settings: DhtSettings | None = None
) -> AsyncIterator[Dht]:
    """A DHT node on `transport`, which joins whoever we are connected to. Starts alone, without peers.

    Raises TransportError when it cannot start. Its thread ends with the context.
    """
    settings = settings or DhtSettings()
    load()  # here and not in the thread: imports with stand-ins must not race other imports
    accept = _accept(place, settings) if place is not None else None
    async with asyncio_thread("dht") as thread:
        dht = Dht(thread, transport, place, settings)
        await dht.start(accept)
        try:
            async with background() as nursery:
                nursery.start_soon(dht.keep_joining)
                yield dht
        finally:
            with trio.CancelScope(shield=True):
                await dht.shut_down()


def _accept(place: Place, settings: DhtSettings) -> Accept:
    def accept(key: bytes, subkey: str, value: bytes, expires_at: float) -> bool:
        if len(value) > settings.max_value_bytes:
            return False
        placement = place(subkey, value)
        if placement is None or key != key_id(placement.key):
            return False
        return abs(placement.expires_at - expires_at) < _EXPIRY_TOLERANCE_SECONDS

    return accept
