"""systemd's protocol on a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from covenantd.sdnotify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
        server.bind(str(tmp_path / "notify"))
        yield server, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"}


def received(server: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(server.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_messages(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    server, environ = systemd
    notifier = Notifier(environ)
    notifier.ready("round 3")
    notifier.status("two\nREADY=0 lines")
    notifier.reloading()
    notifier.extend_timeout(2.5)
    notifier.stopping()
    ready, status, reloading, extend, stopping = received(server)
    assert ready == "READY=1\nSTATUS=round 3"
    assert status == "STATUS=two READY=0 lines"
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=") and reloading.rpartition("=")[2].isdigit()
    assert extend == "EXTEND_TIMEOUT_USEC=2500000"
    assert stopping == "STOPPING=1"


def test_abstract_socket() -> None:
    name = f"covenantd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
        server.bind("\0" + name)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert received(server) == ["READY=1"]


async def test_watchdog_pings_only_while_alive(
    systemd: tuple[socket.socket, dict[str, str]], autojump_clock: trio.testing.MockClock
) -> None:
    server, environ = systemd
    alive = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Notifier(environ).watchdog, lambda: alive)
        await trio.sleep(7)  # pings at 0, 2, 4, 6: half of the watchdog's 4 s
        assert received(server) == ["WATCHDOG=1"] * 4
        alive = False
        await trio.sleep(20)
        assert received(server) == []
        alive = True
        await trio.sleep(1.5)  # looked at every second now
        assert received(server) == ["WATCHDOG=1"]
        nursery.cancel_scope.cancel()


async def test_what_recovers_before_the_deadline_is_not_killed(
    systemd: tuple[socket.socket, dict[str, str]], autojump_clock: trio.testing.MockClock
) -> None:
    """Last pinged at 0 s, found stalled at 30 s, well again at 31 s: systemd kills at 60 s."""
    server, environ = systemd
    alive = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Notifier({**environ, "WATCHDOG_USEC": "60000000"}).watchdog, lambda: alive)
        await trio.sleep(29)
        assert received(server) == ["WATCHDOG=1"]
        alive = False
        await trio.sleep(2)
        alive = True
        await trio.sleep(2)
        assert received(server) == ["WATCHDOG=1"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"NOTIFY_SOCKET": "@"},
        {"NOTIFY_SOCKET": "/nonexistent/notify"},
    ],
)
def test_without_systemd_it_is_silent(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready("x")
    notifier.stopping()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_time(environ: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environ).watchdog_seconds == seconds


async def test_no_watchdog_wanted_ends_at_once(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    server, environ = systemd
    with trio.fail_after(1):
        await Notifier({"NOTIFY_SOCKET": environ["NOTIFY_SOCKET"]}).watchdog(lambda: True)
    assert received(server) == []
