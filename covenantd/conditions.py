"""What `covenantctl wait --for` waits for: a condition on a Status. Pure."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from covenantd.status import STATES, Status

HELP = "round>=N, block>=N, peers>=N, state=STATE, phase=PHASE, idle"

_COMPARE: dict[str, Callable[[int, int], bool]] = {">=": operator.ge, ">": operator.gt, "=": operator.eq}
_NUMBERS: dict[str, Callable[[Status], int | None]] = {
    "round": lambda status: status.round,
    "block": lambda status: status.block,
    "peers": lambda status: status.connected_peers,
}
_FORM = re.compile(r"\s*([a-z]+)\s*(>=|>|=)\s*([a-z0-9_-]+)\s*", re.IGNORECASE)
_MAX_DIGITS = 15


class BadCondition(ValueError):
    """Not a condition; the message lists those there are."""


@dataclass(frozen=True)
class Condition:
    """`text` as the operator wrote it; `holds` decides."""

    text: str
    holds: Callable[[Status], bool]


def parse_condition(text: str) -> Condition:
    """Raises BadCondition. A number not known yet meets no condition; `idle`: no round under way."""
    if text.strip().lower() == "idle":
        return Condition("idle", _is_idle)
    form = _FORM.fullmatch(text) if len(text) <= 80 else None
    if form is None:
        raise BadCondition(f"{text[:80]!r} is not a condition; there are: {HELP}")
    name, comparison, value = form.group(1).lower(), form.group(2), form.group(3).lower()
    if name in _NUMBERS:
        return Condition(text.strip(), _number(name, comparison, value))
    return Condition(text.strip(), _word(name, comparison, value))


def _is_idle(status: Status) -> bool:
    """Nothing of a round under way: paused, or between rounds."""
    return status.phase in ("", "waiting") and status.state in ("waiting", "paused", "running")


def _number(name: str, comparison: str, value: str) -> Callable[[Status], bool]:
    if not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS):
        raise BadCondition(f"{name}{comparison}{value}: {value!r} is not a number")
    wanted, compare, read = int(value), _COMPARE[comparison], _NUMBERS[name]

    def holds(status: Status) -> bool:
        now = read(status)
        return now is not None and compare(now, wanted)

    return holds


def _word(name: str, comparison: str, value: str) -> Callable[[Status], bool]:
    if name not in ("state", "phase"):
        raise BadCondition(f"{name!r} is not a condition; there are: {HELP}")
    if comparison != "=":
        raise BadCondition(f"{name} is compared with =, e.g. {name}={value}")
    if name == "state" and value not in STATES:
        raise BadCondition(f"{value!r} is not a state; there are: {', '.join(STATES)}")
    if name == "state":
        return lambda status: status.state == value
    return lambda status: status.phase.lower() == value
