"""The lab keeps what its links promise, and leaves nothing behind."""

import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest

from tests.netlab.lab import Lab, Link, open_lab, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

RECEIVER = """
import socket, sys, time
listener = socket.create_server(("0.0.0.0", 9000))
print("listening", flush=True)
stream, _ = listener.accept()
stream.recv(1)
start, total = time.monotonic(), 0
while data := stream.recv(1 << 20):
    total += len(data)
print(total * 8 / 1e6 / (time.monotonic() - start))
"""
SENDER = """
import socket, sys
stream = socket.create_connection((sys.argv[1], 9000), timeout=20)
stream.sendall(bytes(int(sys.argv[2])))
"""
CONNECT = """
import socket, sys, time
start = time.monotonic()
socket.create_connection((sys.argv[1], 9000), timeout=float(sys.argv[2])).close()
print(time.monotonic() - start)
"""


def python(source: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(source), *arguments]


def listening(lab: Lab, index: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(lab.command(index, python(RECEIVER)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "listening\n"
    return process


def mbit(lab: Lab, source: int, target: int, size: int = 1_500_000) -> float:
    with listening(lab, target) as receiver:
        lab.run(source, *python(SENDER, lab.address(target), str(size)))
        return float(receiver.communicate(timeout=30)[0])


def test_uplinks_and_downlinks_are_shaped_apart_and_can_be_changed() -> None:
    with open_lab([Link(up_mbit=10, down_mbit=0), Link(up_mbit=30, down_mbit=0)]) as lab:
        assert 7.5 < mbit(lab, 0, 1) < 10.5
        assert 20 < mbit(lab, 1, 0) < 32
        lab.set(0, Link(up_mbit=10, down_mbit=8))
        assert 6 < mbit(lab, 1, 0) < 8.5


def test_delay_down_links_and_peers_that_take_no_connection() -> None:
    with open_lab([Link(one_way_ms=40), Link(one_way_ms=10)]) as lab:
        with listening(lab, 1) as receiver:
            assert 0.099 < float(lab.run(0, *python(CONNECT, lab.address(1), "5"))) < 0.3
            receiver.kill()
        for closed in (replace(lab.links[1], down=True), replace(lab.links[1], inbound=False)):
            lab.set(1, closed)
            with listening(lab, 1) as receiver:
                with pytest.raises(subprocess.CalledProcessError):
                    lab.run(0, *python(CONNECT, lab.address(1), "1.5"))
                receiver.kill()
        with listening(lab, 0) as receiver:  # outbound connections are fine
            assert float(lab.run(1, *python(CONNECT, lab.address(0), "5"))) > 0.099
            receiver.kill()


def test_loss_slows_and_does_not_stop() -> None:
    with open_lab([Link(up_mbit=20, one_way_ms=10, loss_percent=2), Link(one_way_ms=10)], "reno") as lab:
        assert 0.2 < mbit(lab, 0, 1, 400_000) < 15


def test_nothing_is_left() -> None:
    with open_lab([Link(), Link()]) as lab:
        holders = list(lab._holders)
    time.sleep(0)
    left = subprocess.run(["ps", "-o", "pid=", "-p", ",".join(map(str, holders))], capture_output=True, text=True)
    assert left.stdout.strip() == ""
