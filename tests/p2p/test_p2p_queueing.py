"""A queue before the uplink is seen in the kernel's round trips, and drained."""

import math
import socket
import sys
import time
from dataclasses import replace

import pytest
import trio

from p2p.flows import Flow, tcp_flows
from p2p.pace import Cap
from p2p.queueing import UplinkQueue, queue_seconds, share_for

FLOW = Flow(1, False, 0.0, 0.05, 0.05, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="sock_diag is Linux's")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_tells_of_our_connections_and_of_no_others(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        assert tcp_flows(host, port) == []
        with socket.create_connection((host, port)) as dialled, server.accept()[0] as accepted:
            (one,) = tcp_flows(host, port)
            (other,) = tcp_flows(host, dialled.getsockname()[1])
            assert one.key != other.key
            accepted.sendall(bytes(1000))
            assert dialled.recv(1000, socket.MSG_WAITALL)
            time.sleep(0.01)
            (again,) = tcp_flows(host, port)
            assert again.key == one.key and again.acknowledged and again.sent_again_bytes == 0
            assert 0 < again.least_round_trip_seconds <= again.round_trip_seconds < 0.5
            assert 0.005 < again.quiet_seconds < 5
        assert [flow for flow in tcp_flows(host, port) if flow.key == one.key] == []


def test_the_least_delayed_flow_that_sends_tells_the_length_of_the_queue():
    far_queue, ours = replace(FLOW, round_trip_seconds=0.35), replace(FLOW, round_trip_seconds=0.11)
    assert queue_seconds([far_queue, ours]) == pytest.approx(0.06)
    assert queue_seconds([far_queue, ours, replace(FLOW, acknowledged=True)]) == pytest.approx(0.06)
    assert queue_seconds([far_queue, replace(FLOW, quiet_seconds=3.0)]) == pytest.approx(0.3)
    assert queue_seconds([]) == 0.0


def test_more_is_yielded_the_longer_the_queue_up_to_a_bound():
    shares = [share_for(seconds) for seconds in (0.0, 0.03, 0.1, 0.2, 0.5, 10.0)]
    assert shares[:2] == [1.0, 1.0] and shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(0.7)
    assert share_for(0.3, target_seconds=0.3) == 1.0


class _Modem:
    """A link of `rate` with a queue. It drops nothing."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.passed_bytes = 0.0
        self._free_at = -math.inf

    @property
    def queue_seconds(self) -> float:
        return max(self._free_at - trio.current_time(), 0.0)

    def put(self, size_bytes: int) -> None:
        self._free_at = max(self._free_at, trio.current_time()) + size_bytes / self.rate
        self.passed_bytes += size_bytes

    def flows(self) -> list[Flow]:
        return [replace(FLOW, round_trip_seconds=FLOW.least_round_trip_seconds + self.queue_seconds)]


@pytest.mark.parametrize(("rate", "told"), [(1e6, 0.98), (1e6, 1.0), (1e6, 1.1), (25e3, 1.0)])
async def test_a_full_queue_is_drained_and_the_link_stays_busy(autojump_clock, nursery, rate, told):
    """Whether the operator says a little less than the link can, just that, or too much; a slow link, too, where one
    part of a piece takes longer than a queue may."""
    modem, cap = _Modem(rate), Cap(told * rate * 1.04)  # the modem counts no headers
    modem.put(int(0.15 * rate))

    async def send():
        while True:
            await cap.take(int(cap.part_bytes))
            modem.put(int(cap.part_bytes))

    nursery.start_soon(send)
    nursery.start_soon(UplinkQueue(cap, modem.flows).keep_short)
    await trio.sleep(12)
    waits, passed_bytes = [], modem.passed_bytes
    for _ in range(600):
        await trio.sleep(0.1)
        waits.append(modem.queue_seconds)
    assert max(waits) < cap.part_bytes / rate + (0.1 if told <= 1.0 else 0.3)
    assert (modem.passed_bytes - passed_bytes) / 60 > 0.97 * rate


async def test_what_is_sent_again_is_paid_for(autojump_clock, nursery):
    cap, sent_again = Cap(1000.0), 50_000
    queue = UplinkQueue(cap, lambda: [replace(FLOW, sent_again_bytes=sent_again)])
    nursery.start_soon(queue.keep_short)
    await trio.sleep(1.5)
    await cap.ready()
    assert trio.current_time() == 1.5, "it was sent before anybody looked"
    assert queue.seconds == 0.0
    sent_again += 2000
    await trio.sleep(1)
    await cap.ready()
    assert 3.9 < trio.current_time() < 4.1


async def test_without_a_cap_nobody_asks_the_kernel_and_without_an_answer_the_cap_stays(autojump_clock, nursery):
    cap, asked = Cap(), 0

    def flows():
        nonlocal asked
        asked += 1
        raise OSError("this kernel tells nothing")

    queue = UplinkQueue(cap, flows)
    nursery.start_soon(queue.keep_short)
    await trio.sleep(10)
    assert asked == 0
    cap.set(1000.0)
    await trio.sleep(10)
    assert asked == 1 and queue.seconds is None
    cap.ease(0.7)
    await trio.sleep(60)
    assert asked == 2 and cap.allowed == 1000.0
    await cap.take(1000)
    start = trio.current_time()
    await cap.take(1000)
    assert 0.9 < trio.current_time() - start < 1.1
