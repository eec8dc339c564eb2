"""`covenantctl top`: a live view of one daemon in a terminal. Outlives the daemon's restarts."""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient
from covenantd.errors import EXIT_OK
from covenantd.status import BadStatus, RoundSummary, Status
from covenantd.textplot import glyphs_for
from covenantd.topmodel import History
from covenantd.topview import Screen, frame

Connect = Callable[[], BlockingClient]

_ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, no cursor: the shell's lines come back afterwards
_LEAVE = "\x1b[?25h\x1b[?1049l"
_LOOK_SECONDS = 0.25  # how soon a key or a new window size shows
_LEAST_COLUMNS, _LEAST_ROWS = 40, 12


def main(connect: Connect, interval_seconds: float, once: bool) -> int:
    """Until q, Ctrl-C or SIGTERM; `once`: one frame. ControlError: no terminal, no permission, or once no daemon."""
    source = _Source(connect)
    if once:
        source.look()
        if source.error is not None:
            raise source.error
        print("\n".join(frame(source.history, _screen())).rstrip())
        return EXIT_OK
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ControlError("usage", "top needs a terminal; see `covenantctl status --json` or `top --once`")
    with _raw_terminal():
        _watch(source, interval_seconds)
    return EXIT_OK


def _watch(source: "_Source", interval_seconds: float) -> None:
    next_look, shown = 0.0, (0, 0)
    while True:
        now, screen = time.monotonic(), _screen()
        if now >= next_look:
            source.look()
            next_look, shown = now + interval_seconds, (0, 0)
        if shown != (screen.columns, screen.rows):
            _draw(frame(source.history, screen))
            shown = (screen.columns, screen.rows)
        key = _key(min(_LOOK_SECONDS, max(0.0, next_look - time.monotonic())))
        if key is None or key in ("q", "Q", "\x03"):
            return
        if key == " ":
            next_look = 0.0


def _key(timeout_seconds: float) -> str | None:
    """A key, "" for none in time, None when the terminal is gone."""
    ready, _, _ = select.select([sys.stdin], [], [], timeout_seconds)
    if not ready:
        return ""
    try:
        pressed = os.read(sys.stdin.fileno(), 64)
    except OSError:
        return None
    return pressed[:1].decode("latin-1") if pressed else None


def _draw(lines: list[str]) -> None:
    """Line by line over the old frame, so that nothing flickers."""
    sys.stdout.write("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")
    sys.stdout.flush()


def _screen() -> Screen:
    # asked of the terminal itself: COLUMNS and LINES would be those of the start
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        size = os.terminal_size((80, 24))
    columns, rows = max(_LEAST_COLUMNS, size.columns or 80), max(_LEAST_ROWS, size.lines or 24)
    return Screen(columns, rows, glyphs_for(sys.stdout.encoding))


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys at once and unseen; the terminal as it was afterwards, also after SIGTERM."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    handler = signal.signal(signal.SIGTERM, _terminated)
    try:
        tty.setcbreak(terminal)
        changed = termios.tcgetattr(terminal)
        changed[6][termios.VSUSP] = b"\0"  # a stopped `top` would leave the shell on our screen
        termios.tcsetattr(terminal, termios.TCSANOW, changed)
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, handler)


def _terminated(number: int, at: FrameType | None) -> None:
    raise SystemExit(128 + number)


class _Source:
    """A daemon that may come and go."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._client: BlockingClient | None = None
        self._seen_round: int | None = -1
        self.history = History()
        self.error: ControlError | None = None

    def look(self) -> None:
        """Ask once; what goes wrong is kept to be shown. Raises ControlError for what waiting cannot help."""
        try:
            if self._client is None:
                self._client = self._connect()
                self._seen_round = -1
            self._ask(self._client)
            self.error = None
        except (ControlError, BadStatus) as error:
            self.error = error if isinstance(error, ControlError) else ControlError("protocol", str(error))
            self._drop()
            self.history.trouble = f"waiting for the daemon: {error}"
            if self.error.code == "permission":
                raise self.error from None

    def _ask(self, client: BlockingClient) -> None:
        status = Status.from_dict(client.call("status"))
        if status.round != self._seen_round:
            answer = client.call("rounds")
            self.history.rounds = tuple(RoundSummary.from_dict(one) for one in answer["rounds"])
            self._seen_round = status.round
        self.history.see(time.monotonic(), status)

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
