"""Caps and priorities of the exchange, end to end in memory."""

import trio
from test_p2p_exchange import PIECE, Swarm, content

from p2p.exchange_settings import Priority
from p2p.testing import Link

RATE = 50 * PIECE


async def test_an_uplink_cap_holds_within_5_percent(nursery, tmp_path, autojump_clock):
    swarm = Swarm(nursery, tmp_path)
    a, b, c = [await swarm.peer(name, Link(0.02)) for name in "ABC"]
    blob_id = a.give(content(1000))
    a.exchange.set_limits(uplink_bytes_per_second=RATE)
    start = trio.current_time()
    async with trio.open_nursery() as fetches:
        for peer in (b, c):
            fetches.start_soon(lambda p=peer: p.fetch(blob_id, "A", deadline_seconds=None))
    rate = sum(a.exchange.sent_bytes.values()) / (trio.current_time() - start)
    assert 0.95 < rate / RATE < 1.05
    assert a.exchange.limits == (RATE, None)
    assert 0.9 < a.exchange.best_rates[0] / RATE < 1.15


async def test_a_downlink_cap_holds_within_5_percent(nursery, tmp_path, autojump_clock):
    swarm = Swarm(nursery, tmp_path)
    a, b, c = [await swarm.peer(name, Link(0.02)) for name in "ABC"]
    blob_id = a.give(content(1000))
    b.give(content(1000))
    c.exchange.set_limits(downlink_bytes_per_second=RATE)
    start = trio.current_time()
    await c.fetch(blob_id, "A", "B", deadline_seconds=None)
    rate = c.exchange.received_bytes.total() / (trio.current_time() - start)
    assert 0.95 < rate / RATE < 1.05


async def test_contributions_overtake_snapshots(nursery, tmp_path, autojump_clock):
    swarm = Swarm(nursery, tmp_path)
    a, b = await swarm.peer("A", Link(0.02, RATE)), await swarm.peer("B")
    big, small = a.give(content(1000)), a.give(content(50, seed=1))
    ends: dict[str, float] = {}

    async def fetch(name, blob_id, priority):
        await b.fetch(blob_id, "A", deadline_seconds=None, priority=priority)
        ends[name] = trio.current_time()

    async with trio.open_nursery() as fetches:
        fetches.start_soon(fetch, "snapshot", big, Priority.SNAPSHOT)
        await trio.sleep(5)
        fetches.start_soon(fetch, "contribution", small, Priority.CONTRIBUTION)
    assert ends["contribution"] < 5 + 1 + 3  # its own second, and what was in sockets before it came
    assert ends["snapshot"] > 20
