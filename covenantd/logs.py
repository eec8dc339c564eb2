"""Logs to stderr: JSON for machines, readable on a terminal, with journald's priorities under systemd.

Our code and the libraries' `logging` go through the same processors. Context (round, phase, peer) is bound by
`structlog.contextvars.bind_contextvars`.
"""

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}
_SECRET = re.compile(
    r"(^|_)(secret\w*|seed|mnemonic|password|passphrase|private_key|token)($|_(?!path))", re.IGNORECASE
)

Event = MutableMapping[str, Any]


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
    logging.basicConfig(handlers=[handler], force=True)
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
        if _SECRET.search(name):
            event[name] = "[redacted]"
    return event


def _with_priority(logger: Any, method: str, line: Any) -> str:
    """journald reads `<N>` at a line's start as its priority (sd-daemon(3))."""
    return f"<{_PRIORITIES.get(method, 6)}>{line}"
