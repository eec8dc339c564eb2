"""Log lines that peers cause: one a kind and minute, with a count, so that strangers cannot fill a disk or hide a
line that matters.

Whoever logs says what is caused by a peer: `log.warning("commit refused", peer_caused=True)` with structlog,
`extra={"peer_caused": True}` with `logging`. A kind is a logger and a text before its values are put in.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MARK = "peer_caused"
_WINDOW_SECONDS = 60.0

Kind = tuple[str, str]


@dataclass
class _Window:
    ends_at: float
    count: int = 0  # held back since it began
    last: logging.LogRecord | None = None


class Throttle(logging.Handler):
    """Hands records on to `handlers`. What is held back is told by the last line of its kind, with `repeated`."""

    def __init__(self, handlers: Sequence[logging.Handler], now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._handlers = handlers
        self._now = now
        self._windows: dict[Kind, _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.tell()
        kind = _kind(record)
        if kind is None:
            self._hand_on(record)
        elif kind in self._windows:
            self._windows[kind].count += 1
            self._windows[kind].last = record
        else:
            self._windows[kind] = _Window(self._now() + _WINDOW_SECONDS)
            self._hand_on(record)

    def tell(self, whole: bool = False) -> None:
        """Say what was held back for a minute; `whole`: all. Call it now and then."""
        self.acquire()
        try:
            now = self._now()
            due = [kind for kind, window in self._windows.items() if whole or window.ends_at <= now]
            for kind in due:
                window = self._windows.pop(kind)
                if window.last is not None:
                    self._windows[kind] = _Window(now + _WINDOW_SECONDS)
                    self._hand_on(_counted(window.last, window.count))
        finally:
            self.release()

    def flush(self) -> None:
        """At the end of the process: `logging.shutdown` calls it."""
        self.tell(whole=True)
        for handler in self._handlers:
            handler.flush()

    def _hand_on(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            handler.handle(record)


def _kind(record: logging.LogRecord) -> Kind | None:
    """None: not caused by a peer. The mark is taken off; it is not for readers."""
    if isinstance(record.msg, dict):
        return (record.name, str(record.msg.get("event"))) if record.msg.pop(MARK, False) else None
    return (record.name, str(record.msg)) if record.__dict__.pop(MARK, False) else None


def _counted(record: logging.LogRecord, count: int) -> logging.LogRecord:
    fields = record.msg if isinstance(record.msg, dict) else record.__dict__
    fields["repeated"] = count
    return record
