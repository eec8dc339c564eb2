"""A client of p2pd's control socket: varint-framed protobufs (hivemind's p2pd.proto), one connection a request."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import trio

from p2p._multiaddr import encode_varint
from p2p._p2pd_process import P2pdProcess, package_file
from p2p.errors import PeerUnreachable, StreamClosed, TransportError, TransportTimeout
from p2p.protocols import PeerId

_MAX_REPLY_BYTES = 4 << 20


class P2pdControl:
    """Every request has a deadline; all raise TransportError or its children."""

    def __init__(self, path: Path, process: P2pdProcess, request_seconds: float) -> None:
        self.messages = _protobuf_module()
        self._path = path
        self._process = process
        self._request_seconds = request_seconds

    @property
    def timeout_seconds(self) -> int:
        """What to tell p2pd, which counts whole seconds."""
        return max(1, round(self._request_seconds))

    async def connect(self) -> trio.SocketStream:
        try:
            return await trio.open_unix_socket(self._path)
        except OSError as error:
            if await self._process.died():
                raise self._process.death() from error
            raise TransportError(f"p2pd's control socket: {error.strerror}") from error

    async def request(self, peer: PeerId = "", /, **fields: Any) -> Any:
        """One request on a connection of its own. With `peer`, a refusal raises PeerUnreachable."""
        stream = await self.connect()
        async with stream:
            return await self.ask(stream, self.messages.Request(**fields), peer)

    async def ask(self, stream: trio.SocketStream, request: Any, peer: PeerId = "") -> Any:
        """One request on `stream`, which stays open and may become something else."""
        # a margin, so that p2pd's own deadline comes first: its message says more
        with trio.move_on_after(self._request_seconds + 2.0):
            await _send_message(stream, request)
            reply = self.messages.Response()
            await receive_message(stream, reply, _MAX_REPLY_BYTES)
            if reply.type == self.messages.Response.ERROR:
                text = f"{peer or 'p2pd'}: {reply.error.msg[:500]}"
                raise PeerUnreachable(text) if peer else TransportError(text)
            return reply
        raise TransportTimeout(f"no answer from p2pd in time{f' about {peer}' if peer else ''}")


def _protobuf_module() -> ModuleType:
    """hivemind's generated messages by file path: importing the package imports torch."""
    path = package_file("proto/p2pd_pb2.py")
    spec = importlib.util.spec_from_file_location("p2p._p2pd_pb2", path)
    if spec is None or spec.loader is None:
        raise TransportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _send_message(stream: trio.SocketStream, message: Any) -> None:
    raw = message.SerializeToString()
    try:
        await stream.send_all(encode_varint(len(raw)) + raw)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise StreamClosed("p2pd closed its control socket") from error


async def receive_message(stream: trio.SocketStream, message: Any, max_bytes: int) -> None:
    """Reads no byte beyond the message: what follows belongs to the stream."""
    size, shift = 0, 0
    while True:
        byte = (await _receive_exactly(stream, 1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 28:
            raise TransportError("p2pd sent a length that is none")
    if size > max_bytes:
        raise TransportError(f"p2pd sent a message of {size} bytes")
    try:
        message.ParseFromString(await _receive_exactly(stream, size))
    except ValueError as error:  # protobuf's DecodeError
        raise TransportError(f"p2pd sent no message we know: {error}") from error


async def _receive_exactly(stream: trio.SocketStream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        try:
            chunk = await stream.receive_some(size - len(received))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosed("p2pd closed its control socket") from error
        if not chunk:
            raise StreamClosed("p2pd closed its control socket")
        received += chunk
    return bytes(received)
