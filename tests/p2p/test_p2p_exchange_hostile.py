"""Peers who want to be served, and mean ill: they have their share of us, and others have theirs."""

import gc
import tracemalloc

import pytest
import trio
from test_p2p_exchange import PIECE, Swarm, content, conversation

from p2p.errors import StreamClosed
from p2p.testing import Link
from p2p.wire import receive_frame, send_frame

IDS = [f"{number:064x}" for number in range(2048)]


@pytest.fixture
def swarm(nursery, tmp_path):
    return Swarm(nursery, tmp_path)


async def test_requests_that_wait_take_little_memory(swarm, autojump_clock):
    a = await swarm.peer("A", Link(0.001))
    blob_id = a.give(content(200))
    gc.collect()
    tracemalloc.start()
    async with conversation(swarm, "A") as stream:
        with trio.move_on_after(5):
            for index in range(200):  # nobody reads them
                await send_frame(stream, {"piece": index, "of": blob_id})
            for _ in range(40):
                await send_frame(stream, {"watch": IDS})
        held_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held_bytes < 4 << 20
    assert not a.violations


@pytest.mark.parametrize(
    "frames",
    [[{"want": "a" * 64, "padding": b"x" * 2000}], [{"watch": IDS}, {"hello": True}], [{"hello": True, "x": IDS}]],
)
async def test_long_requests_but_lists_and_questions_after_a_list_are_violations(swarm, autojump_clock, frames):
    a = await swarm.peer("A")
    async with conversation(swarm, "A") as stream:
        with pytest.raises(StreamClosed):
            for frame in frames:
                await send_frame(stream, frame)
            while True:
                await receive_frame(stream)
    assert len(a.violations) == 1


async def test_a_peer_may_watch_on_few_streams(swarm, autojump_clock):
    a = await swarm.peer("A", watches_per_peer=1)
    for blob_ids in (IDS, IDS[:1]):
        async with conversation(swarm, "A") as first, conversation(swarm, "A") as second:
            await send_frame(first, {"watch": blob_ids})
            assert "news" in await receive_frame(first)
            await send_frame(second, {"watch": blob_ids})
            assert await receive_frame(second) == {"busy": True}
        await trio.sleep(10)
    assert not a.violations


async def test_strangers_who_read_slowly_do_not_keep_peers_we_know_waiting(swarm, autojump_clock):
    a, b = await swarm.peer("A", Link(0.01, 100 * PIECE), send_budget_bytes=16 * PIECE), await swarm.peer("B")
    blob_id = a.give(content(200))
    a.exchange.admit = "B".__contains__

    async def read_slowly(name):
        async with conversation(swarm, "A", name) as stream:
            for index in range(100):
                await send_frame(stream, {"piece": index, "of": blob_id})
            with pytest.raises(StreamClosed):
                while await stream.receive_some(PIECE // 4):  # noqa: ASYNC110
                    await trio.sleep(5)
                raise StreamClosed

    async with trio.open_nursery() as strangers:
        for number in range(24):
            strangers.start_soon(read_slowly, f"stranger-{number}")
        await trio.sleep(30)
        with trio.fail_after(10):
            assert await b.fetch(blob_id, "A") == content(200)
        strangers.cancel_scope.cancel()
