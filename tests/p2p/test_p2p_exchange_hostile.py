"""Peers who want to be served, and mean ill: they have their share of us, and others have theirs."""

import gc
import tracemalloc
from itertools import count

import pytest
import trio
from test_p2p_exchange import PIECE, Swarm, content, conversation, news_of_all

from p2p.errors import ProtocolViolation, StreamClosed
from p2p.exchange import PROTOCOL
from p2p.exchange_settings import BUSY
from p2p.lane import Hello
from p2p.manifest import full_bitmap
from p2p.testing import Link
from p2p.watchlists import WatchLists
from p2p.wire import receive_frame, send_bytes, send_frame

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
                await send_frame(stream, {"watch": IDS, "list": 1})
        held_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held_bytes < 4 << 20
    assert not a.violations


@pytest.mark.parametrize(
    "frames",
    [
        [{"want": "a" * 64, "padding": b"x" * 2000}],
        [{"watch": IDS, "list": 1}, {"hello": True}],
        [{"watch": IDS}],
        [{"hello": True, "x": IDS}],
    ],
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
            await send_frame(first, {"watch": blob_ids, "list": 1})
            assert "news" in await receive_frame(first)
            await send_frame(second, {"watch": blob_ids, "list": 1})
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


def holder_that(swarm: Swarm, name: str, manifest, have: bytes, give):
    """A holder that tells of `have` and lets `give(stream, piece, number of its stream)` answer for pieces."""
    streams = count()

    async def signs_of_life(stream, lists):
        while True:
            await trio.sleep(2)
            await send_frame(stream, {"news": [], "list": lists[-1]})

    async def handler(stream):
        number, lists = next(streams), []
        async with trio.open_nursery() as lives:
            while True:
                request = await receive_frame(stream)
                if "watch" in request:
                    lists.append(request["list"])
                    await send_frame(stream, news_of_all(request, have))
                    lives.start_soon(signs_of_life, stream, lists)
                elif "want" in request:
                    await send_frame(stream, {"manifest": manifest.as_message(), "have": have})
                elif "piece" in request:
                    await give(stream, request["piece"], number)
                elif "hello" in request:
                    await send_frame(stream, {"ok": True})

    async def quiet(stream):
        try:
            await handler(stream)
        except* StreamClosed:
            pass

    return swarm.network.transport(name, Link(0.001)).handle(PROTOCOL, quiet)


async def test_a_piece_withheld_on_one_lane_is_asked_of_another_while_the_rest_comes(swarm, autojump_clock):
    a, c = await swarm.peer("A"), await swarm.peer("C", first_window_bytes=100 * PIECE)
    blob_id = a.give(content(300))
    manifest = a.store.manifest(blob_id)
    lanes, held_back = {}, []

    async def give(stream, piece, number):
        first = lanes.setdefault(number, not lanes)
        if first:
            held_back.append(piece)
            await trio.sleep_forever()
        await trio.sleep(0.3)
        await send_bytes(stream, content(300)[piece * PIECE :][:PIECE], BUSY)

    async def give_all(stream, piece, number):
        await send_bytes(stream, content(300)[piece * PIECE :][:PIECE], BUSY)

    await holder_that(swarm, "miser", manifest, full_bitmap(300), give)
    came = {}
    c.exchange.on_bytes = lambda way, peer, blob_id, size: came.setdefault(peer, trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(c.fetch, blob_id, "miser", "honest")
        await trio.sleep(1)
        have = bytearray(38)
        have[held_back[0] // 8] = 1 << held_back[0] % 8
        await holder_that(swarm, "honest", manifest, bytes(have), give_all)
        await trio.sleep(20)
        assert came["honest"] < 10
        nursery.cancel_scope.cancel()


async def test_holders_that_only_give_signs_of_life_make_room_for_others(swarm, autojump_clock):
    a, c = await swarm.peer("A"), await swarm.peer("C", max_holders=4)
    blob_id = a.give(content(30))

    async def give(stream, piece, number):
        await trio.sleep_forever()

    squatters = [f"squatter-{number}" for number in range(4)]
    for name in squatters:
        await holder_that(swarm, name, a.store.manifest(blob_id), full_bitmap(30), give)
    async with trio.open_nursery() as nursery:
        everybody = [*squatters]
        nursery.start_soon(lambda: c.exchange.fetch(blob_id, lambda: everybody, max_bytes=1 << 30))
        await trio.sleep(5)
        everybody.append("A")
    assert trio.current_time() < 40
    assert c.exchange.reputation.penalty("squatter-0") > 0.5


async def test_a_holder_cannot_make_us_remember_much_of_blobs_we_know_nothing_of(swarm, autojump_clock):
    c = await swarm.peer("C")
    told = []

    async def handler(stream):
        request = await receive_frame(stream)
        if "watch" not in request:
            await trio.sleep_forever()
        for place, blob_id in enumerate(request["watch"]):
            await send_frame(stream, {"news": [[place, bytes(60_000)]], "list": request["list"]})
            told.append(blob_id)
        await trio.sleep(1)
        await send_frame(stream, {"news": [[0, bytes(70_000)]], "list": request["list"]})
        await trio.sleep_forever()

    await swarm.network.transport("teller").handle(PROTOCOL, handler)
    async with trio.open_nursery() as nursery:
        for blob_id in IDS[:100]:
            nursery.start_soon(lambda b=blob_id: c.exchange.fetch(b, lambda: ["teller"], max_bytes=1 << 30))
        await trio.sleep(1)
        assert len(told) == 100
        (session,) = c.exchange._fetching._sessions.values()
        assert 0 < sum(map(len, session.have.values())) <= 1 << 20
        assert sum(map(bool, (one.offers for one in c.exchange._fetching.downloads.values()))) < 20
        assert not c.violations
        await trio.sleep(2)
        assert [peer for peer, _ in c.violations] == ["teller"]
        nursery.cancel_scope.cancel()


async def test_a_cancel_that_takes_long_to_send_is_not_cut_short(swarm, autojump_clock):
    """The next question would begin in the middle of its frame, and the holder ban us for it."""
    a, c = await swarm.peer("A"), await swarm.peer("C")
    blob_id, got = a.give(content(2)), []

    async def give(stream, piece, number):
        got.extend([await receive_frame(stream) for _ in range(3)])
        await trio.sleep_forever()

    await holder_that(swarm, "slow", a.store.manifest(blob_id), full_bitmap(2), give)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(c.fetch, blob_id, "slow")
        await trio.sleep(1)
        (session,) = c.exchange._fetching._sessions.values()
        lane = session._lanes[-1]
        send_all = lane.stream.send_all

        async def send_slowly(data):
            await send_all(data[:5])
            await trio.sleep(3)
            await send_all(data[5:])

        lane.stream.send_all = send_slowly
        session.cancel(blob_id, lane.asked[-1].piece)
        await trio.sleep(1.5)
        await lane.ask(Hello())
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert [next(iter(one)) for one in got] == ["piece", "cancel", "hello"]


async def test_nothing_is_said_to_a_holder_that_just_died(swarm, autojump_clock):
    """Another takes its pieces over in the same moment."""
    a, c = await swarm.peer("A"), await swarm.peer("C")
    blob_id = a.give(content(2))

    async def give(stream, piece, number):
        await trio.sleep_forever()

    await holder_that(swarm, "dying", a.store.manifest(blob_id), full_bitmap(2), give)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(c.fetch, blob_id, "dying")
        await trio.sleep(1)
        (session,) = c.exchange._fetching._sessions.values()
        asked = session._lanes[-1].asked[-1]
        swarm.network.cut("dying")
        await trio.sleep(1)
        session.cancel(blob_id, asked.piece)
        nursery.cancel_scope.cancel()
    assert (blob_id, asked.piece) in session.cancelled


async def test_a_holder_may_let_us_wait_for_a_turn_of_ours(swarm, autojump_clock):
    """What has not begun to come takes no room, and its patience has not begun either."""
    a, c = await swarm.peer("A"), await swarm.peer("C")
    blob_id, streams = a.give(content(2)), set()

    async def give(stream, piece, number):
        streams.add(number)
        assert not c.exchange._fetching._budget._held
        await trio.sleep(40)
        await send_bytes(stream, content(2)[piece * PIECE :][:PIECE], BUSY)

    await holder_that(swarm, "crowded", a.store.manifest(blob_id), full_bitmap(2), give)
    assert await c.fetch(blob_id, "crowded", deadline_seconds=100) == content(2)
    assert len(streams) == 1


@pytest.mark.parametrize(("frames", "is_violation"), [(4000, True), (60, False)])
async def test_a_holder_that_never_stops_telling_is_left(swarm, autojump_clock, frames, is_violation):
    a, c = await swarm.peer("A"), await swarm.peer("C")
    blob_id = a.give(content(30))

    async def handler(stream):
        request = await receive_frame(stream)
        if "watch" in request:
            for _ in range(frames):
                await send_frame(stream, {"news": [[0, bytes(4)]], "list": request["list"], "x": bytes(60_000)})
                await trio.sleep(0.01)
        await trio.sleep_forever()

    await swarm.network.transport("teller").handle(PROTOCOL, handler)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: c.exchange.fetch(blob_id, lambda: ["teller"], max_bytes=1 << 30))
        await trio.sleep(8)
        assert [peer for peer, _ in c.violations] == ["teller"] * is_violation
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "news",
    [
        {"news": []},
        {"news": [[1, b"\3"]], "list": 1},  # of one blob
        {"news": [[-1, b"\3"]], "list": 1},
        {"news": [["a" * 64, b"\3"]], "list": 1},
        {"news": [], "list": 2},  # which nobody asked for
        {"news": [], "list": 0},
    ],
)
async def test_news_of_no_list_or_of_no_place_in_it_are_violations(swarm, autojump_clock, news):
    a, c = await swarm.peer("A", Link(0.5)), await swarm.peer("C")
    blob_id = a.give(content(2))

    async def handler(stream):
        request = await receive_frame(stream)
        if "watch" in request:
            await send_frame(stream, news)
        await trio.sleep_forever()

    await swarm.network.transport("teller").handle(PROTOCOL, handler)
    assert await c.fetch(blob_id, "teller", "A") == content(2)
    assert [peer for peer, _ in c.violations] == ["teller"]


async def test_news_are_of_the_list_they_name(swarm, autojump_clock):
    """Another blob is wanted while news of the first list are under way: their places are those of that list."""
    a, c = await swarm.peer("A"), await swarm.peer("C")
    blobs = sorted(((a.give(content(pieces)), pieces) for pieces in (2, 3)), reverse=True)  # the second goes in front
    manifests = {blob_id: a.store.manifest(blob_id) for blob_id, _ in blobs}

    async def handler(stream):
        while True:
            request = await receive_frame(stream)
            if "watch" in request:
                if len(request["watch"]) == 2:
                    first = {"news": [[0, full_bitmap(blobs[0][1])]], "list": request["list"] - 1}
                    await send_frame(stream, first)
                    both = [[place, full_bitmap(manifests[one].pieces)] for place, one in enumerate(request["watch"])]
                    await send_frame(stream, {"news": both, "list": request["list"]})
            elif "want" in request:
                manifest = manifests[request["want"]]
                have = full_bitmap(manifest.pieces)
                await send_frame(stream, {"manifest": manifest.as_message(), "have": have})
            elif "piece" in request:
                await send_bytes(stream, a.store.read_piece(request["of"], request["piece"]), BUSY)
            else:
                await send_frame(stream, {"ok": True})

    await swarm.network.transport("holder").handle(PROTOCOL, handler)
    async with trio.open_nursery() as nursery:
        for blob_id, pieces in blobs:
            nursery.start_soon(lambda b=blob_id, p=pieces: _fetched(c, b, content(p)))
            await trio.sleep(1)
    assert not c.violations


async def _fetched(peer, blob_id, expected):
    assert await peer.fetch(blob_id, "holder") == expected


async def test_a_holder_that_says_nothing_is_sent_few_lists(autojump_clock):
    lists = WatchLists()
    with trio.move_on_after(5) as patience:
        for number in range(100):
            await lists.room()
            lists.next([f"{number}"])
    assert patience.cancelled_caught and number < 50
    assert lists.named(number) == [f"{number - 1}"]  # numbers begin at 1
    with pytest.raises(ProtocolViolation, match="before the last"):
        lists.named(number - 1)
    with trio.fail_after(1):
        await lists.room()


async def test_a_manifest_waits_behind_no_piece_and_is_asked_of_a_holder_once(swarm, autojump_clock, nursery):
    a, c = await swarm.peer("A"), await swarm.peer("C")
    first, second = a.give(content(30)), a.give(content(3, seed=1))
    wants, numbers = [], count()

    async def handler(stream):
        number = next(numbers)
        while True:
            request = await receive_frame(stream)
            if "watch" in request:
                pieces = {first: 30, second: 3}
                news = [[place, full_bitmap(pieces[one])] for place, one in enumerate(request["watch"])]
                while True:  # news of the newest list alone: this one tells all there is at once
                    await send_frame(stream, {"news": news, "list": request["list"]})
                    news = []
                    with trio.move_on_after(2):
                        request = await receive_frame(stream)
                        news = [[place, full_bitmap(pieces[one])] for place, one in enumerate(request["watch"])]
            elif "want" in request:
                wants.append((request["want"], number, trio.current_time()))
                if request["want"] == first:
                    offer = {"manifest": a.store.manifest(first).as_message(), "have": full_bitmap(30)}
                    await send_frame(stream, offer)
                else:
                    await trio.sleep_forever()
            elif "piece" in request:
                await trio.sleep(9)
                await send_bytes(stream, a.store.read_piece(first, request["piece"]), BUSY)
            else:
                await send_frame(stream, {"ok": True})

    await swarm.network.transport("holder").handle(PROTOCOL, handler)
    nursery.start_soon(lambda: c.exchange.fetch(first, lambda: ["holder"], max_bytes=1 << 30))
    await trio.sleep(5)
    began = trio.current_time()
    nursery.start_soon(lambda: c.exchange.fetch(second, lambda: ["holder"], max_bytes=1 << 30))
    await trio.sleep(8)
    assert [blob_id for blob_id, _, _ in wants] == [first, second]
    assert wants[0][1] != wants[1][1] and wants[1][2] - began < 3
    nursery.cancel_scope.cancel()
