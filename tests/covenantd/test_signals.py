"""SIGHUP reloads, SIGTERM may drain, and systemd hears of both: in a real process with a real NOTIFY_SOCKET."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import sys, signal, trio, logging
from pathlib import Path
from covenantd.config import load_config
from covenantd.liveconfig import LiveConfig
from covenantd.sdnotify import Notifier
from covenantd.signals import drain_on_sigterm, reload_on_sighup, reloading

config_file, stop_seconds, drains = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "drains"

async def main():
    live, notifier = LiveConfig(load_config(config_file)), Notifier()
    done = trio.Event()
    async def drain():
        if drains:
            done.set()
    with trio.open_signal_receiver(signal.SIGTERM) as outer:
        async with trio.open_nursery() as nursery:
            level = lambda: logging.getLevelName(logging.getLogger().level)
            await nursery.start(reload_on_sighup, reloading(live, notifier, level))
            await nursery.start(drain_on_sigterm, drain, stop_seconds, notifier)
            notifier.ready("up")
            async def leave(how, event):
                await event()
                print(how, flush=True)
                nursery.cancel_scope.cancel()
            nursery.start_soon(leave, "drained", done.wait)
            nursery.start_soon(leave, "stopped", outer.__anext__)

trio.run(main)
"""


class Daemon:
    def __init__(self, directory: Path, stop_seconds: float, drains: bool) -> None:
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.settimeout(60)
        self.notify.bind(str(directory / "notify"))
        self.config = directory / "covenantd.toml"
        self.config.write_text("")
        environment = {**os.environ, "NOTIFY_SOCKET": str(directory / "notify")}
        words = [str(self.config), str(stop_seconds), "drains" if drains else "hangs"]
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words], env=environment, cwd=root, stdout=subprocess.PIPE, text=True
        )
        assert self.heard() == "READY=1\nSTATUS=up"

    def heard(self) -> str:
        return self.notify.recv(4096).decode()

    def end(self) -> str:
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return out.split()[-1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.notify.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Daemon]]:
    started: list[Daemon] = []

    def start(stop_seconds: float = 60, drains: bool = True) -> Daemon:
        started.append(Daemon(tmp_path, stop_seconds, drains))
        return started[-1]

    yield start  # type: ignore[misc]
    for daemon in started:
        daemon.close()


def test_sighup_reloads_and_says_so_before_and_after(start: type[Daemon]) -> None:
    daemon = start()  # type: ignore[call-arg]
    daemon.config.write_text('[node]\nlog_level = "error"\n')
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.heard().startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert daemon.heard() == "READY=1\nSTATUS=ERROR"
    daemon.config.write_text("[nonsense\n")
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.heard().startswith("RELOADING=1")
    assert daemon.heard() == "READY=1\nSTATUS=ERROR", "a broken file changes nothing, and systemd is not left waiting"
    assert daemon.process.poll() is None


def test_sigterm_drains_and_asks_for_the_time(start: type[Daemon]) -> None:
    daemon = start(stop_seconds=33)  # type: ignore[call-arg]
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.heard() == "STOPPING=1\nSTATUS=finishing the round"
    assert daemon.heard() == "EXTEND_TIMEOUT_USEC=48000000"
    assert daemon.end() == "drained"


def test_a_second_sigterm_stops_at_once(start: type[Daemon]) -> None:
    daemon = start(stop_seconds=3600, drains=False)  # type: ignore[call-arg]
    daemon.process.send_signal(signal.SIGTERM)
    daemon.heard(), daemon.heard()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.end() == "stopped"


def test_a_drain_has_an_end(start: type[Daemon]) -> None:
    daemon = start(stop_seconds=0.2, drains=False)  # type: ignore[call-arg]
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.end() == "stopped"
