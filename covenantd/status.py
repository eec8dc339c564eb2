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

MAX_SHOWN = 64  # contributions and ranks in a status: their number is others' to choose

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
class ContributionStatus:
    """What one miner sent in a round, and what became of it."""

    hotkey: str  # ss58
    fate: str  # committed, held (that, and here), included, void, or the reason to leave it out: late, missing, ...
    size_bytes: int = 0  # 0: not known


@dataclass(frozen=True)
class Rank:
    """One hotkey of the subnet as the chain pays it."""

    uid: int
    hotkey: str  # ss58
    weight: float  # its share of all incentive, 0 to 1
    validator: bool = False  # has a permit


@dataclass(frozen=True)
class Transfer:
    """A blob on its way here."""

    blob_id: str  # 64 hex digits
    held_bytes: int
    size_bytes: int


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
    contributions: tuple[ContributionStatus, ...] = ()  # of contributions_round, at most MAX_SHOWN
    contributions_round: int | None = None
    transfers: tuple[Transfer, ...] = ()  # at most MAX_SHOWN
    ranking: tuple[Rank, ...] = ()  # best paid first, at most MAX_SHOWN
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
            rows = {name: _rows(kind, known.pop(name, ())) for name, kind in _ROWS.items()}
            return Status(**{**known, "addresses": tuple(known.get("addresses", ())), **rows})
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
    contribution_bytes: int = 0  # of the whole roster
    phases: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))  # phase -> seconds
    finished_at: float = 0.0  # seconds since the epoch
    contributions: tuple[ContributionStatus, ...] = ()  # at most MAX_SHOWN
    own_bytes: int = 0  # of what we sent

    def as_dict(self) -> dict[str, Any]:
        """As `Status.as_dict`."""
        values = {f.name: _finite(getattr(self, f.name)) for f in fields(self)}
        rows = [asdict(one) for one in self.contributions]
        return {"schema": SCHEMA, **values, "phases": dict(self.phases), "contributions": rows}

    @staticmethod
    def from_dict(data: object) -> "RoundSummary":
        """Fields of a newer daemon are dropped. Raises BadStatus."""
        try:
            known = _known(RoundSummary, data)
            rows = _rows(ContributionStatus, known.pop("contributions", ()))
            return RoundSummary(**known, contributions=rows)
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


_Row = TypeVar("_Row", bound="PeerStatus | ContributionStatus | Rank | Transfer")
_ROWS: dict[str, type[Any]] = {
    "peers": PeerStatus,
    "contributions": ContributionStatus,
    "ranking": Rank,
    "transfers": Transfer,
}


def _rows(kind: type[_Row], data: object) -> tuple[_Row, ...]:
    """Raises TypeError, as a dataclass does for what does not fit it."""
    if not isinstance(data, list | tuple) or not all(isinstance(row, Mapping) for row in data):
        raise TypeError(f"not a list of maps: {data!r:.60}")
    return tuple(kind(**_row(kind, row)) for row in data)


def _row(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name: data[f.name] for f in fields(kind) if f.name in data}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
