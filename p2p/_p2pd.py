"""The `Transport` on go-libp2p: p2pd as a child process, its control socket spoken natively on trio.

The protocol (hivemind's p2pd.proto): varint-framed protobufs, one unix connection a request. After STREAM_OPEN
that connection *is* the stream; after STREAM_HANDLER p2pd connects to our own socket for each inbound stream
and names the peer, authenticated by Noise, in a StreamInfo header. TCP and Noise only: QUIC is slower, and
stalled QUIC streams block new ones.
"""

import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from p2p import _multiaddr
from p2p._background import leaves
from p2p._circuit import circuit_address, keep_place, reserve
from p2p._multiaddr import AddressError
from p2p._p2pd_control import P2pdControl, receive_message
from p2p._p2pd_process import P2pdProcess, check_port_free
from p2p._p2pd_settings import (
    RELAY_CIRCUIT_BYTES,
    P2pdSettings,
    listen_port,
    near_addresses,
    p2pd_arguments,
    p2pd_environment,
    remove_stale_sockets,
    sockets_parent,
)
from p2p._probe import probe
from p2p._reach import farthest_first
from p2p.errors import (
    P2pError,
    PeerUnreachable,
    ProtocolViolation,
    StreamClosed,
    TransportDied,
    TransportError,
)
from p2p.flows import Flow, tcp_flows
from p2p.identity import create_identity, peer_id_of
from p2p.limits import SlotLimiter, everyone
from p2p.meetings import dial_any
from p2p.protocols import PeerId, StreamHandler

__all__ = ["P2pdSettings", "P2pdStream", "P2pdTransport", "open_p2pd"]
_log = logging.getLogger(__name__)
_MAX_STREAM_INFO_BYTES = 4096
_ADDRESSES_SECONDS = 60.0
_RELAY_STARTS = 20
_SMALL_RELAY = (
    "in %d starts p2pd took libp2p's smallest relay limits (128 KiB and two minutes a circuit): peers behind a NAT "
    "find each other through us but get no contributions; start the daemon again, without GOMAXPROCS if it is set"
)


class P2pdStream:
    """A stream whose bytes pass through p2pd; trio's errors become ours."""

    def __init__(self, stream: trio.SocketStream, remote: PeerId) -> None:
        self._stream = stream
        self._remote = remote

    @property
    def remote(self) -> PeerId:
        return self._remote

    async def send_all(self, data: bytes | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosed(f"stream with {self._remote} closed while sending") from error

    async def receive_some(self, max_bytes: int) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosed(f"stream with {self._remote} closed while receiving") from error

    async def aclose(self) -> None:
        await self._stream.aclose()


class P2pdTransport:
    """See `p2p.protocols.Transport`. Every request has a deadline; all raise TransportError or its children."""

    def __init__(self, settings: P2pdSettings, process: P2pdProcess, directory: Path, nursery: trio.Nursery) -> None:
        self._settings = settings
        self._process = process
        self._directory = directory
        self._nursery = nursery
        self._control = P2pdControl(directory / "control", process, settings.request_seconds)
        self._messages = self._control.messages
        self._handlers: dict[str, StreamHandler] = {}
        self.admit: Callable[[PeerId], bool] = everyone  # the others leave streams to these
        admit = lambda peer: self.admit(peer)  # noqa: E731
        self._slots = SlotLimiter(settings.max_inbound_streams_per_peer, settings.max_inbound_streams, admit)
        self._peer_id = ""
        self._addresses: tuple[str, ...] = ()

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def control_address(self) -> str:
        """Multiaddr of p2pd's control socket, for a second client such as hivemind's DHT."""
        return f"/unix{self._directory}/control"

    async def refresh_addresses(self) -> tuple[str, ...]:
        """Ask p2pd again: addresses seen from outside come later than the start. Ours through relays are there from
        the start: p2pd lists them late, and those through relays on private networks never."""
        reply = await self._control.request(type=self._messages.Request.IDENTIFY)
        self._peer_id = _multiaddr.peer_id_from_bytes(reply.identify.id)
        relayed = [circuit_address(relay, self._peer_id) for relay in self._settings.relays]
        self._addresses = farthest_first([*_readable(reply.identify.addrs, self._peer_id), *relayed])
        return self._addresses

    async def dial(self, address: str) -> PeerId:
        try:
            head, peer = _multiaddr.split_peer(address)
            raw_peer, raw_address = _multiaddr.peer_id_to_bytes(peer), _multiaddr.encode(head)
        except AddressError as error:
            raise PeerUnreachable(f"cannot dial: {error}") from error
        if peer == self._peer_id:
            raise PeerUnreachable(f"{address} is ourselves")
        await probe(head, self._settings.request_seconds)
        timeout = self._control.timeout_seconds
        connect = self._messages.ConnectRequest(peer=raw_peer, addrs=[raw_address], timeout=timeout)
        await self._control.request(peer, type=self._messages.Request.CONNECT, connect=connect)
        return peer

    async def open(self, peer: PeerId, protocol: str) -> P2pdStream:
        open_request = self._messages.StreamOpenRequest(
            peer=self._raw_peer(peer), proto=[protocol], timeout=self._control.timeout_seconds
        )
        request = self._messages.Request(type=self._messages.Request.STREAM_OPEN, streamOpen=open_request)
        stream = await self._control.connect()
        try:
            await self._control.ask(stream, request, peer)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return P2pdStream(stream, peer)

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        if protocol in self._handlers:
            raise ValueError(f"{protocol} has a handler already; p2pd cannot replace it")
        self._handlers[protocol] = handler
        address = _multiaddr.encode(f"/unix{self._listen_path}")
        registration = self._messages.StreamHandlerRequest(addr=address, proto=[protocol], balanced=False)
        await self._control.request(type=self._messages.Request.STREAM_HANDLER, streamHandler=registration)

    async def connected(self) -> tuple[PeerId, ...]:
        reply = await self._control.request(type=self._messages.Request.LIST_PEERS)
        return tuple(_multiaddr.peer_id_from_bytes(peer.id) for peer in reply.peers)

    async def seen_at(self, peer: PeerId) -> tuple[str, ...]:
        """The far ends of our connections to `peer`, as they look from here."""
        raw, reply = self._raw_peer(peer), await self._control.request(type=self._messages.Request.LIST_PEERS)
        return tuple(text for one in reply.peers if one.id == raw for text in _readable(one.addrs, peer))

    async def disconnect(self, peer: PeerId) -> None:
        """Close every connection to `peer`, and its streams with them."""
        disconnect = self._messages.DisconnectRequest(peer=self._raw_peer(peer))
        await self._control.request(peer, type=self._messages.Request.DISCONNECT, disconnect=disconnect)

    def flows(self) -> list[Flow]:
        return tcp_flows(self._settings.listen_host, listen_port(self._settings, self._addresses))

    @property
    def _listen_path(self) -> Path:
        return self._directory / "streams"

    def _raw_peer(self, peer: PeerId) -> bytes:
        try:
            return _multiaddr.peer_id_to_bytes(peer)
        except AddressError as error:
            raise PeerUnreachable(str(error)) from error

    async def _hold_open(self) -> None:
        """The connection whose end tells p2pd that we are gone, however we went. Keep it until the exit."""
        stream = await self._control.connect()
        await self._control.ask(stream, self._messages.Request(type=self._messages.Request.PERSISTENT_CONN_UPGRADE))
        self._nursery.start_soon(_hold, stream)

    async def _start(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.fspath(self._listen_path))
        listener.listen(128)
        trio_listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        self._nursery.start_soon(trio.serve_listeners, self._serve_inbound, [trio_listener])
        await self._hold_open()
        await self.refresh_addresses()
        self._nursery.start_soon(self._keep_addresses)
        for relay in self._settings.relays:
            self._nursery.start_soon(keep_place, self, relay)

    async def _keep_addresses(self) -> None:
        while True:
            await trio.sleep(_ADDRESSES_SECONDS)
            try:
                await self.refresh_addresses()
            except TransportError as error:
                _log.debug("asking p2pd for our addresses: %s", error)

    async def _serve_inbound(self, stream: trio.SocketStream) -> None:
        info = self._messages.StreamInfo()
        try:
            with trio.fail_after(self._settings.request_seconds):
                await receive_message(stream, info, _MAX_STREAM_INFO_BYTES)
            peer = _multiaddr.peer_id_from_bytes(info.peer)
        except (TransportError, AddressError, trio.TooSlowError) as error:
            _log.warning("inbound stream without a header: %s", error, extra={"peer_caused": True})
            return
        handler = self._handlers.get(info.proto)
        if handler is None:
            _log.warning("inbound stream for %s, which we do not serve", info.proto, extra={"peer_caused": True})
            return
        await self._run_handler(handler, P2pdStream(stream, peer), info.proto)

    async def _run_handler(self, handler: StreamHandler, stream: P2pdStream, protocol: str) -> None:
        """What a peer causes ends its stream; anything else is our bug and ends us."""
        try:
            with self._slots.slot(stream.remote):
                await handler(stream)
        except (P2pError, trio.TooSlowError) as error:
            level = logging.WARNING if isinstance(error, ProtocolViolation) else logging.DEBUG
            _log.log(level, "stream of %s for %s ended: %s", stream.remote, protocol, error)


@asynccontextmanager
async def open_p2pd(settings: P2pdSettings) -> AsyncIterator[P2pdTransport]:
    """Start a p2pd and yield the transport on it; leaving the context ends and reaps the process.

    Raises PortInUse, IdentityError, TransportError (no start) and, out of the context at any time,
    TransportDied: start over with a new one. Enter from a thread that outlives the context.
    """
    peer_id_of(settings.identity)  # a broken or exposed key is refused before p2pd sees it
    if settings.listen_port:
        check_port_free(settings.listen_host, settings.listen_port)
    for left in reversed(range(_RELAY_STARTS if settings.relay_service else 1)):
        async with _running(settings) as transport:
            if settings.relay_service and not await _relays_in_earnest(transport, settings):
                if left:
                    _log.info("p2pd took libp2p's smallest relay limits instead of ours; starting it again")
                    continue
                _log.error(_SMALL_RELAY, _RELAY_STARTS)
            yield transport
            return


async def _relays_in_earnest(transport: P2pdTransport, settings: P2pdSettings) -> bool:
    """Whether circuits through it have our limits, as another p2pd sees it.

    See `p2pd_environment` for why they might be others.
    """
    near = tuple(f"{address}/p2p/{transport.peer_id}" for address in near_addresses(settings)) or transport.addresses
    with tempfile.TemporaryDirectory() as directory:
        create_identity(Path(directory) / "key")
        probe_settings = P2pdSettings(Path(directory) / "key", listen_host="127.0.0.1", hole_punching=False)
        try:
            async with _running(probe_settings) as probe:
                await dial_any(probe.dial, near, settings.request_seconds)
                return (await reserve(probe, transport.peer_id)).circuit_bytes == RELAY_CIRCUIT_BYTES
        except (TransportError, ProtocolViolation) as error:
            _log.warning("could not try our own relay service: %s", error)
            return True


@asynccontextmanager
async def _running(settings: P2pdSettings) -> AsyncIterator[P2pdTransport]:
    parent = sockets_parent(settings.runtime_directory)
    remove_stale_sockets(parent)
    with tempfile.TemporaryDirectory(prefix="p2pd-", dir=parent) as name:
        directory = Path(name)  # mode 0700
        process = P2pdProcess(p2pd_arguments(settings, directory), p2pd_environment(settings))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.read_output)
                nursery.start_soon(process.watch)
                transport = P2pdTransport(settings, process, directory, nursery)
                with trio.move_on_after(settings.start_seconds):
                    await process.ready.wait()
                if not process.ready.is_set():
                    raise TransportError(f"p2pd was not ready in {settings.start_seconds:g} s")
                await transport._start()
                yield transport
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise await _simplest(group, process) from None
        finally:
            await process.stop()


async def _simplest(group: BaseExceptionGroup[BaseException], process: P2pdProcess) -> BaseException:
    """One exception as itself; a crowd of network errors as TransportDied when p2pd's death explains them."""
    found = leaves(group)
    for leaf in found:
        if isinstance(leaf, TransportDied):
            return leaf if all(isinstance(other, TransportError) for other in found) else group
    if all(isinstance(leaf, (StreamClosed, PeerUnreachable)) for leaf in found) and await process.died():
        return process.death()
    return found[0] if len(found) == 1 else group


def _readable(raw_addresses: list[bytes], peer: PeerId) -> list[str]:
    """Addresses in text; those of protocols we do not speak are left out."""
    found = []
    for raw in raw_addresses:
        try:
            text = _multiaddr.decode(raw)
        except AddressError:
            continue
        found.append(text if text.endswith(f"/p2p/{peer}") else f"{text}/p2p/{peer}")
    return found


async def _hold(stream: trio.SocketStream) -> None:
    async with stream:
        while await stream.receive_some(4096):
            pass  # p2pd says nothing here unless asked
