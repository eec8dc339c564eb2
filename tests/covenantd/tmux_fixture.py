"""A terminal for tests: tmux, which draws what a program says and tells what is on the screen."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux (Debian: tmux)")


@dataclass(frozen=True)
class Terminal:
    """One tmux server with one window, `columns` x `rows`."""

    server: Path

    def tmux(self, *words: str) -> str:
        command = ["tmux", "-f", "/dev/null", "-S", str(self.server), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout

    def open(self, command: str, columns: int = 80, rows: int = 24, **environment: str) -> None:
        wanted = {"TERM": "xterm-256color", "LANG": "C.UTF-8", **environment}
        settings = [word for name, value in wanted.items() for word in ("-e", f"{name}={value}")]
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), *settings, command)

    def screen(self, colours: bool = False) -> str:
        return self.tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def press(self, key: str) -> None:
        self.tmux("send-keys", key)

    async def until(self, holds: Callable[[str], bool], seconds: float = 30) -> str:
        """The first screen that holds; an AssertionError shows the last."""
        screen = ""
        with trio.move_on_after(seconds):
            while not holds(screen := await trio.to_thread.run_sync(self.screen)):  # noqa: ASYNC110 (a terminal)
                await trio.sleep(0.1)
            return screen
        raise AssertionError(f"not seen in {seconds:g} s; the screen:\n{screen}")

    def close(self) -> None:
        subprocess.run(["tmux", "-S", str(self.server), "kill-server"], capture_output=True, check=False)
