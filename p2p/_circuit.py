"""Circuits through a relay, libp2p's circuit v2: who is behind a NAT keeps a place at each of its relays.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md. p2pd's own autorelay also asks for a place,
but not again for an hour when the relay was away.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import trio

from p2p import _multiaddr
from p2p._multiaddr import AddressError
from p2p.errors import PeerUnreachable, ProtocolViolation, TransportError
from p2p.meetings import Backoff
from p2p.protocols import PeerId, Stream, Transport

_log = logging.getLogger(__name__)
_HOP = "/libp2p/circuit/relay/0.2.0/hop"
_RESERVE = bytes((2, 0x08, 0x00))  # its length, then field 1 (type) = RESERVE
_STATUS_OK = 100
_MAX_REPLY_BYTES = 4096
_ANSWER_SECONDS = 10.0
_RENEW_SECONDS = 300.0  # a place lasts an hour, or as long as the connection
_PING = "/ipfs/ping/1.0.0"
_PING_BYTES = 32
_PING_SECONDS = 5.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 2.0, 60.0


@dataclass(frozen=True)
class Place:
    """What the relay lets each circuit do; 0: no limit told."""

    circuit_seconds: int
    circuit_bytes: int


def circuit_address(relay: str, peer: PeerId) -> str:
    return f"{relay}/p2p-circuit/p2p/{peer}"


async def keep_place(transport: Transport, relay: str) -> None:
    """Be connected to `relay` and have a place there, or be trying, for ever."""
    peer = _multiaddr.split_peer(relay)[1]
    backoff = Backoff(_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS)
    missed = False
    while True:
        try:
            await transport.dial(relay)
            place = await reserve(transport, peer)
            _log.debug("place at relay %s: %s", relay, place)
            missed = False
            await _while_connected(transport, peer, backoff)
        except (TransportError, ProtocolViolation) as error:
            if not missed:
                _log.warning("no place at relay %s, trying on: %s", relay, error)
            missed = True
            await trio.sleep(backoff.next_seconds())


async def _while_connected(transport: Transport, relay: PeerId, backoff: Backoff) -> None:
    """Until it is time to renew. Raises PeerUnreachable, StreamClosed as soon as the connection is another one.

    Our place goes with the connection it was asked on, and p2pd tells nobody when one goes: a relay that starts again
    may be connected once more before anybody looks. A stream of libp2p's ping ends with its connection.
    """
    with trio.move_on_after(_RENEW_SECONDS):
        stream = await transport.open(relay, _PING)
        try:
            while True:
                await _ping(stream)
                backoff.reset()
        finally:
            await stream.aclose()


async def _ping(stream: Stream) -> None:
    """Bytes that come back, and a rest in which a broken connection shows at once. Source: libp2p's ping spec."""
    sent, received = os.urandom(_PING_BYTES), b""
    await stream.send_all(sent)
    with trio.move_on_after(_ANSWER_SECONDS):
        while len(received) < _PING_BYTES:
            received += await _some(stream)
    if received != sent:
        raise PeerUnreachable(f"relay {stream.remote} does not answer")
    with trio.move_on_after(_PING_SECONDS):
        raise ProtocolViolation(f"relay {stream.remote} sent {len(await _some(stream))} bytes nobody asked for")


async def _some(stream: Stream) -> bytes:
    chunk = await stream.receive_some(_MAX_REPLY_BYTES)
    if not chunk:
        raise PeerUnreachable(f"relay {stream.remote} closed the stream")
    return chunk


async def reserve(transport: Transport, relay: PeerId) -> Place:
    """Take or renew our place. Raises TransportError, PeerUnreachable (it refused), ProtocolViolation."""
    with trio.move_on_after(_ANSWER_SECONDS):
        stream = await transport.open(relay, _HOP)
        try:
            await stream.send_all(_RESERVE)
            return _place(await _receive(stream))
        finally:
            await stream.aclose()
    raise PeerUnreachable(f"relay {relay} did not answer in {_ANSWER_SECONDS:g} s")


async def _receive(stream: Stream) -> bytes:
    """One message with its length, a varint of at most two bytes, in front."""
    received = bytearray()
    while True:
        head = next((i + 1 for i, byte in enumerate(received[:2]) if byte < 0x80), 0)
        size = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(received[:head]))
        if size > _MAX_REPLY_BYTES or not head and len(received) >= 2:
            raise ProtocolViolation("a relay's answer that is too long")
        if head and len(received) >= head + size:
            return bytes(received[head : head + size])
        received += await _some(stream)


def _place(message: bytes) -> Place:
    """Of a HopMessage: status is its field 5, limit its field 4 {1: seconds, 2: bytes}."""
    fields = dict(_protobuf(message))
    status, limit = fields.get(5), fields.get(4, b"")
    if status != _STATUS_OK:
        raise PeerUnreachable(f"the relay has no place for us: status {status!r}")
    limits = dict(_protobuf(limit)) if isinstance(limit, bytes) else {}
    seconds, size = limits.get(1, 0), limits.get(2, 0)
    if not isinstance(seconds, int) or not isinstance(size, int):
        raise ProtocolViolation("a relay's limits that are none")
    return Place(seconds, size)


def _protobuf(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of varints and byte strings, all that circuits use. Raises ProtocolViolation."""
    offset = 0
    try:
        while offset < len(message):
            key, offset = _multiaddr.varint_at(message, offset)
            value, offset = _multiaddr.varint_at(message, offset)
            if key & 7 == 0:
                yield key >> 3, value
            elif key & 7 == 2 and value <= len(message) - offset:
                yield key >> 3, message[offset : offset + value]
                offset += value
            else:
                raise ProtocolViolation("a relay's answer that is no message")
    except AddressError as error:
        raise ProtocolViolation("a relay's answer that is cut short") from error
