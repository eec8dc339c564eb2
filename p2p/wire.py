"""Frames over any byte stream: a u32 big-endian length, then a msgpack body or raw bytes.

Used between peers and on the control socket. The other end is hostile: lengths are checked before anything
is allocated, and msgpack is held to plain types, bounded lengths and bounded depth. A send or receive that is
cancelled leaves the stream in the middle of a frame: close it.
"""

import struct
from typing import Any, Protocol, TypeVar

import msgpack
import trio

from p2p.errors import ProtocolViolation, StreamClosed

MAX_FRAME_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_ITEMS = 4096  # per array or map: a nest of headers that promise more would allocate before we could look
_LENGTH = struct.Struct(">I")
_Kind = TypeVar("_Kind")
_RECEIVE_BYTES = 256 << 10
_JOIN_BYTES = 60 << 10  # of a body go with its length: a copy is cheaper than a packet of its own for that


class ByteStream(Protocol):
    """What framing needs of a stream: `p2p.protocols.Stream` and trio's own streams have it."""

    async def send_all(self, data: bytes | memoryview) -> None: ...

    async def receive_some(self, max_bytes: int) -> bytes | bytearray: ...


def pack(message: object, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """msgpack of plain data. Raises ValueError or TypeError on what we could not receive ourselves."""
    _check_shape(message, MAX_ITEMS, ValueError)
    try:
        body: bytes = msgpack.packb(message)
    except OverflowError as error:
        raise ValueError(f"a number msgpack cannot hold: {error}") from error
    if len(body) > max_bytes:
        raise ValueError(f"message of {len(body)} bytes exceeds {max_bytes}")
    return body


def unpack(body: bytes | bytearray, max_items: int = MAX_ITEMS) -> Any:
    """Plain data (None, bool, int, float, str, bytes, list, dict with str keys). Raises ProtocolViolation."""
    try:
        message = msgpack.unpackb(
            body,
            strict_map_key=True,
            max_array_len=max_items,
            max_map_len=max_items,
            max_str_len=len(body),
            max_bin_len=len(body),
            max_ext_len=0,
            ext_hook=_refuse_ext,
        )
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolViolation(f"not msgpack we accept: {error!r}"[:200]) from error
    _check_shape(message, max_items, ProtocolViolation)
    return message


def _refuse_ext(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code}")


def _check_shape(message: object, max_items: int, error: type[Exception]) -> None:
    """Only plain types, str keys, at most `max_items` a container and MAX_DEPTH levels."""
    level = [message]
    for _ in range(MAX_DEPTH + 1):
        level = [child for item in level for child in _children(item, max_items, error)]
        if not level:
            return
    raise error(f"message nested deeper than {MAX_DEPTH}")


def _children(item: object, max_items: int, error: type[Exception]) -> "list[object] | tuple[object, ...]":
    if item is None or isinstance(item, (bool, int, float, str, bytes)):
        return ()
    if not isinstance(item, (list, tuple, dict)):
        raise error(f"{type(item).__name__} in a message")
    if len(item) > max_items:
        raise error(f"{len(item)} items in one container, more than {max_items}")
    if isinstance(item, dict):
        if not all(isinstance(key, str) for key in item):
            raise error("a map key that is not text")
        return list(item.values())
    return item


async def send_frame(stream: ByteStream, message: object, max_bytes: int = MAX_FRAME_BYTES) -> None:
    """Send one message. Raises StreamClosed; ValueError if the message is not one we could receive."""
    await send_bytes(stream, pack(message, max_bytes))


async def receive_frame(stream: ByteStream, max_bytes: int = MAX_FRAME_BYTES) -> Any:
    """Receive one message of plain data. Raises StreamClosed (EOF, anywhere) or ProtocolViolation."""
    return unpack(await receive_buffer(stream, max_bytes))


async def send_bytes(stream: ByteStream, data: bytes | memoryview, head: bytes = b"") -> None:
    """Send one frame whose body is `head` and `data` themselves. Raises StreamClosed."""
    prefix = _LENGTH.pack(len(head) + len(data)) + head
    try:
        await stream.send_all(prefix + bytes(data[:_JOIN_BYTES]))
        if rest := memoryview(data)[_JOIN_BYTES:]:
            await stream.send_all(rest)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise StreamClosed("stream closed while sending a frame") from error


async def receive_bytes(stream: ByteStream, max_bytes: int) -> bytes:
    """Receive one frame's body. Raises StreamClosed (EOF, anywhere) or ProtocolViolation (too long)."""
    return bytes(await receive_buffer(stream, max_bytes))


async def receive_buffer(stream: ByteStream, max_bytes: int) -> bytearray:
    """`receive_bytes` without its last copy, which for a piece of a blob costs more than hashing it."""
    return await receive_rest(stream, await receive_length(stream, max_bytes))


async def receive_length(stream: ByteStream, max_bytes: int) -> int:
    """The length of a frame's body, to be received by `receive_rest`. Raises as `receive_bytes`."""
    length: int
    (length,) = _LENGTH.unpack(await receive_rest(stream, _LENGTH.size))
    if length > max_bytes:
        raise ProtocolViolation(f"frame of {length} bytes exceeds {max_bytes}")
    return length


async def receive_rest(stream: ByteStream, size: int) -> bytearray:
    """Grows with what has arrived: a promised length alone costs us nothing."""
    received = bytearray()
    while len(received) < size:
        try:
            chunk = await stream.receive_some(min(size - len(received), _RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosed("stream closed while receiving a frame") from error
        if not chunk:
            raise StreamClosed(f"stream ended after {len(received)} of {size} bytes")
        received += chunk
    return received


class ReadAhead:
    """A stream of which up to `ahead_bytes` are received at once, be less asked for: a frame's length seldom comes
    alone, and each time that something is received costs more than the bytes. `held`: not asked for yet."""

    def __init__(self, stream: ByteStream, ahead_bytes: int) -> None:
        self._stream = stream
        self._ahead_bytes = ahead_bytes
        self.held: bytes | bytearray = b""

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        received = self.held or await self._stream.receive_some(max(max_bytes, self._ahead_bytes))
        self.held = received[max_bytes:]
        return received[:max_bytes]


class Fields:
    """Typed, bounded access to a received map: parsers read like a spec. All raise ProtocolViolation."""

    def __init__(self, message: object) -> None:
        if not isinstance(message, dict):
            raise ProtocolViolation(f"expected a map, got {type(message).__name__}")
        self._map: dict[str, Any] = message

    def as_map(self) -> dict[str, Any]:
        return self._map

    def has(self, name: str) -> bool:
        return self._map.get(name) is not None

    def text(self, name: str, max_chars: int) -> str:
        value = self._typed(name, str)
        _check_bounds(name, len(value), 0, max_chars)
        return value

    def number(self, name: str, low: int, high: int) -> int:
        """An integer in [low, high]."""
        value = self._typed(name, int)
        _check_bounds(name, value, low, high)
        return value

    def real(self, name: str, low: float, high: float) -> float:
        """A float or integer in [low, high]; never nan."""
        value = self._map.get(name)
        number = float(self._typed(name, int)) if isinstance(value, int) else self._typed(name, float)
        _check_bounds(name, number, low, high)
        return number

    def flag(self, name: str) -> bool:
        value = self._map.get(name)
        if not isinstance(value, bool):
            raise ProtocolViolation(f"field {name!r}: expected a bool")
        return value

    def raw(self, name: str, *, exact: int | None = None, max_bytes: int = 0) -> bytes:
        """Bytes of `exact` length, or at most `max_bytes`."""
        value = self._typed(name, bytes)
        low, high = (exact, exact) if exact is not None else (0, max_bytes)
        _check_bounds(name, len(value), low, high)
        return value

    def items(self, name: str, max_items: int) -> list[Any]:
        value: list[Any] = self._typed(name, list)
        _check_bounds(name, len(value), 0, max_items)
        return value

    def fields(self, name: str) -> "Fields":
        return Fields(self._map.get(name))

    def _typed(self, name: str, kind: type[_Kind]) -> _Kind:
        value = self._map.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ProtocolViolation(f"field {name!r}: expected {kind.__name__}, got {type(value).__name__}")
        return value


def _check_bounds(name: str, measure: float, low: float, high: float) -> None:
    if not low <= measure <= high:
        raise ProtocolViolation(f"field {name!r}: {measure} is not in [{low}, {high}]")
