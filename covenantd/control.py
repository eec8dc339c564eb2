"""The control socket: peer credentials checked, frames bounded, every wait with an end."""

import logging
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from covenantd.controlwire import MAX_REPLY_BYTES, MAX_REQUEST_BYTES, ControlError, check_hello
from covenantd.controlwire import error_message as _error
from covenantd.controlwire import hello as _hello
from covenantd.errors import CovenantError, PermissionRefused
from covenantd.unixsocket import Peer, listen, peer_of, removed_at_exit
from p2p.errors import ProtocolViolation, StreamClosed
from p2p.wire import Fields, receive_frame, send_frame

_log = logging.getLogger(__name__)
_SOCKET_MODE = 0o660
_MAX_VERB_CHARS = 64


@dataclass(frozen=True)
class Verb:
    """`handler` takes the args and returns plain data; `writes`: for owner and root alone."""

    handler: Callable[[Mapping[str, Any]], Awaitable[object]]
    writes: bool = False


@dataclass(frozen=True)
class ControlSettings:
    max_clients: int = 50  # of owner and root together, and as many of the group: those cannot shut these out
    hello_seconds: float = 5.0
    idle_seconds: float = 300.0  # between requests
    send_seconds: float = 10.0


@dataclass(frozen=True)
class Owner:
    """Whose socket it is: `uid` may all, members of `gid` may read."""

    uid: int
    gid: int


def may(peer: Peer, owner: Owner, writes: bool) -> bool:
    if peer.uid in (0, owner.uid):
        return True
    return not writes and owner.gid in peer.gids


async def serve_control(
    path: Path,
    verbs: Mapping[str, Verb],
    settings: ControlSettings = ControlSettings(),  # noqa: B008 (frozen)
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; `started` once clients can connect. CovenantError: the path is not ours to take."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(_listener(path)))
    server = _Server(verbs, settings, _owner(path))
    with removed_at_exit(path):
        await trio.serve_listeners(server.serve, [listener], task_status=_Started(task_status))


def _listener(path: Path) -> socket.socket:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise CovenantError(f"{path.parent}: cannot be made: {error.strerror}") from None
    return listen(path, _SOCKET_MODE)


def _owner(path: Path) -> Owner:
    return Owner(os.geteuid(), path.stat().st_gid)


class _Started:
    """serve_listeners reports its listeners; our callers have no use for them."""

    def __init__(self, outer: trio.TaskStatus[None]) -> None:
        self._outer = outer

    def started(self, value: object = None) -> None:
        self._outer.started()


class _Server:
    def __init__(self, verbs: Mapping[str, Verb], settings: ControlSettings, owner: Owner) -> None:
        self._verbs = verbs
        self._settings = settings
        self._owner = owner
        self._clients: Counter[bool] = Counter()  # by whether they may write

    async def serve(self, stream: trio.SocketStream) -> None:
        """One client, to its end; whatever it does is its own trouble."""
        peer = peer_of(stream.socket)  # type: ignore[arg-type]
        writes = may(peer, self._owner, writes=True)
        self._clients[writes] += 1
        try:
            async with stream:
                await self._converse(stream, peer, self._clients[writes] > self._settings.max_clients)
        except (StreamClosed, trio.BrokenResourceError, OSError):
            pass  # the client left, which is its right
        except trio.TooSlowError:
            _log.debug("control client idle or stuck; closed")
        finally:
            self._clients[writes] -= 1

    async def _converse(self, stream: trio.SocketStream, peer: Peer, too_many: bool) -> None:
        try:
            with trio.fail_after(self._settings.hello_seconds):
                await send_frame(stream, _hello())
                check_hello(await receive_frame(stream, MAX_REQUEST_BYTES), "client")
            if too_many:
                raise ControlError("busy", f"{self._settings.max_clients} control clients already; try again")
            while True:
                with trio.fail_after(self._settings.idle_seconds):
                    request = await receive_frame(stream, MAX_REQUEST_BYTES)
                await self._reply(stream, await self._answer(stream, peer, request))
        except ProtocolViolation as violation:
            await self._reply(stream, _error("protocol", str(violation)))
        except ControlError as error:
            await self._reply(stream, _error(error.code, str(error)))

    async def _reply(self, stream: trio.SocketStream, message: object) -> None:
        with trio.fail_after(self._settings.send_seconds):
            try:
                await send_frame(stream, message, MAX_REPLY_BYTES)
            except (ValueError, TypeError) as error:
                _log.exception("a verb's result does not fit a frame")
                await send_frame(stream, _error("bug", f"the result cannot be sent: {error}"))

    async def _answer(self, stream: trio.SocketStream, peer: Peer, request: object) -> object:
        fields = Fields(request)
        name = fields.text("verb", _MAX_VERB_CHARS)
        args = request.get("args", {}) if isinstance(request, dict) else {}
        verb = self._verbs.get(name)
        if verb is None or not isinstance(args, dict):
            known = ", ".join(self._verbs)
            return _error("usage", f"no verb {name!r} with such arguments; there are: {known}")
        if not may(peer, self._owner, verb.writes):
            who = "the daemon's user or root" if verb.writes else "members of the socket's group"
            return _error("permission", f"{name} is for {who} only (you are uid {peer.uid})")
        return await _while_connected(stream, lambda: _call(name, verb, args))


async def _call(name: str, verb: Verb, args: Mapping[str, Any]) -> object:
    try:
        return {"ok": await verb.handler(args)}
    except ControlError as error:
        return _error(error.code, str(error))
    except ProtocolViolation as error:
        return _error("usage", str(error))
    except PermissionRefused as error:
        return _error("permission", str(error))
    except trio.TooSlowError:
        return _error("timeout", f"{name} did not finish in time")
    except CovenantError as error:
        return _error("failed", str(error))
    except Exception:  # noqa: BLE001
        # a bug in a verb must not stop the training it asks about
        _log.exception("control verb %s failed", name)
        return _error("bug", f"{name} failed by a bug in covenantd; its log has the traceback")


async def _while_connected(stream: trio.SocketStream, call: Callable[[], Awaitable[object]]) -> object:
    """The call's result; StreamClosed, with the call cancelled, when the client hangs up first."""
    result: list[object] = []

    async def hang_up(scope: trio.CancelScope) -> None:
        try:
            gone = await stream.socket.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            gone = True
        if gone:
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_up, nursery.cancel_scope)
        result.append(await call())
        nursery.cancel_scope.cancel()
    if not result:
        raise StreamClosed("the client left before the answer")
    return result[0]
