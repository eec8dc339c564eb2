"""Logs to stderr: JSON for machines, readable on a terminal, with journald's priorities under systemd.

Our code and the libraries' `logging` go through the same processors. Context (round, phase, peer) is bound by
`structlog.contextvars.bind_contextvars`.
"""

import logging
import os
import sys
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

from covenantd.redact import REDACTED, SECRET_NAME
from covenantd.throttle import Throttle

LEVELS = ("debug", "info", "warning", "error")
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}
_RECENT_LINES = 2000
_MAX_LINE_CHARS = 2000

Event = MutableMapping[str, Any]


class RecentLines(logging.Handler):
    """The last log lines, for `covenantctl bugreport`: wherever stderr goes, these are at hand."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=_RECENT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record)[:_MAX_LINE_CHARS])
        except Exception:  # noqa: BLE001
            self.handleError(record)  # as every handler does: logging must not stop the work

    def lines(self) -> tuple[str, ...]:
        """Oldest first, one JSON object each, at most _MAX_LINE_CHARS long."""
        return tuple(self._lines)


recent = RecentLines()


def configure(
    level: str = "info",
    log_format: str = "auto",
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Set up logging of the whole process; calling it again replaces the first."""
    output = stream or sys.stderr
    to_journal = _is_journal(output, environ)
    console = log_format == "console" or (log_format == "auto" and output.isatty() and not to_journal)
    shared = _shared_processors()
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_console(output, environ) if console else [structlog.processors.format_exc_info, _json]),
                *([_with_priority] if to_journal else []),
            ],
        )
    )
    recent.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _json,
            ],
        )
    )
    logging.basicConfig(handlers=[Throttle([handler, recent])], force=True)
    set_level(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def tell_repeated() -> None:
    """Have lines that were held back by `Throttle` told in time, also when nothing else is logged."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Throttle):
            handler.tell()


def set_level(level: str) -> None:
    """At run time too. ValueError: not one of LEVELS."""
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a log level; there are: {', '.join(LEVELS)}")
    logging.getLogger().setLevel(level.upper())
    # libraries at debug drown us, and asyncio's would show on every DHT call
    for noisy in ("asyncio", "hivemind", "bittensor", "urllib3", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _redact,
    ]


def _is_journal(output: TextIO, environ: Mapping[str, str]) -> bool:
    """JOURNAL_STREAM names device and inode of the journal's stream (systemd.exec(5))."""
    try:
        found = os.fstat(output.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _console(output: TextIO, environ: Mapping[str, str]) -> list[structlog.typing.Processor]:
    colours = output.isatty() and not environ.get("NO_COLOR")
    return [structlog.dev.ConsoleRenderer(colors=colours, timestamp_key="time", pad_event_to=30)]


_json = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)


def _redact(logger: Any, method: str, event: Event) -> Event:
    """Secrets are passed by path only; this is for the day somebody forgets."""
    for name in event:
        if SECRET_NAME.search(name):
            event[name] = REDACTED
    return event


def _with_priority(logger: Any, method: str, line: Any) -> str:
    """journald reads `<N>` at a line's start as its priority (sd-daemon(3))."""
    return f"<{_PRIORITIES.get(method, 6)}>{line}"
