"""One question, one answer: a request frame and a response frame on a stream of their own.

The response is {"ok": answer} or {"refused": reason}; then the asker closes.
"""

from collections.abc import Awaitable, Callable

import trio

from p2p.errors import ProtocolViolation, RecordRejected, Refused, TransportTimeout
from p2p.protocols import PeerId, Stream, StreamHandler, Transport
from p2p.wire import Fields, receive_frame, send_frame

MAX_MESSAGE_BYTES = 64 << 10
MAX_REASON_CHARS = 200
_LAST_SECONDS = 5.0

Answer = Callable[[PeerId, object], Awaitable[object]]
"""(who asks, authenticated by the transport; what) -> the answer, plain data.

May raise p2p.errors.Refused or RecordRejected (told to the asker) or ProtocolViolation (ends the stream).
"""


async def ask(
    transport: Transport,
    peer: PeerId,
    protocol: str,
    message: object,
    timeout_seconds: float,
    max_bytes: int = MAX_MESSAGE_BYTES,
) -> object:
    """The peer's answer. Raises TransportError (Refused with its reason, TransportTimeout...), ProtocolViolation."""
    with trio.move_on_after(timeout_seconds):
        stream = await transport.open(peer, protocol)
        try:
            await send_frame(stream, message, max_bytes)
            reply = await receive_frame(stream, max_bytes)
        finally:
            with trio.move_on_after(1, shield=True):
                await stream.aclose()
        return _opened(reply)
    raise TransportTimeout(f"{peer} did not answer on {protocol} within {timeout_seconds:g} s")


def _opened(reply: object) -> object:
    if isinstance(reply, dict) and "ok" in reply:
        return reply["ok"]
    raise Refused(Fields(reply).text("refused", MAX_REASON_CHARS))


def answering(
    answer: Answer, on_violation: Callable[[PeerId, ProtocolViolation], None], max_bytes: int, timeout_seconds: float
) -> StreamHandler:
    """A stream handler that lets `answer` answer. It raises trio.TooSlowError when that takes too long."""

    async def handle(stream: Stream) -> None:
        try:
            with trio.fail_after(timeout_seconds):
                message = await receive_frame(stream, max_bytes)
                reply = await _reply(answer, stream.remote, message, on_violation)
                await send_frame(stream, reply, max_bytes)
        except ProtocolViolation as error:
            on_violation(stream.remote, error)
            raise
        with trio.move_on_after(_LAST_SECONDS):
            await stream.receive_some(1)  # closing first could cut off what we have just sent

    return handle


async def _reply(
    answer: Answer, peer: PeerId, message: object, on_violation: Callable[[PeerId, ProtocolViolation], None]
) -> object:
    try:
        return {"ok": await answer(peer, message)}
    except Refused as refusal:
        return {"refused": str(refusal)[:MAX_REASON_CHARS]}
    except RecordRejected as error:
        on_violation(peer, error)
        return {"refused": error.reason}
