"""What `covenantd doctor` finds: one line on what is, one on what to do about it. Pure."""

from dataclasses import asdict, dataclass
from typing import Any

LEVELS = ("ok", "skipped", "warning", "failure")  # by gravity


@dataclass(frozen=True)
class Finding:
    """`name`: a stable word for scripts. `fix` is empty where nothing need be done."""

    name: str
    level: str  # one of LEVELS
    what: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def ok(name: str, what: str) -> Finding:
    return Finding(name, "ok", what)


def skipped(name: str, why: str) -> Finding:
    return Finding(name, "skipped", why)


def warning(name: str, what: str, fix: str) -> Finding:
    return Finding(name, "warning", what, fix)


def failure(name: str, what: str, fix: str) -> Finding:
    return Finding(name, "failure", what, fix)
