"""Named checks: whether the daemon is alive (else restart it) and ready (else send it no work). No I/O, no clock."""

from collections.abc import Callable
from dataclasses import dataclass

Probe = Callable[[], str | None]
"""None when all is well, else one line on what is not."""


@dataclass(frozen=True)
class Finding:
    """`live`: its failure means the daemon itself hangs, not that the outside world is not ready."""

    name: str
    live: bool
    reason: str | None

    @property
    def ok(self) -> bool:
        return self.reason is None


class Health:
    """Checks by name. Only `live` ones feed the watchdog: a restart cures no slow network."""

    def __init__(self) -> None:
        self._checks: dict[str, tuple[Probe, bool]] = {}

    def add(self, name: str, probe: Probe, *, live: bool = False) -> None:
        """A second check of the same name replaces the first."""
        self._checks[name] = (probe, live)

    def findings(self) -> tuple[Finding, ...]:
        return tuple(Finding(name, live, probe()) for name, (probe, live) in self._checks.items())

    def alive(self) -> bool:
        return all(finding.ok for finding in self.findings() if finding.live)

    def ready(self) -> bool:
        return all(finding.ok for finding in self.findings())


class Heartbeat:
    """Something that must show itself at least every `limit_seconds` by `now`, a monotonic clock."""

    def __init__(self, limit_seconds: float, now: Callable[[], float]) -> None:
        self._limit_seconds = limit_seconds
        self._now = now
        self._last = now()

    def beat(self) -> None:
        self._last = self._now()

    def probe(self) -> str | None:
        silent = self._now() - self._last
        return None if silent <= self._limit_seconds else f"silent for {silent:.0f} s"
