"""Published records: what a hotkey puts into the DHT, with the key it belongs under and an expiry it signed.

The body of such a `Record` is {"until": seconds since the epoch, "body": what is said}. That the expiry is signed
keeps others from replaying an old record with a longer life, which in the DHT would win over a new one.
"""

import functools
import hashlib
from dataclasses import dataclass, replace

from p2p.dht import Place, Placement
from p2p.errors import ProtocolViolation, RecordRejected
from p2p.protocols import PeerId, Signer, Verify
from p2p.records import NO_ROUND, Record, open_record, sign
from p2p.wire import pack

MAX_LIFETIME_SECONDS = 24 * 3600.0
CLOCK_TOLERANCE_SECONDS = 10.0
_REMEMBERED = 4096


@dataclass(frozen=True)
class Published:
    """`record.body` is what is said, without the envelope; `until` is in seconds since the epoch."""

    record: Record
    until: float

    def check_time(self, now: float) -> None:
        """Raises RecordRejected "expired" or "future"."""
        if self.until < now - CLOCK_TOLERANCE_SECONDS:
            raise RecordRejected("expired", f"{now - self.until:.0f} s ago")
        if self.record.issued_at > now + CLOCK_TOLERANCE_SECONDS:
            raise RecordRejected("future", f"issued {self.record.issued_at - now:.0f} s from now")


def dht_key(run_id: str, kind: str, round: int) -> str:
    return f"{run_id}/{kind}/{round}"


def sign_published(
    signer: Signer,
    *,
    run_id: str,
    kind: str,
    round: int = NO_ROUND,
    peer_id: PeerId,
    body: object,
    lifetime_seconds: float,
    now: float,
) -> bytes:
    """A record that lives until `now` + `lifetime_seconds`. Raises ValueError: too long a body or a life."""
    if not 0 < lifetime_seconds <= MAX_LIFETIME_SECONDS:
        raise ValueError(f"a lifetime of {lifetime_seconds} s is not in (0, {MAX_LIFETIME_SECONDS}]")
    envelope = {"until": now + lifetime_seconds, "body": body}
    return sign(signer, run_id=run_id, kind=kind, round=round, peer_id=peer_id, body=envelope, issued_at=now)


def open_published(
    data: bytes,
    verify: Verify,
    *,
    run_id: str,
    kind: str | None = None,
    round: int | None = None,
    hotkey: str | None = None,
    peer_id: PeerId | None = None,
) -> Published:
    """As `p2p.records.open_record`, the envelope too; what is None may be anything. Raises RecordRejected.

    Says the same at any time on any clock: whether it has expired is for `Published.check_time`.
    """
    record = open_record(data, verify, run_id=run_id, kind=kind, round=round, hotkey=hotkey, peer_id=peer_id)
    fields = record.fields()
    try:
        until = fields.real("until", record.issued_at, record.issued_at + MAX_LIFETIME_SECONDS)
        inner = pack(record.content().get("body"))
    except (ProtocolViolation, ValueError) as error:
        raise RecordRejected("malformed", str(error)) from error
    return Published(replace(record, body=inner), until)


def place_by_signature(run_id: str, verify: Verify) -> Place:
    """For `p2p.dht.open_dht`: an entry belongs where its author, whose hotkey is the subkey, signed it to be."""

    @functools.lru_cache(maxsize=_REMEMBERED)
    def remembered(digest: bytes) -> list[Placement | None]:
        return []  # filled below: the cache is keyed by digest, so that it holds no values of strangers

    def place(subkey: str, value: bytes) -> Placement | None:
        cell = remembered(hashlib.blake2b(subkey.encode() + b"\0" + value, digest_size=32).digest())
        if not cell:
            cell.append(_placement(run_id, verify, subkey, value))
        return cell[0]

    return place


def _placement(run_id: str, verify: Verify, subkey: str, value: bytes) -> Placement | None:
    try:
        published = open_published(value, verify, run_id=run_id, hotkey=subkey)
    except RecordRejected:
        return None
    record = published.record
    return Placement(dht_key(run_id, record.kind, record.round), published.until)
