"""A control client on trio, for `covenantd swarm` and tests. `covenantctl` has a blocking one."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from covenantd.controlwire import MAX_REPLY_BYTES, ControlError, check_hello, hello, result_of
from covenantd.status import Status
from covenantd.unixsocket import addressable
from p2p.errors import P2pError
from p2p.wire import receive_frame, send_frame


class ControlClient:
    """One connection; one request at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def call(self, verb: str, args: Mapping[str, Any] | None = None, timeout_seconds: float = 10) -> Any:
        """The verb's result. ControlError; after one of code "not running" or "timeout" open another."""
        try:
            with trio.fail_after(timeout_seconds):
                await send_frame(self._stream, {"verb": verb, "args": dict(args or {})})
                reply = await receive_frame(self._stream, MAX_REPLY_BYTES)
        except trio.TooSlowError:
            raise ControlError("timeout", f"no answer to {verb} in {timeout_seconds:g} s") from None
        except P2pError as error:
            raise ControlError("not running", f"the daemon left: {error}") from error
        return result_of(reply)

    async def status(self) -> Status:
        return Status.from_dict(await self.call("status"))


@asynccontextmanager
async def open_control(path: Path, timeout_seconds: float = 5) -> AsyncIterator[ControlClient]:
    """Connect and say hello. ControlError: "not running", "timeout", "permission", "protocol"."""
    client = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        with trio.fail_after(timeout_seconds):
            with addressable(path) as address:
                await client.connect(address)
            stream = trio.SocketStream(client)
            await send_frame(stream, hello())
            check_hello(await receive_frame(stream, MAX_REPLY_BYTES), "daemon")
    except BaseException as error:
        client.close()
        if (reason := _why(path, error)) is not None:
            raise reason from error
        raise
    async with stream:
        yield ControlClient(stream)


def _why(path: Path, error: BaseException) -> ControlError | None:
    if isinstance(error, trio.TooSlowError):
        return ControlError("timeout", f"{path}: the daemon does not answer")
    if isinstance(error, PermissionError):
        return ControlError("permission", f"{path}: {error.strerror}")
    if isinstance(error, OSError | P2pError):
        return ControlError("not running", f"{path}: nobody answers: {error}")
    return None
