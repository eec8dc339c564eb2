"""JSON-RPC over unix sockets and TCP. Requests of one connection are answered in order, one at a time."""

import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Any

import trio

from covenantd.chain.ledger.node import LedgerNode
from covenantd.chain.ledger.producer import AdvanceRequest
from covenantd.chain.ledger.state import Refusal
from covenantd.chain.ledger.views import block_view, fate_view
from covenantd.chain.ledger.wire import (
    MAX_REQUEST_BYTES,
    LineStream,
    LineTooLong,
    parse_request,
    refusal_line,
    result_line,
)

MAX_CONNECTIONS = 2048
MAX_CONNECTIONS_OF_ADDRESS = 1024  # some hundred daemons behind one address translator, but never all there are
MAX_ADVANCE_BLOCKS = 10_000
MAX_WAIT_SECONDS = 30
_IDLE_SECONDS = 120.0
_SEND_SECONDS = 30.0
_MAX_TEXT = 64 << 10
_BLOCK_LIMIT = 1 << 62
logger = logging.getLogger(__name__)

Params = dict[str, Any]
Handler = Callable[[Params], Awaitable[Any]]


class LedgerServer:
    """Serves one node. Without `advance` (a channel to the block producer) nobody can hurry the clock."""

    def __init__(
        self,
        node: LedgerNode,
        block_seconds: float,
        advance: trio.MemorySendChannel[AdvanceRequest] | None = None,
        connections_of_address: int = MAX_CONNECTIONS_OF_ADDRESS,
    ) -> None:
        self._node = node
        self._block_seconds = block_seconds
        self._advance = advance
        self._connections: Counter[str] = Counter()  # by address; all unix sockets have none
        self._connections_of_address = connections_of_address
        self._handlers: dict[str, tuple[frozenset[str], Handler]] = {
            "chain": (frozenset(), self._chain),
            "head": (frozenset(), self._head),
            "block": (frozenset({"number"}), self._block),
            "wait_block": (frozenset({"after", "timeout_seconds"}), self._wait_block),
            "metagraph": (frozenset({"block"}), self._metagraph),
            "epoch": (frozenset(), self._epoch),
            "subnet": (frozenset(), self._subnet),
            "balance": (frozenset({"hotkey"}), self._balance),
            "nonce": (frozenset({"hotkey"}), self._nonce),
            "commitment": (frozenset({"hotkey"}), self._commitment),
            "fate": (frozenset({"hotkey", "nonce"}), self._fate),
            "submit": (frozenset({"hotkey", "call", "signature"}), self._submit),
            "advance": (frozenset({"blocks"}), self._advance_blocks),
        }

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection, until its end. A fault here ends the connection, never the ledger."""
        lines = LineStream(stream, MAX_REQUEST_BYTES)
        address = _address(stream)
        self._connections[address] += 1
        try:
            if self._has_room(address):
                await self._converse(lines)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            logger.debug("connection lost")
        except Exception:
            logger.exception("connection ended by a fault of ours")
        finally:
            self._connections[address] -= 1
            if not self._connections[address]:
                del self._connections[address]
            await lines.aclose()

    def _has_room(self, address: str) -> bool:
        if address and self._connections[address] > self._connections_of_address:
            return False
        return self._connections.total() <= MAX_CONNECTIONS

    async def _converse(self, lines: LineStream) -> None:
        while True:
            with trio.move_on_after(_IDLE_SECONDS) as idle:
                try:
                    line = await lines.receive_line()
                except LineTooLong:
                    refusal = Refusal("InvalidRequest", f"a request is at most {MAX_REQUEST_BYTES} bytes")
                    await lines.send_line(refusal_line(None, refusal))
                    return
            if idle.cancelled_caught or line is None:
                return
            answer = await self._answer(line)
            with trio.fail_after(_SEND_SECONDS):
                await lines.send_line(answer)

    async def _answer(self, line: bytes) -> bytes:
        request_id = None
        try:
            request_id, method, params = parse_request(line)
            names, handler = self._handlers.get(method, (None, None))
            if names is None or handler is None:
                raise Refusal("UnknownRequest", f"known: {', '.join(self._handlers)}")
            if set(params) != names:
                raise Refusal("InvalidParams", f"{method} takes {', '.join(sorted(names)) or 'nothing'}")
            return result_line(request_id, await handler(params))
        except Refusal as refusal:
            return refusal_line(request_id, refusal)

    async def _chain(self, _: Params) -> Any:
        return {
            "genesis": self._node.genesis_hash,
            "netuid": self._node.netuid,
            "block_seconds": self._block_seconds,
        }

    async def _head(self, _: Params) -> Any:
        return block_view(self._node.head)

    async def _block(self, params: Params) -> Any:
        return block_view(self._node.block(_integer(params, "number", 0, _BLOCK_LIMIT)))

    async def _wait_block(self, params: Params) -> Any:
        """{"block": the head once it is past `after`, or null; "after_hash": hash of block `after`, null if it is not
        ours (yet), or not kept (any more)}, so that a client notices a ledger that went back."""
        after = _integer(params, "after", -1, _BLOCK_LIMIT)
        block = await self._node.wait_head(after, _integer(params, "timeout_seconds", 0, MAX_WAIT_SECONDS))
        return {"block": block_view(block) if block else None, "after_hash": self._hash(after)}

    def _hash(self, number: int) -> str | None:
        if not 0 <= number <= self._node.head.number:
            return None
        try:
            return self._node.block(number).hash
        except Refusal:
            return None

    async def _metagraph(self, params: Params) -> Any:
        return self._node.metagraph(_integer(params, "block", 0, _BLOCK_LIMIT))

    async def _epoch(self, _: Params) -> Any:
        return self._node.epoch()

    async def _subnet(self, _: Params) -> Any:
        return self._node.subnet()

    async def _balance(self, params: Params) -> Any:
        return self._node.balance(_text(params, "hotkey"))

    async def _nonce(self, params: Params) -> Any:
        return {"next": self._node.next_nonce(_text(params, "hotkey"))}

    async def _commitment(self, params: Params) -> Any:
        return self._node.commitment(_text(params, "hotkey"))

    async def _fate(self, params: Params) -> Any:
        return self._node.fate(_text(params, "hotkey"), _integer(params, "nonce", 0, _BLOCK_LIMIT))

    async def _submit(self, params: Params) -> Any:
        texts = [_text(params, name) for name in ("hotkey", "call", "signature")]
        return fate_view(await self._node.submit(*texts))

    async def _advance_blocks(self, params: Params) -> Any:
        if self._advance is None:
            raise Refusal("AdvanceNotAllowed", "the ledger was started without --allow-advance")
        request = AdvanceRequest(_integer(params, "blocks", 1, MAX_ADVANCE_BLOCKS))
        await self._advance.send(request)
        await request.done.wait()
        return block_view(self._node.head)


def _address(stream: trio.abc.Stream) -> str:
    """The peer's IP address (of IPv6 the /64 that one host commands); empty for a unix socket or who is gone."""
    if not isinstance(stream, trio.SocketStream) or stream.socket.family == socket.AF_UNIX:
        return ""
    try:
        host = str(stream.socket.getpeername()[0])
    except OSError:
        return ""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv4Address):
        return host
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))


def _integer(params: Params, name: str, low: int, high: int) -> int:
    value = params[name]
    if type(value) is not int or not low <= value <= high:
        raise Refusal("InvalidParams", f"{name} must be an integer between {low} and {high}")
    return value


def _text(params: Params, name: str) -> str:
    value = params[name]
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise Refusal("InvalidParams", f"{name} must be a string of at most {_MAX_TEXT} characters")
    return value
