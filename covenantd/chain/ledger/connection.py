"""The client's connections: one request at a time each, kept for the next, thrown away on any doubt."""

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.ledger.listeners import split_address
from covenantd.chain.ledger.state import Refusal
from covenantd.chain.ledger.wire import (
    MAX_RESPONSE_BYTES,
    LineStream,
    LineTooLong,
    parse_response,
    request_line,
)
from covenantd.errors import ConfigError

_KEPT_IDLE = 4
_CONNECT_SECONDS = 5.0


class Unreachable(Exception):
    """No answer: whether the ledger saw the request is unknown."""


def connector(endpoint: str) -> Callable[[], Awaitable[trio.abc.Stream]]:
    """Dial `unix:///PATH` or `tcp://HOST:PORT`. Raises ConfigError for anything else."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "unix" and Path(rest).is_absolute():
        return partial(trio.open_unix_socket, rest)
    if scheme == "tcp":
        return partial(trio.open_tcp_stream, *split_address(rest))
    raise ConfigError(f"ledger endpoint {endpoint!r} is neither unix:///PATH nor tcp://HOST:PORT")


class LedgerConnections:
    """Requests to one ledger. Once it has answered, only the ledger with that genesis will do."""

    def __init__(self, endpoint: str, netuid: int) -> None:
        self.endpoint = endpoint
        self.netuid = netuid
        self._connect = connector(endpoint)
        self._idle: list[LineStream] = []
        self._ids = count(1)
        self._genesis: str | None = None

    async def genesis(self) -> str:
        """The hash of block 0. Raises Unreachable, Refusal."""
        if self._genesis is None:
            await self.request("head", {})  # any request: connecting learns it
        assert self._genesis is not None
        return self._genesis

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """One attempt. Raises Unreachable, or Refusal with the ledger's reason."""
        lines = self._idle.pop() if self._idle else await self._open()
        result = await self._exchange(lines, method, params)
        self._keep(lines)
        return result

    async def aclose(self) -> None:
        """Close what is kept open; the next request connects anew."""
        idle, self._idle = self._idle, []
        for lines in idle:
            await lines.aclose()

    async def _open(self) -> LineStream:
        try:
            with trio.fail_after(_CONNECT_SECONDS):
                stream = await self._connect()
        except (OSError, trio.TooSlowError) as error:
            raise Unreachable(f"cannot connect: {error or 'no answer'}") from None
        lines = LineStream(stream, MAX_RESPONSE_BYTES)
        self._check_chain(await self._exchange(lines, "chain", {}))
        return lines

    def _check_chain(self, answer: Any) -> None:
        if not isinstance(answer, dict) or not isinstance(genesis := answer.get("genesis"), str):
            raise Unreachable("what answers there is no ledger")
        if answer.get("netuid") != self.netuid:
            raise Refusal("SubnetNotExists", f"the ledger has netuid {answer.get('netuid')}, not {self.netuid}")
        if self._genesis not in (None, genesis):
            raise Refusal("WrongGenesis", "another ledger than before answers there")
        self._genesis = genesis

    async def _exchange(self, lines: LineStream, method: str, params: dict[str, Any]) -> Any:
        request_id = next(self._ids)
        try:
            await lines.send_line(request_line(request_id, method, params))
            answer = await lines.receive_line()
            if answer is None:
                raise Unreachable("the ledger closed the connection")
            return parse_response(answer, request_id)
        except Refusal:
            self._keep(lines)
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError, LineTooLong, ValueError) as error:
            await self._distrust(lines)
            raise Unreachable(f"the connection broke: {error or type(error).__name__}") from None
        except BaseException:
            await self._distrust(lines)  # cancelled or cut: an answer may still be on its way on this one
            raise

    def _keep(self, lines: LineStream) -> None:
        if lines not in self._idle and len(self._idle) < _KEPT_IDLE:
            self._idle.append(lines)

    async def _distrust(self, lines: LineStream) -> None:
        """One is broken: the others most likely too."""
        with trio.CancelScope(shield=True):  # closing by force does not wait for anybody
            await lines.aclose()
            await self.aclose()
