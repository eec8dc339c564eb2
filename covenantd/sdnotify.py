"""systemd's notification protocol (sd_notify(3)): READY, STATUS, WATCHDOG, RELOADING, STOPPING. A no-op elsewhere."""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

import trio

_log = logging.getLogger(__name__)
_LOOK_AGAIN_SECONDS = 1.0


class Notifier:
    """Speaks to NOTIFY_SOCKET, a path or an abstract name (@...). Never blocks, never raises."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog_seconds(environ)
        self._failed = False

    @property
    def enabled(self) -> bool:
        return self._address is not None

    def ready(self, status: str = "") -> None:
        self._send({"READY": "1", **_status(status)})

    def status(self, text: str) -> None:
        self._send(_status(text))

    def stopping(self, status: str = "") -> None:
        self._send({"STOPPING": "1", **_status(status)})

    def reloading(self) -> None:
        """Followed by `ready` once done (Type=notify-reload asks for the time)."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send({"RELOADING": "1", "MONOTONIC_USEC": str(microseconds)})

    def extend_timeout(self, seconds: float) -> None:
        """More time to start or stop, from now, e.g. for a long drain."""
        self._send({"EXTEND_TIMEOUT_USEC": str(int(seconds * 1_000_000))})

    async def watchdog(self, alive: Callable[[], bool]) -> None:
        """Ping at half the watchdog's time, only while `alive()`; returns at once where none is wanted.

        While not alive it looks every second: what has recovered must not be killed for having been asked too soon.
        """
        if not self.enabled or self.watchdog_seconds is None:
            return
        was_alive = True
        while True:
            is_alive = alive()
            if is_alive:
                self._send({"WATCHDOG": "1"})
            elif was_alive:
                _log.error("a liveness check fails: no more watchdog pings until it passes")
            was_alive = is_alive
            half = self.watchdog_seconds / 2
            await trio.sleep(half if is_alive else min(half, _LOOK_AGAIN_SECONDS))

    def _send(self, fields: Mapping[str, str]) -> None:
        if self._address is None:
            return
        message = "\n".join(f"{name}={value}" for name, value in fields.items()).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
                client.connect(self._address)
                client.send(message)
        except OSError as error:
            if not self._failed:
                _log.warning("cannot notify systemd at %r: %s", self._address, error)
            self._failed = True


def _status(text: str) -> dict[str, str]:
    """One line, whatever is in it: a newline would start another field."""
    return {"STATUS": " ".join(text.split())[:500]} if text else {}


def _address(text: str) -> str | None:
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """WATCHDOG_USEC, if it is meant for this process."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    if not (microseconds.isascii() and microseconds.isdigit() and len(microseconds) < 18):
        return None
    return int(microseconds) / 1_000_000 or None
