"""The blocking control client of `covenantctl`: no trio, so that it starts at once."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covenantd.controlwire import (
    MAX_REPLY_BYTES,
    ControlError,
    check_hello,
    hello,
    result_of,
)
from covenantd.unixsocket import connect, peer_of

_LENGTH = struct.Struct(">I")


class BlockingClient:
    """Connects and says hello. ControlError: "not running", "permission", "timeout", "protocol"."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        try:
            self._socket = connect(path, timeout_seconds)
        except PermissionError as error:
            raise ControlError("permission", f"{path}: {error.strerror}; are you in its group?") from None
        except TimeoutError:
            raise ControlError("timeout", f"{path}: the daemon does not answer") from None
        except OSError as error:
            raise ControlError(
                "not running",
                f"no daemon at {path} ({error.strerror}); start it, or name its socket by --socket or --dir",
            ) from None
        self._timeout_seconds = timeout_seconds
        self._send(hello())
        self.daemon_version = check_hello(self._receive(), "daemon")

    def call(self, verb: str, args: Mapping[str, Any] | None = None, timeout_seconds: float | None = None) -> Any:
        """The verb's result; ControlError. `timeout_seconds`: how long the verb may take, None as at connecting."""
        self._socket.settimeout(self._timeout_seconds if timeout_seconds is None else timeout_seconds)
        try:
            self._send({"verb": verb, "args": dict(args or {})})
        except ControlError:
            result_of(self._receive())  # why it hung up, if it said so: it is busy, say
            raise
        return result_of(self._receive())

    @property
    def daemon_process(self) -> int:
        """Its process id, as seen from here; 0: it cannot be seen from here."""
        return peer_of(self._socket).pid

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: object) -> None:
        import msgpack  # here, not above: --help needs none of it

        body = msgpack.packb(message)
        try:
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except OSError as error:
            raise ControlError("not running", f"the daemon left: {error.strerror}") from None

    def _receive(self) -> object:
        import msgpack

        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > MAX_REPLY_BYTES:
            raise ControlError("protocol", f"an answer of {length} bytes: that is no covenantd")
        try:
            return msgpack.unpackb(self._exactly(length))
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise ControlError("protocol", f"an answer that is no msgpack: {error}") from None

    def _exactly(self, size: int) -> bytes:
        received = bytearray()
        try:
            while len(received) < size:
                chunk = self._socket.recv(min(size - len(received), 65536))
                if not chunk:
                    raise ControlError("not running", "the daemon hung up")
                received += chunk
        except TimeoutError:
            raise ControlError("timeout", "the daemon did not answer in time") from None
        except OSError as error:
            raise ControlError("not running", f"the daemon left: {error.strerror}") from None
        return bytes(received)
