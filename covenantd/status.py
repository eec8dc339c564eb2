"""What a daemon says of itself, once: the control socket, the web page and `swarm`'s table all show this."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from types import MappingProxyType
from typing import Any, TypeVar

SCHEMA = 1
STATES = ("waiting", "syncing", "running", "behind", "paused", "draining")
ENGINE_STATES = ("starting", "ready", "restarting", "off")
RESULTS = ("certified", "void", "unknown")

_Shown = TypeVar("_Shown", bound="Status | RoundSummary")


class BadStatus(ValueError):
    """A status of another schema, or none at all."""


@dataclass(frozen=True)
class PeerStatus:
    """One peer we know; bytes since our start."""

    hotkey: str  # ss58
    peer_id: str
    role: str
    addresses: tuple[str, ...] = ()
    connected: bool = False
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True)
class Status:
    """A snapshot of the daemon. None: not known (yet). Counters count from the daemon's start."""

    role: str
    hotkey: str = ""  # ss58
    uid: int | None = None
    peer_id: str = ""
    addresses: tuple[str, ...] = ()
    run_id: str = ""  # 64 hex digits
    run_name: str = ""
    version: str = ""
    state: str = "waiting"  # one of STATES
    round: int | None = None
    phase: str = ""  # the round's phase, lower case; empty or "waiting": no round under way
    block: int | None = None
    next_deadline_block: int | None = None
    inner_step: int = 0
    inner_steps: int = 0  # planned for this round
    loss: float | None = None
    heldout_loss: float | None = None
    tokens_per_second: float | None = None
    commits: int = 0  # a validator's: receipted in its newest round
    contributions_held: int = 0
    roster_size: int | None = None
    state_hash: str = ""  # 64 hex digits
    peers: tuple[PeerStatus, ...] = ()
    sent_bytes: int = 0
    received_bytes: int = 0
    score: float | None = None
    weight: float | None = None
    engine: str = "off"  # one of ENGINE_STATES
    started_at: float = 0.0  # seconds since the epoch
    last_error: str | None = None
    http_address: str = ""  # HOST:PORT of /metrics; empty: off

    @property
    def connected_peers(self) -> int:
        return sum(peer.connected for peer in self.peers)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; a loss that is not finite becomes None, since JSON has no word for it."""
        return {"schema": SCHEMA, **{name: _finite(value) for name, value in asdict(self).items()}}

    @staticmethod
    def from_dict(data: object) -> "Status":
        """Fields of a newer daemon are dropped. Raises BadStatus."""
        known = _known(Status, data)
        try:
            peers = tuple(PeerStatus(**_peer(peer)) for peer in known.pop("peers", ()))
            return Status(**{**known, "addresses": tuple(known.get("addresses", ())), "peers": peers})
        except TypeError as error:
            raise BadStatus(f"not a status: {error}") from None


@dataclass(frozen=True)
class RoundSummary:
    """How one round went on this peer."""

    round: int
    result: str  # one of RESULTS
    roster_size: int | None = None
    own_included: bool | None = None  # None: we sent nothing
    state_hash: str = ""  # of θ after the round
    loss: float | None = None  # mean over our inner steps
    heldout_loss: float | None = None
    inner_steps: int = 0
    contribution_bytes: int = 0
    phases: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))  # phase -> seconds
    finished_at: float = 0.0  # seconds since the epoch

    def as_dict(self) -> dict[str, Any]:
        """As `Status.as_dict`."""
        values = {f.name: _finite(getattr(self, f.name)) for f in fields(self)}
        return {"schema": SCHEMA, **values, "phases": dict(self.phases)}

    @staticmethod
    def from_dict(data: object) -> "RoundSummary":
        """Fields of a newer daemon are dropped. Raises BadStatus."""
        try:
            return RoundSummary(**_known(RoundSummary, data))
        except TypeError as error:
            raise BadStatus(f"not a round summary: {error}") from None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def _known(kind: type[_Shown], data: object) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise BadStatus(f"expected a map, not {type(data).__name__}")
    if data.get("schema") != SCHEMA:
        found = data.get("schema")
        raise BadStatus(f"schema {found!r} is not {SCHEMA}: the daemon is of another version than this program")
    return {f.name: data[f.name] for f in fields(kind) if f.name in data}


def _peer(data: object) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise BadStatus("a peer that is not a map")
    known = {f.name: data[f.name] for f in fields(PeerStatus) if f.name in data}
    return {**known, "addresses": tuple(known.get("addresses", ()))}
