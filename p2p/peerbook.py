"""Who is who: which hotkey speaks through which peer id, as each has proven."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from p2p.errors import ProtocolViolation, RecordRejected
from p2p.protocols import PeerId
from p2p.published import Published

PEER_KIND = "peer"
PROTOCOL_VERSION = 1
MAX_ADDRESSES = 8
MAX_ADDRESS_CHARS = 256
MAX_ROLE_CHARS = 32
MAX_RATE = 1 << 40
HINTS = ("up", "down")  # bytes a second, measured by the peer itself: a hint, never a proof


@dataclass(frozen=True)
class Peer:
    """A peer of the run. `seen_at` is on trio's clock, of its last sign of life."""

    hotkey: str
    peer_id: PeerId
    addresses: tuple[str, ...]
    role: str
    seen_at: float
    connected: bool
    up: int = 0  # bytes a second its uplink has shown it can, by its own word; 0: not told
    down: int = 0


@dataclass(frozen=True)
class PeerClaim:
    """What a peer record says: a hotkey's word. The peer id's is the hello on a stream from it."""

    hotkey: str
    peer_id: PeerId
    addresses: tuple[str, ...]
    role: str
    issued_at: float  # seconds since the epoch
    until: float  # on trio's clock
    up: int = 0
    down: int = 0


def peer_of(claim: PeerClaim, seen_at: float, connected: bool) -> Peer:
    who = (claim.hotkey, claim.peer_id, claim.addresses, claim.role)
    return Peer(*who, seen_at, connected, claim.up, claim.down)


def peer_body(addresses: tuple[str, ...], role: str, hints: Mapping[str, int] | None = None) -> dict[str, object]:
    """`hints`: of HINTS; what else is in there is left out."""
    told = {name: value for name, value in (hints or {}).items() if name in HINTS and 0 <= value <= MAX_RATE}
    short = [address for address in addresses if len(address) <= MAX_ADDRESS_CHARS]
    return {"addresses": short[:MAX_ADDRESSES], "role": role, "protocol": PROTOCOL_VERSION, **told}


def read_claim(published: Published, expires_at: float) -> PeerClaim:
    """The claim in a peer record; `expires_at` is its expiry on trio's clock.

    Raises RecordRejected: "malformed", "protocol" (another version), "peer" (addresses of somebody else).
    """
    record = published.record
    try:
        fields = record.fields()
        addresses = fields.items("addresses", MAX_ADDRESSES)
        role = fields.text("role", MAX_ROLE_CHARS)
        version = fields.number("protocol", 0, 1 << 16)
        up, down = (fields.number(name, 0, MAX_RATE) if fields.has(name) else 0 for name in HINTS)
    except RecordRejected:
        raise
    except ProtocolViolation as error:
        raise RecordRejected("malformed", str(error)) from error
    if version != PROTOCOL_VERSION:
        raise RecordRejected("protocol", f"speaks version {version}, we {PROTOCOL_VERSION}")
    if not all(isinstance(address, str) and len(address) <= MAX_ADDRESS_CHARS for address in addresses):
        raise RecordRejected("malformed", "an address that is none")
    if not all(address.endswith(f"/p2p/{record.peer_id}") for address in addresses):
        raise RecordRejected("peer", "an address of another peer")
    return PeerClaim(record.hotkey, record.peer_id, tuple(addresses), role, record.issued_at, expires_at, up, down)


class PeerBook:
    """Claims that both sides have proven: one peer id a hotkey, one hotkey a peer id, the newest claim wins."""

    def __init__(self, max_peers: int) -> None:
        self._max_peers = max_peers
        self._claims: dict[str, PeerClaim] = {}  # by hotkey
        self._hotkeys: dict[PeerId, str] = {}
        self._seen_at: dict[str, float] = {}

    def bind(self, claim: PeerClaim, now: float, keep: Callable[[str], bool]) -> bool:
        """Take in a proven claim; returns whether the binding is new. When full, who is not to `keep` goes."""
        known, holder = self._claims.get(claim.hotkey), self._hotkeys.get(claim.peer_id)
        older = [self._claims[hotkey] for hotkey in {claim.hotkey, holder} if hotkey in self._claims]
        if any(other.issued_at > claim.issued_at for other in older):
            return False
        for other in older:
            self._forget(other.hotkey)
        if len(self._claims) >= self._max_peers and not self._make_room(now, keep):
            return False
        self._claims[claim.hotkey] = claim
        self._hotkeys[claim.peer_id] = claim.hotkey
        self._seen_at[claim.hotkey] = now
        return known is None or known.peer_id != claim.peer_id

    def refresh(self, claim: PeerClaim, now: float) -> bool:
        """A claim from the DHT: news of a binding that is proven, or False."""
        known = self._claims.get(claim.hotkey)
        if known is None or known.peer_id != claim.peer_id:
            return False
        if claim.issued_at > known.issued_at:
            self._claims[claim.hotkey] = claim
            self._seen_at[claim.hotkey] = now
        return True

    def claims(self, now: float) -> list[tuple[PeerClaim, float]]:
        """(claim, seen at) of those that have not expired."""
        for hotkey in [hotkey for hotkey, claim in self._claims.items() if claim.until < now]:
            self._forget(hotkey)
        return [(claim, self._seen_at[hotkey]) for hotkey, claim in self._claims.items()]

    def saw(self, peer_ids: set[PeerId], now: float) -> None:
        """They are connected at `now`."""
        for peer_id in peer_ids & self._hotkeys.keys():
            self._seen_at[self._hotkeys[peer_id]] = now

    def hotkey_of(self, peer_id: PeerId) -> str | None:
        return self._hotkeys.get(peer_id)

    def _make_room(self, now: float, keep: Callable[[str], bool]) -> bool:
        self.claims(now)
        if len(self._claims) >= self._max_peers:
            for hotkey in [hotkey for hotkey in self._claims if not keep(hotkey)][:1]:
                self._forget(hotkey)
        return len(self._claims) < self._max_peers

    def _forget(self, hotkey: str) -> None:
        claim = self._claims.pop(hotkey)
        self._seen_at.pop(hotkey, None)
        if self._hotkeys.get(claim.peer_id) == hotkey:
            del self._hotkeys[claim.peer_id]
