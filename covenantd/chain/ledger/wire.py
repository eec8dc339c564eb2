"""JSON-RPC 2.0, one object a line. Lines are bounded before they are kept, parsed only when whole."""

import json
from typing import Any

import trio

from covenantd.chain.ledger.state import Refusal, canonical_json

MAX_REQUEST_BYTES = 64 << 10
MAX_RESPONSE_BYTES = 32 << 20  # a metagraph of some thousand neurons with all their weights
_CHUNK_BYTES = 64 << 10
_CODES = {"ParseError": -32700, "InvalidRequest": -32600, "UnknownRequest": -32601, "InvalidParams": -32602}
_REFUSED = -32000


class Encoded(str):
    """A result that is JSON text already: many ask for the same."""


class LineTooLong(Exception):
    """The other side sent more than the bound without a newline."""


class LineStream:
    """Lines over a byte stream."""

    def __init__(self, stream: trio.abc.Stream, max_line_bytes: int) -> None:
        self._stream = stream
        self._max_line_bytes = max_line_bytes
        self._buffer = bytearray()

    async def receive_line(self) -> bytes | None:
        """The next line without its newline; None at the end, a cut-off last line included. Raises LineTooLong."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > self._max_line_bytes:
                raise LineTooLong
            chunk = await self._stream.receive_some(_CHUNK_BYTES)
            if not chunk:
                return None
            self._buffer += chunk
        if end > self._max_line_bytes:
            raise LineTooLong
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def send_line(self, line: bytes) -> None:
        await self._stream.send_all(line + b"\n")

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


def parse_request(line: bytes) -> tuple[Any, str, dict[str, Any]]:
    """(id, method, params). Raises Refusal: ParseError, InvalidRequest."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise Refusal("ParseError", "not JSON") from None
    if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
        raise Refusal("InvalidRequest", "not a JSON-RPC 2.0 object")
    request_id, method, params = request.get("id"), request.get("method"), request.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict) or type(request_id) not in (int, str):
        raise Refusal("InvalidRequest", "needs an id, a method and named params")
    return request_id, method, params


def request_line(request_id: int, method: str, params: dict[str, Any]) -> bytes:
    return _line({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def result_line(request_id: Any, result: Any) -> bytes:
    if isinstance(result, Encoded):
        return f'{{"id":{canonical_json(request_id)},"jsonrpc":"2.0","result":{result}}}'.encode("ascii")
    return _line({"jsonrpc": "2.0", "id": request_id, "result": result})


def refusal_line(request_id: Any, refusal: Refusal) -> bytes:
    """An error object whose data.name is the chain's error name."""
    error = {
        "code": _CODES.get(refusal.name, _REFUSED),
        "message": str(refusal),
        "data": {"name": refusal.name},
    }
    return _line({"jsonrpc": "2.0", "id": request_id, "error": error})


def parse_response(line: bytes, request_id: int) -> Any:
    """The result. Raises Refusal as the server named it, ValueError if it is no answer to that request."""
    try:
        response = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(response, dict) or response.get("id") != request_id:
        raise ValueError("not the answer to our request")
    if "result" in response:
        return response["result"]
    error = response.get("error")
    data = error.get("data") if isinstance(error, dict) else None
    if not isinstance(error, dict) or not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise ValueError("neither a result nor an error")
    name = data["name"]
    raise Refusal(name, str(error.get("message", "")).removeprefix(f"{name}: ").removeprefix(name))


def _line(value: Any) -> bytes:
    return canonical_json(value).encode("ascii")
