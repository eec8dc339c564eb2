"""Records: small statements signed by a hotkey, bound to a run, a kind, a round and a peer id.

On the wire (big-endian):

    signature 64 | run id 32 | round i64 | issued at f64 | kind | hotkey | peer id | body

Texts have a length byte; the body is msgpack and runs to the end. The signature covers "covenantd record 1",
a zero byte, and then everything after itself: a record cannot be replayed in another run, round or role, nor
taken for anything else a hotkey signs.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

from p2p.errors import ProtocolViolation, RecordRejected
from p2p.protocols import PeerId, Signer, Verify
from p2p.wire import Fields, pack, unpack

MAX_RECORD_BYTES = 8 << 10
NO_ROUND = -1  # of records that outlive rounds, such as a peer's addresses
_DOMAIN = b"covenantd record 1\0"
_SIGNATURE_BYTES = 64
_HEADER = struct.Struct(">32sqd")
_MAX_TEXT_BYTES = 255


@dataclass(frozen=True)
class Record:
    """A record whose signature is good. `issued_at`: seconds since the epoch, the signer's claim."""

    run_id: str
    kind: str
    round: int
    hotkey: str
    peer_id: PeerId
    body: bytes
    issued_at: float

    def content(self) -> Any:
        """The parsed body. Raises RecordRejected("malformed")."""
        try:
            return unpack(self.body)
        except ProtocolViolation as error:
            raise RecordRejected("malformed", str(error)) from error

    def fields(self) -> Fields:
        """The parsed body, a map. Raises RecordRejected("malformed")."""
        try:
            return Fields(self.content())
        except RecordRejected:
            raise
        except ProtocolViolation as error:
            raise RecordRejected("malformed", str(error)) from error


def sign(
    signer: Signer, *, run_id: str, kind: str, round: int, peer_id: PeerId, body: object, issued_at: float
) -> bytes:
    """A signed record with `body` (plain data) as msgpack. Raises ValueError over MAX_RECORD_BYTES."""
    texts = b"".join(_text_bytes(text) for text in (kind, signer.hotkey, peer_id))
    signed = _HEADER.pack(bytes.fromhex(run_id), round, issued_at) + texts + pack(body)
    data = signer.sign(_DOMAIN + signed) + signed
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(f"record of {len(data)} bytes exceeds {MAX_RECORD_BYTES}")
    return data


def open_record(
    data: bytes,
    verify: Verify,
    *,
    run_id: str,
    kind: str | None,
    round: int | None = None,
    hotkey: str | None = None,
    peer_id: PeerId | None = None,
) -> Record:
    """Check everything that can be checked here; what is None may be anything.

    Raises RecordRejected with reason "oversized", "malformed", "run", "kind", "round", "hotkey", "peer" or
    "signature". The body stays unparsed: `Record.content` and `Record.fields` parse it.
    """
    record = _parse(data)
    wanted = {"run": (record.run_id, run_id), "kind": (record.kind, kind), "round": (record.round, round)}
    wanted |= {"hotkey": (record.hotkey, hotkey), "peer": (record.peer_id, peer_id)}
    for reason, (found, expected) in wanted.items():
        if expected is not None and found != expected:
            raise RecordRejected(reason, f"{found!r}, expected {expected!r}")
    if not verify(record.hotkey, _DOMAIN + data[_SIGNATURE_BYTES:], data[:_SIGNATURE_BYTES]):
        raise RecordRejected("signature", f"claims to be by {record.hotkey}")
    return record


def _parse(data: bytes) -> Record:
    if len(data) > MAX_RECORD_BYTES:
        raise RecordRejected("oversized", f"{len(data)} bytes")
    offset = _SIGNATURE_BYTES + _HEADER.size
    if len(data) < offset:
        raise RecordRejected("malformed", f"only {len(data)} bytes")
    run_id, round, issued_at = _HEADER.unpack_from(data, _SIGNATURE_BYTES)
    if not math.isfinite(issued_at) or round < NO_ROUND:
        raise RecordRejected("malformed", "time or round out of range")
    kind, offset = _text_at(data, offset)
    hotkey, offset = _text_at(data, offset)
    peer_id, offset = _text_at(data, offset)
    return Record(run_id.hex(), kind, round, hotkey, peer_id, data[offset:], issued_at)


def _text_bytes(text: str) -> bytes:
    raw = text.encode("ascii")
    if not 0 < len(raw) <= _MAX_TEXT_BYTES:
        raise ValueError(f"text of {len(raw)} bytes in a record")
    return bytes([len(raw)]) + raw


def _text_at(data: bytes, offset: int) -> tuple[str, int]:
    end = offset + 1 + (data[offset] if offset < len(data) else 0)
    raw = data[offset + 1 : end]
    if end > len(data) or not raw or not raw.isascii() or not raw.decode().isprintable():
        raise RecordRejected("malformed", f"text at byte {offset}")
    return raw.decode(), end
