"""A change of the run spec in mid-run: signed by the run's owner, carried by a certified roster, in force from the
round it names on, for every peer alike.

On disk and as a blob: a JSON object {"change": {...}, "signature": hex}. What may change: `CHANGEABLE`; what a peer
has on disk or in its engine (model, data, compression, layout) may not.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from covenantd.errors import ConfigError
from covenantd.runspec import RunSpec, Scoring, canonical, check
from model.config import SCHEDULE
from p2p.protocols import Signer, Verify

MAX_CHANGE_BYTES = 64 << 10
NOTICE_ROUNDS = 2  # a change is in a certified roster at least so many rounds before it is in force
CHANGEABLE = ("alpha", "roster_size", "inner_steps", "min_inner_steps", "snapshot_rounds")
_TIMING = ("blocks_per_round", "seal_blocks", "commit_blocks", "vote_blocks", "serve_slack_blocks", "proposal_blocks")
_INNER = SCHEDULE
_SCORING = tuple(f.name for f in fields(Scoring))
_NESTED = {"timing": _TIMING, "inner": _INNER, "scoring": _SCORING}
_DOMAIN = b"covenantd spec change 1\0"


@dataclass(frozen=True)
class SpecChange:
    run_id: str
    revision: int  # 1 for the first; the genesis spec is revision 0
    first_round: int  # in force from here on
    changes: Mapping[str, Any]  # e.g. {"alpha": 1.0, "timing": {"blocks_per_round": 60}}


def sign(change: SpecChange, owner: Signer) -> bytes:
    body = asdict(change)
    document = {"change": body, "signature": owner.sign(_DOMAIN + canonical(body)).hex()}
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def parse(data: bytes, spec: RunSpec, verify: Verify) -> SpecChange:
    """Raises ConfigError unless it is a change of this run, signed by its owner. Whether this covenantd understands
    it is for `apply` to say."""
    if len(data) > MAX_CHANGE_BYTES:
        raise ConfigError(f"spec change of {len(data)} bytes exceeds {MAX_CHANGE_BYTES}")
    try:
        document = json.loads(data)
        body, signature = document["change"], bytes.fromhex(document["signature"])
        message = _DOMAIN + canonical(body)
        change = SpecChange(**body)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"not a signed spec change: {error!r}") from error
    if not verify(spec.owner, message, signature):
        raise ConfigError(f"spec change is not signed by the run's owner {spec.owner}")
    if change.run_id != spec.run_id:
        raise ConfigError(f"spec change is for run {str(change.run_id)[:16]}, this is {spec.run_id[:16]}")
    numbers = (change.revision, change.first_round)
    if not all(type(n) is int and 0 < n < 1 << 31 for n in numbers) or not isinstance(change.changes, dict):
        raise ConfigError("spec change: revision and first_round are positive numbers, changes a map")
    return change


def _check_known(change: SpecChange) -> None:
    unknown = set(change.changes) - set(CHANGEABLE) - set(_NESTED)
    for section, names in _NESTED.items():
        inner = change.changes.get(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"spec change: {section} must be a map")
        unknown |= {f"{section}.{name}" for name in set(inner) - set(names)}
    if unknown:
        raise ConfigError(f"spec change: {', '.join(sorted(unknown))} cannot change in mid-run, or not in this version")


def apply(spec: RunSpec, change: SpecChange) -> RunSpec:
    """The spec in force from `change.first_round` on. Raises ConfigError for values that make no sense."""
    if change.revision != spec.revision + 1:
        raise ConfigError(f"spec change {change.revision} does not follow revision {spec.revision}")
    _check_known(change)
    changes = dict(change.changes)
    nested = {name: changes.pop(name, {}) for name in _NESTED}
    _same_types(spec, {**changes, **nested})
    revised = replace(
        spec,
        **changes,
        timing=spec.timing.from_round(change.first_round, **nested["timing"]) if nested["timing"] else spec.timing,
        inner=replace(spec.inner, **nested["inner"]),
        scoring=replace(spec.scoring, **nested["scoring"]),
        revision=change.revision,
        genesis_id=spec.run_id,
    )
    check(revised)
    return revised


def _same_types(spec: RunSpec, changes: Mapping[str, Any]) -> None:
    parts: dict[str, Any] = {"timing": spec.timing, "inner": spec.inner, "scoring": spec.scoring}
    for name, value in changes.items():
        pairs = value.items() if name in parts else [(name, value)]
        for key, new in pairs:
            old = getattr(parts.get(name, spec), key)
            if type(new) is not type(old):
                raise ConfigError(f"spec change: {key} must be a {type(old).__name__}, like {old!r}, not {new!r}")


class SpecHistory:
    """The genesis spec and its changes; what is in force in which round. `revision` counts them all, `newest` is the
    last that this covenantd can follow."""

    def __init__(self, genesis: RunSpec, changes: Iterable[SpecChange] = ()) -> None:
        self._specs = [(0, genesis)]
        self._end: tuple[int, str] | None = None
        self.revision = 0
        for change in changes:
            self.add(change)

    @property
    def genesis(self) -> RunSpec:
        return self._specs[0][1]

    @property
    def newest(self) -> RunSpec:
        return self._specs[-1][1]

    def check(self, change: SpecChange) -> RunSpec:
        """The spec that it would make, as the next one. Raises ConfigError."""
        if change.first_round <= self._specs[-1][0]:
            raise ConfigError(
                f"spec change {change.revision} begins at round {change.first_round}, not after the last one, of round "
                f"{self._specs[-1][0]}"
            )
        return apply(self.newest, change)

    def add(self, change: SpecChange) -> None:
        """Raises ConfigError; then nothing has changed."""
        self._specs.append((change.first_round, self.check(change)))
        self.revision = change.revision

    def follow(self, change: SpecChange) -> str | None:
        """Take up a certified change. One that this covenantd cannot follow ends its part in the run, but not before
        the change holds; the reason is returned."""
        try:
            self.add(change)
        except ConfigError as error:
            self.revision = change.revision
            self._end = self._end or (change.first_round, str(error))
            return str(error)
        return None

    def at(self, round: int) -> RunSpec:
        """The spec in force in that round, with the timing of every round that is known. Raises ConfigError for a
        round under rules that this covenantd cannot follow."""
        if self._end is not None and round >= self._end[0]:
            raise ConfigError(
                f"from round {self._end[0]} on the run has other rules ({self._end[1]}): upgrade covenantd"
            )
        spec = next(spec for first, spec in reversed(self._specs) if round >= first)
        return replace(spec, timing=self.newest.timing, genesis_id=self.genesis.run_id)
