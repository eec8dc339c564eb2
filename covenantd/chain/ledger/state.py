"""Everything the ledger knows at one block, as flat entries: what a block changed is exactly what was put.

An entry is a key (`table/id`) and a row in canonical JSON. Amounts are integers in rao.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from blake3 import blake3

from covenantd.chain.yuma.subnet import Mode, PackedRow

MAX_AMOUNT = (1 << 63) - 1
UNREAD_TABLES = ("bonds/", "weight_commits/")
"""Of these only the present matters, to the next epoch or call. Every epoch replaces all bonds, and years of them
would be most of the file."""


def canonical_json(value: object) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class Refusal(Exception):
    """The ledger says no; `name` is the chain's error name."""

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(f"{name}: {detail}" if detail else name)
        self.name = name
        self.detail = detail


def require(condition: bool, name: str) -> None:
    """Raises Refusal(name) unless `condition` holds."""
    if not condition:
        raise Refusal(name)


@dataclass(frozen=True)
class Settings:
    """The subnet's rules, fixed at genesis. Blocks, rao and u16 shares as the chain has them."""

    netuid: int = 1
    tempo_blocks: int = 20
    max_neurons: int = 256
    max_validators: int = 64
    immunity_blocks: int = 100
    min_permit_stake: int = 1
    min_weight_stake: int = 0
    weights_version: int = 0
    weights_rate_limit_blocks: int = 1
    min_allowed_weights: int = 1
    max_weight_limit: int = 65535  # u16 share of a row that one uid may have
    registration_allowed: bool = True
    registration_burn: int = 0
    max_registrations_per_block: int = 8
    emission_per_block: int = 1_000_000_000
    activity_cutoff_blocks: int = 5000  # who has set no weights for longer has no say in an epoch
    yuma: Mode = "classic"
    kappa: int = 32767  # this and the next six: see `yuma.subnet.EpochRules`
    bonds_penalty: int = 65535
    bonds_moving_average: int = 900_000
    alpha_low: int = 45_875
    alpha_high: int = 58_982
    alpha_steepness: int = 1_000
    commit_reveal: bool = False  # weights are committed as a hash, and revealed this many epochs later
    reveal_period_epochs: int = 1
    commitment_bytes_per_epoch: int = 0  # a hotkey's quota, 0: none; Bittensor's is 3100
    key_swap_cost: int = 0
    private: bool = False  # only hotkeys on the allow-list register
    owner: str = ""  # hotkey that keeps the allow-list; empty: the list of genesis stands
    salt: str = ""  # keeps the genesis hash of two otherwise equal ledgers apart


@dataclass(frozen=True)
class Account:
    nonce: int = 0
    balance: int = 0
    stake: int = 0


@dataclass(frozen=True)
class NeuronRow:
    hotkey: str
    registered_block: int
    last_update_block: int = 0
    validator_permit: bool = False
    incentive: int = 0  # u16
    dividends: int = 0  # u16
    emission: int = 0  # in the last epoch
    consensus: int = 0  # u16
    vtrust: int = 0  # u16


@dataclass(frozen=True)
class CommitmentRow:
    block: int
    fields: tuple[str, ...]  # hex
    used_bytes: int = 0  # of the quota, in the epoch `block` is in


@dataclass(frozen=True)
class WeightsRow:
    uids: tuple[int, ...]
    values: tuple[int, ...]  # u16, the largest 65535
    block: int = 0  # when they were decided: set, or committed to


@dataclass(frozen=True)
class WeightCommitsRow:
    """Hashes of weights not revealed yet, oldest first."""

    hashes: tuple[str, ...]
    blocks: tuple[int, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class AllowedRow:
    """A hotkey on the allow-list; the row's id says it all."""


@dataclass(frozen=True)
class Totals:
    issued: int = 0  # by emission, since genesis
    burned: int = 0
    last_epoch_block: int = 0
    registrations_block: int = 0  # of the last registration
    registrations: int = 0  # in that block
    epochs: int = 0  # since genesis


Row = TypeVar("Row")


class Table(Generic[Row]):
    """Rows of one kind by id; every write is noted in the change set the tables of a state share."""

    def __init__(self, name: str, kind: type[Row], changes: dict[str, str | None]) -> None:
        self._name = name
        self._kind = kind
        self._changes = changes
        self._rows: dict[str, Row] = {}

    def get(self, row_id: str | int) -> Row | None:
        return self._rows.get(str(row_id))

    def put(self, row_id: str | int, row: Row) -> None:
        self._rows[str(row_id)] = row
        self._changes[f"{self._name}/{row_id}"] = canonical_json(vars(row))

    def drop(self, row_id: str | int) -> None:
        if self._rows.pop(str(row_id), None) is not None:
            self._changes[f"{self._name}/{row_id}"] = None

    def load(self, row_id: str, value: str) -> None:
        """Take up a stored row; not a change."""
        fields: dict[str, Any] = json.loads(value)
        self._rows[row_id] = self._kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})

    def items(self) -> Iterator[tuple[str, Row]]:
        return iter(self._rows.items())

    def __len__(self) -> int:
        return len(self._rows)


class State:
    """The tables, and what was put since the changes were last taken."""

    def __init__(self, entries: Mapping[str, str] | None = None) -> None:
        self._changes: dict[str, str | None] = {}
        self.accounts = Table("account", Account, self._changes)
        self.neurons = Table("neuron", NeuronRow, self._changes)
        self.commitments = Table("commitment", CommitmentRow, self._changes)
        self.weights = Table("weights", WeightsRow, self._changes)
        self.bonds = Table("bonds", PackedRow, self._changes)
        self.weight_commits = Table("weight_commits", WeightCommitsRow, self._changes)
        self.allowed = Table("allowed", AllowedRow, self._changes)
        self._settings = Table("settings", Settings, self._changes)
        self._totals = Table("totals", Totals, self._changes)
        self._uids: dict[str, int] = {}
        self._load(entries or {})

    def _load(self, entries: Mapping[str, str]) -> None:
        tables: dict[str, Table[Any]] = {
            "account": self.accounts,
            "neuron": self.neurons,
            "commitment": self.commitments,
            "weights": self.weights,
            "bonds": self.bonds,
            "weight_commits": self.weight_commits,
            "allowed": self.allowed,
            "settings": self._settings,
            "totals": self._totals,
        }
        for key, value in entries.items():
            table, _, row_id = key.partition("/")
            tables[table].load(row_id, value)
        self._uids = {row.hotkey: int(uid) for uid, row in self.neurons.items()}

    @property
    def settings(self) -> Settings:
        return self._settings.get("") or Settings()

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings.put("", settings)

    @property
    def totals(self) -> Totals:
        return self._totals.get("") or Totals()

    @totals.setter
    def totals(self, totals: Totals) -> None:
        self._totals.put("", totals)

    def account(self, hotkey: str) -> Account:
        return self.accounts.get(hotkey) or Account()

    def uid(self, hotkey: str) -> int | None:
        return self._uids.get(hotkey)

    def neuron(self, uid: int) -> NeuronRow:
        """The neuron at a uid that is in use; uids are 0..n-1 without gaps."""
        row = self.neurons.get(uid)
        if row is None:
            raise KeyError(uid)
        return row

    def put_neuron(self, uid: int, row: NeuronRow) -> None:
        former = self.neurons.get(uid)
        if former is not None and former.hotkey != row.hotkey:
            del self._uids[former.hotkey]
        self._uids[row.hotkey] = uid
        self.neurons.put(uid, row)

    def take_changes(self) -> dict[str, str | None]:
        """What was put (a row) or dropped (None) since the last call."""
        changes = dict(self._changes)
        self._changes.clear()
        return changes


class StateDigest:
    """BLAKE3 over the sorted entries' own digests, so that a block costs what it changed."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._leaves = {key: _leaf(key, value) for key, value in entries.items()}
        self._root: str | None = None

    def update(self, changes: Mapping[str, str | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self._leaves.pop(key, None)
            else:
                self._leaves[key] = _leaf(key, value)
            self._root = None

    def root(self) -> str:
        """64 hex digits."""
        if self._root is None:
            self._root = blake3(b"".join(self._leaves[key] for key in sorted(self._leaves))).hexdigest()
        return self._root


def _leaf(key: str, value: str) -> bytes:
    return blake3(f"{key}\0{value}".encode()).digest()  # no key holds a NUL
