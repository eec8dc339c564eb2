"""A small HTTP/1.1 server for /metrics, /healthz, /readyz and what is routed beside them. GET and HEAD alone."""

import errno
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

from covenantd.addresses import split_host_port
from covenantd.errors import ConfigError, CovenantError, TryAgain
from covenantd.health import Finding, Health
from covenantd.httphost import is_loopback, is_own_name
from covenantd.metrics import CONTENT_TYPE, Metrics

_log = logging.getLogger(__name__)
_MAX_HEADER_BYTES = 16 << 10
_RECEIVE_BYTES = 4096
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes
    content_type: str = _TEXT
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[], Awaitable[Response]]
"""Answers GET of one path; the query is not looked at."""


@dataclass(frozen=True)
class HttpSettings:
    max_connections: int = 50
    request_seconds: float = 10.0  # from connecting, or the last answer, to the end of a request's headers
    send_seconds: float = 30.0


def standard_routes(metrics: Metrics, health: Health, refresh: Callable[[], None] = lambda: None) -> dict[str, Route]:
    """`refresh` runs before each scrape, for gauges that are read rather than set."""

    async def scrape() -> Response:
        refresh()
        metrics.set_health({finding.name: finding.ok for finding in health.findings()})
        return Response(200, metrics.render(), CONTENT_TYPE)

    async def alive() -> Response:
        return _checked(finding for finding in health.findings() if finding.live)

    async def ready() -> Response:
        return _checked(health.findings())

    return {"/metrics": scrape, "/healthz": alive, "/readyz": ready}


def _checked(findings: Any) -> Response:
    found: list[Finding] = list(findings)
    ok = all(finding.ok for finding in found)
    checks = {f.name: {"ok": f.ok, "reason": f.reason} for f in found}
    return Response(200 if ok else 503, json.dumps({"ok": ok, "checks": checks}).encode() + b"\n", _JSON)


async def serve_http(
    listen: str,
    routes: Mapping[str, Route],
    settings: HttpSettings = HttpSettings(),  # noqa: B008 (frozen)
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; `started` with HOST:PORT.

    ConfigError: the address cannot be listened on; TryAgain: not yet, as at boot before the network is up.
    """
    listener = await _listener(listen)
    host, port = listener.socket.getsockname()[:2]
    async with trio.open_nursery() as nursery:
        server = _Server(routes, settings, local=is_loopback(host))
        await nursery.start(trio.serve_listeners, server.serve, [listener])
        task_status.started(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


async def _listener(listen: str) -> trio.SocketListener:
    try:
        host, port = split_host_port(listen)
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = trio.socket.socket(family, kind, protocol)
    except ValueError as error:
        raise ConfigError(f"http.listen {listen!r}: {error}") from None
    except OSError as error:
        raise _cannot_listen(listen, error) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind(address)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise _cannot_listen(listen, error) from None
    return trio.SocketListener(sock)


def _cannot_listen(listen: str, error: OSError) -> CovenantError:
    if error.errno in (errno.EADDRNOTAVAIL, socket.EAI_AGAIN):
        return TryAgain(f"http.listen {listen}: {error.strerror}; is the network up, and is the address this host's?")
    remedy = 'name another address in [http], or none (listen = "")'
    return ConfigError(f"http.listen {listen}: {error.strerror}; {remedy}")


class _Server:
    def __init__(self, routes: Mapping[str, Route], settings: HttpSettings, local: bool) -> None:
        self._routes = routes
        self._settings = settings
        self._local = local  # for this host alone: its names are few and known
        self._connections = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, to its end; whatever the client does is its own trouble."""
        self._connections += 1
        try:
            async with stream:
                await self._converse(stream)
        except (trio.BrokenResourceError, trio.TooSlowError, OSError):
            pass  # the client left or dawdled
        finally:
            self._connections -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEADER_BYTES)
        while True:
            try:
                with trio.fail_after(self._settings.request_seconds):
                    request = await _request(stream, connection)
            except h11.RemoteProtocolError as error:
                await self._refuse(stream, connection, error)
                return
            if request is None:
                return
            await self._send(stream, connection, await self._respond(request), request.method == b"HEAD")
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return  # asked to close, or a body is still coming, which we do not read
            connection.start_next_cycle()

    async def _respond(self, request: h11.Request) -> Response:
        if self._connections > self._settings.max_connections:
            return Response(503, b"too many connections\n", headers={"Connection": "close"})
        if self._local and not all(is_own_name(host) for host in _hosts(request)):
            return Response(421, b"ask for it by an IP address or as localhost\n")
        path = request.target.partition(b"?")[0].decode("latin-1")
        route = self._routes.get(path)
        if route is None:
            return Response(404, b"not found\n")
        if request.method not in (b"GET", b"HEAD"):
            return Response(405, b"method not allowed\n", headers={"Allow": "GET, HEAD"})
        try:
            return await route()
        except Exception:  # noqa: BLE001
            # a bug in a page must not stop the training it shows
            _log.exception("GET %s failed", path)
            return Response(500, b"a bug; the log has the traceback\n")

    async def _refuse(self, stream: trio.SocketStream, connection: h11.Connection, error: Exception) -> None:
        status = getattr(error, "error_status_hint", 400)
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(stream, connection, Response(status, b"bad request\n", headers={"Connection": "close"}))

    async def _send(
        self, stream: trio.SocketStream, connection: h11.Connection, response: Response, head_only: bool = False
    ) -> None:
        body = b"" if head_only else response.body
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            **response.headers,
        }
        head = h11.Response(status_code=response.status, headers=list(headers.items()))
        parts = [connection.send(head), connection.send(h11.Data(body)), connection.send(h11.EndOfMessage())]
        with trio.fail_after(self._settings.send_seconds):
            await stream.send_all(b"".join(part for part in parts if part))


def _hosts(request: h11.Request) -> list[str]:
    """One at most; none in HTTP/1.0, which no browser speaks."""
    return [value.decode("latin-1") for name, value in request.headers if name == b"host"]


async def _request(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
    """The next request's head, its body (if short and here) skipped; None when the client left."""
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if request is not None:
                return request  # a body is on its way: not waited for
            connection.receive_data(await stream.receive_some(_RECEIVE_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None
