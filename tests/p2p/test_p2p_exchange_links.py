"""The exchange on real p2pds and shaped links: caps as the interface sees them, holders that freeze, die or are cut."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from exchange_process import PeerProcess, peers

from tests.netlab.lab import Lab, Link, open_lab, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
MBIT = 125_000
PIECE = 128 << 10
STALL_SECONDS = 10.0
IN_FLIGHT = 4 << 20  # what a window asks ahead of one holder at these rates, and a piece of each lane


def sent_bytes(lab: Lab, index: int) -> int:
    lines = lab.run(index, "cat", "/proc/net/dev").splitlines()
    return next(int(line.partition(":")[2].split()[8]) for line in lines if line.strip().startswith(f"nl{index}:"))


def give(peer: PeerProcess, size: int, seed: bytes) -> str:
    path = peer.directory / "payload"
    path.write_bytes((seed * 64)[:64] * (size // 64))
    blob_id: str = peer.ask("adopt", [str(path), PIECE])
    return blob_id


def meet(all_of_them: list[PeerProcess]) -> None:
    for place, one in enumerate(all_of_them):
        for other in all_of_them[:place]:
            one.ask("dial", other.address)


@pytest.mark.timeout(180)
def test_an_uplink_cap_holds_within_5_percent_of_what_the_interface_sends(tmp_path: Path) -> None:
    links = [Link(one_way_ms=5), Link(one_way_ms=5), Link(one_way_ms=5)]
    with open_lab(links, "bbr") as lab, peers(lab, tmp_path) as three:
        a, b, c = three
        meet(three)
        a.ask("limits", [50 * MBIT, None])
        blob_id = give(a, 300 << 20, b"x")
        for one in (b, c):
            one.tell("fetch", [blob_id, [a.peer_id]])
        time.sleep(6)
        before, start = sent_bytes(lab, 0), time.monotonic()
        time.sleep(15)
        rate = (sent_bytes(lab, 0) - before) / (time.monotonic() - start)
        print(f"{rate / MBIT:.2f} Mbit/s on the interface, cap 50")
        assert 0.95 < rate / (50 * MBIT) < 1.05


@pytest.mark.timeout(180)
def test_an_uplink_is_measured_within_10_percent(tmp_path: Path) -> None:
    links = [Link(up_mbit=20, one_way_ms=12.5), Link(one_way_ms=12.5), Link(one_way_ms=12.5)]
    with open_lab(links, "bbr") as lab, peers(lab, tmp_path) as three:
        a, b, c = three
        meet(three)
        blob_id = give(a, 100 << 20, b"x")
        for one in (b, c):
            one.tell("fetch", [blob_id, [a.peer_id]])
        time.sleep(20)
        best = a.ask("look")["best"][0]
        print(f"{best / MBIT:.2f} Mbit/s measured, 20 there")
        assert 0.9 < best / (20 * MBIT) < 1.1


CONNECTS = (
    "import socket,statistics,sys,time\n"
    "def seconds():\n"
    "    start = time.monotonic()\n"
    "    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10):\n"
    "        took = time.monotonic() - start\n"
    "    time.sleep(0.2)\n"
    "    return took\n"
    "print(statistics.median(seconds() for _ in range(40)))\n"
)


@pytest.mark.timeout(180)
def test_at_a_cap_of_all_that_the_link_carries_its_queue_stays_short(tmp_path: Path) -> None:
    """Filled by a burst at the start, it would hold 150 ms for as long as as much comes as leaves."""
    links = [Link(up_mbit=10, one_way_ms=12.5), *[Link(one_way_ms=12.5)] * 3]
    with open_lab(links, "bbr") as lab, peers(lab, tmp_path) as four:
        meet(four)
        a = four[0]
        a.ask("limits", [10 * MBIT, None])
        blob_id = give(a, 100 << 20, b"x")
        for one in four[1:]:
            one.tell("fetch", [blob_id, [a.peer_id]])
        time.sleep(10)
        before, start = sent_bytes(lab, 0), time.monotonic()
        host, port = four[1].address.split("/")[2:5:2]
        round_trip_seconds = float(lab.run(0, sys.executable, "-c", CONNECTS, host, port))
        rate = (sent_bytes(lab, 0) - before) / (time.monotonic() - start)
        print(f"{round_trip_seconds * 1e3:.0f} ms to connect where the way takes 50; {rate / MBIT:.2f} of 10 Mbit/s")
        assert round_trip_seconds < 0.05 + 0.08
        assert 0.95 < rate / (10 * MBIT) < 1.02


def freeze(lab: Lab, victim: PeerProcess) -> None:
    os.kill(victim.p2pd, signal.SIGSTOP)


def kill(lab: Lab, victim: PeerProcess) -> None:
    os.kill(victim.p2pd, signal.SIGKILL)


def cut(lab: Lab, victim: PeerProcess) -> None:
    lab.set(0, replace(lab.links[0], down=True))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("harm", [freeze, kill, cut])
def test_a_holder_lost_at_half_costs_at_most_the_stall_timeout_and_no_byte(
    tmp_path: Path, harm: Callable[[Lab, PeerProcess], None]
) -> None:
    """Two holders of 20 Mbit/s each; alone the other takes twice as long for the rest."""
    size = 50 << 20
    links = [Link(up_mbit=20, one_way_ms=5), Link(up_mbit=20, one_way_ms=5), Link(one_way_ms=5)]
    with open_lab(links, "bbr") as lab, peers(lab, tmp_path) as three:
        a, b, c = three
        meet(three)
        blob_id = give(a, size, b"x")
        assert give(b, size, b"x") == blob_id
        c.tell("fetch", [blob_id, [a.peer_id, b.peer_id]])
        deadline = time.monotonic() + 60
        while (held := c.ask("look")["held"]) < size / 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        harm(lab, a)
        hurt_at = time.monotonic()
        c.hear("fetch", 120)
        took = time.monotonic() - hurt_at
        received = sum(c.ask("look")["received"].values())
        alone = (size - held) / (20 * MBIT * 0.93)
        print(f"{harm.__name__}: {took:.1f} s for the rest, {alone:.1f} s at one uplink; {received - size} bytes twice")
        assert took < alone + STALL_SECONDS
        assert received <= size + IN_FLIGHT
