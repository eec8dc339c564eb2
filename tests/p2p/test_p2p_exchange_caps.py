"""Caps and priorities of the exchange, end to end in memory."""

import trio
from test_p2p_exchange import PIECE, Swarm, content, conversation

from p2p.exchange_settings import MAX_MANIFEST_FRAME_BYTES, Priority
from p2p.testing import Link
from p2p.wire import receive_frame, send_frame

RATE = 50 * PIECE


def adopted(peer, size_bytes, seed, piece_bytes):
    (peer.directory / "new").write_bytes(content(size_bytes / PIECE, seed))
    return peer.store.adopt(peer.directory / "new", piece_bytes)


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


async def test_acknowledgements_of_what_comes_count_for_the_uplink_cap(nursery, tmp_path, autojump_clock):
    """On a link with a slow uplink they are a part of it that nobody would account for."""
    a = await Swarm(nursery, tmp_path).peer("A")
    a.exchange.set_limits(uplink_bytes_per_second=1000.0)
    a.exchange._count_received("B", "x", 100_000)
    start = trio.current_time()
    await a.exchange._uplink.ready()
    assert 1.5 < trio.current_time() - start < 2.0


async def test_under_an_uplink_cap_strangers_manifests_do_not_stop_pieces(nursery, tmp_path, autojump_clock):
    swarm = Swarm(nursery, tmp_path)
    a, b = await swarm.peer("A", Link(0.02)), await swarm.peer("B", Link(0.02))
    large, blob_id = a.give(content(4000)), a.give(content(200, seed=1))  # the first has a manifest of 32 pieces' size
    a.exchange.admit = {"B"}.__contains__
    a.exchange.set_limits(uplink_bytes_per_second=RATE)

    async def insist(name):
        async with conversation(swarm, "A", name) as stream:
            while True:
                await send_frame(stream, {"want": large})
                await receive_frame(stream, MAX_MANIFEST_FRAME_BYTES)

    async with trio.open_nursery() as strangers:
        for number in range(4):
            strangers.start_soon(insist, f"stranger-{number}")
        await trio.sleep(5)
        start = trio.current_time()
        assert await b.fetch(blob_id, "A", deadline_seconds=30) == content(200, seed=1)
        assert trio.current_time() - start < 4 + 4  # alone it takes 4 s
        strangers.cancel_scope.cancel()


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


async def test_a_dataset_that_is_served_does_not_delay_contributions(nursery, tmp_path, autojump_clock):
    """A joiner pulls it from the one who must give its contribution to others: only the server knows both."""
    swarm = Swarm(nursery, tmp_path)
    rate, piece = 4 << 20, 64 << 10
    a, joiner, peer = await swarm.peer("A", Link(0.02, rate)), await swarm.peer("J"), await swarm.peer("B")
    dataset, contribution = [adopted(a, size, seed, piece) for seed, size in ((0, 40 << 20), (1, 24 << 20))]
    a.exchange.priority_of = {dataset: Priority.DATASET}.get
    async with trio.open_nursery() as fetches:
        fetches.start_soon(lambda: joiner.fetch(dataset, "A", deadline_seconds=None))
        await trio.sleep(2)
        start = trio.current_time()
        await peer.fetch(contribution, "A", deadline_seconds=None)
        assert trio.current_time() - start < 6 + 2.5  # alone it takes 6 s, side by side 12 s
        assert joiner.store.path(dataset) is None
        fetches.cancel_scope.cancel()


async def test_who_needs_a_blob_sooner_hurries_the_fetch_that_is_under_way(nursery, tmp_path, autojump_clock):
    swarm = Swarm(nursery, tmp_path)
    a, b = await swarm.peer("A", Link(0.02, RATE)), await swarm.peer("B")
    ends: dict[str, float] = {}

    async def fetch(blob_id, priority):
        await b.fetch(blob_id, "A", deadline_seconds=None, priority=priority)
        ends[blob_id] = trio.current_time()

    first, second = a.give(content(400)), a.give(content(400, seed=1))
    async with trio.open_nursery() as fetches:
        for blob_id in (first, second):
            fetches.start_soon(fetch, blob_id, Priority.SNAPSHOT)
        await trio.sleep(1)
        fetches.start_soon(b.fetch, second, "A")  # as a contribution
    assert ends[second] < 11 < 15 < ends[first]


async def test_under_a_downlink_cap_what_matters_more_comes_first(nursery, tmp_path, autojump_clock):
    swarm = Swarm(nursery, tmp_path)
    (c, *holders) = [await swarm.peer(name, Link(0.02)) for name in "CADEF"]
    dataset, contribution = holders[0].give(content(2000)), holders[1].give(content(200, seed=1))
    for holder in holders:
        holder.give(content(2000))
    c.exchange.set_limits(downlink_bytes_per_second=RATE)
    names = [holder.name for holder in holders]
    async with trio.open_nursery() as fetches:
        fetches.start_soon(lambda: c.fetch(dataset, *names, deadline_seconds=None, priority=Priority.DATASET))
        await trio.sleep(2)
        start = trio.current_time()
        await c.fetch(contribution, "A", "D", deadline_seconds=None)
        assert trio.current_time() - start < 4 + 1.5  # alone it takes 4 s
        fetches.cancel_scope.cancel()
