"""The exchange over the in-memory network, on a clock that jumps."""

import errno
import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from p2p.blobs import BlobStore
from p2p.errors import BlobTooLarge, BlobUnavailable, DiskFull, StreamClosed
from p2p.exchange import PROTOCOL, Exchange, ExchangeSettings
from p2p.exchange_settings import BUSY, IDLE
from p2p.manifest import MIN_PIECE_BYTES, Manifest, full_bitmap
from p2p.testing import Link, MemoryNetwork, inline
from p2p.wire import receive_bytes, receive_frame, send_bytes, send_frame

PIECE = MIN_PIECE_BYTES
CAP = 64 << 20


def content(pieces: float, seed: int = 0) -> bytes:
    return blake3(seed.to_bytes(4, "little")).digest(int(pieces * PIECE))


class Peer:
    def __init__(self, network: MemoryNetwork, name: str, directory: Path, link: Link, settings: ExchangeSettings):
        self.name, self.directory, self.network = name, directory, network
        directory.mkdir(exist_ok=True)
        self.transport = network.transport(name, link)
        self.store = BlobStore(directory / "store")
        self.exchange = Exchange(self.transport, self.store, settings, offload=inline)
        self.violations: list[tuple[str, str]] = []
        self.exchange.on_violation = lambda peer, reason: self.violations.append((peer, reason))

    def give(self, data: bytes) -> str:
        (self.directory / "new").write_bytes(data)
        return self.store.adopt(self.directory / "new", PIECE)

    async def fetch(self, blob_id: str, *holders: str, deadline_seconds: float | None = 300, **options) -> bytes:
        options = {"max_bytes": CAP, "deadline_seconds": deadline_seconds, **options}
        path = await self.exchange.fetch(blob_id, lambda: holders, **options)
        return path.read_bytes()


class Swarm:
    def __init__(self, nursery: trio.Nursery, tmp_path: Path):
        self.network, self._nursery, self._tmp_path = MemoryNetwork(nursery), nursery, tmp_path

    async def peer(self, name: str, link: Link | None = None, **settings) -> Peer:
        settings = ExchangeSettings(**{"first_window_bytes": 4 * PIECE, **settings})
        peer = Peer(self.network, name, self._tmp_path / name, link or Link(0.01), settings)
        await peer.exchange.start(self._nursery)
        return peer


@pytest.fixture
def swarm(nursery, tmp_path):
    return Swarm(nursery, tmp_path)


def news_of_all(request, have: bytes):
    """The answer of a holder that has `have` of whatever is watched."""
    return {"news": [[place, have] for place in range(len(request["watch"]))], "list": request["list"]}


async def impostor(swarm: Swarm, name: str, manifest: Manifest, piece, have: bytes | None = None):
    """A holder whose pieces come from `piece(index) -> bytes`."""

    async def handler(stream):
        while True:
            request = await receive_frame(stream)
            if "want" in request:
                offer = {"manifest": manifest.as_message(), "have": have or full_bitmap(manifest.pieces)}
                await send_frame(stream, offer)
            elif "watch" in request:
                await send_frame(stream, news_of_all(request, have or full_bitmap(manifest.pieces)))
            elif "piece" in request:
                await send_bytes(stream, piece(request["piece"]), BUSY)
            else:
                await send_frame(stream, {"ok": True, "have": have or full_bitmap(manifest.pieces)})

    transport = swarm.network.transport(name, Link(0.001))
    await transport.handle(PROTOCOL, handler)


@asynccontextmanager
async def conversation(swarm: Swarm, peer: str, name: str = "probe"):
    stream = await swarm.network.transport(name).open(peer, PROTOCOL)
    try:
        yield stream
    finally:
        await stream.aclose()


async def test_a_blob_travels(swarm, autojump_clock):
    a, b = await swarm.peer("A"), await swarm.peer("B")
    blob_id = a.give(content(9.5))
    assert await b.fetch(blob_id, "A") == content(9.5)
    assert b.exchange.received_bytes == {"A": int(9.5 * PIECE)}
    assert a.exchange.sent_bytes == {"B": int(9.5 * PIECE)}
    assert await b.fetch(blob_id) == content(9.5)  # it is here now


async def test_an_empty_blob_travels(swarm, autojump_clock):
    a, b = await swarm.peer("A"), await swarm.peer("B")
    assert await b.fetch(a.give(b""), "A") == b""


async def test_five_peers_gather_all(swarm, autojump_clock):
    names = "ABCDE"
    peers = [await swarm.peer(name, Link(0.02, 20 * PIECE)) for name in names]
    blobs = {peer.name: peer.give(content(8, seed)) for seed, peer in enumerate(peers)}
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for peer in peers:
            for owner in names:
                nursery.start_soon(peer.fetch, blobs[owner], *(n for n in names if n != peer.name))
    for peer in peers:
        assert [peer.store.path(blobs[n]).read_bytes() for n in names] == [content(8, s) for s in range(5)]
        assert not peer.violations
    relayed = sum(sum(peer.exchange.sent_bytes.values()) for peer in peers) - 5 * 4 * 8 * PIECE
    assert 0 <= relayed < 5 * 4 * 8 * PIECE / 2  # each byte comes once, and little comes twice
    assert trio.current_time() - start < 3 * (4 * 8 * PIECE) / (20 * PIECE)


async def test_receivers_serve_on_what_they_have_so_far(swarm, autojump_clock):
    origin = await swarm.peer("A", Link(0.01, 4 * PIECE))
    blob_id = origin.give(content(40))
    names = "BCDE"
    receivers = [await swarm.peer(name, Link(0.01, 400 * PIECE)) for name in names]
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for peer in receivers:
            nursery.start_soon(peer.fetch, blob_id, "A", *(n for n in names if n != peer.name))
    took = trio.current_time() - start
    assert all(peer.store.path(blob_id) for peer in receivers)
    assert took < 0.75 * 4 * 40 / 4  # the origin alone would have to send it four times
    assert any(sum(peer.exchange.sent_bytes.values()) for peer in receivers)


async def test_a_holder_that_dies_mid_transfer_is_replaced(swarm, autojump_clock):
    a, b, c = [await swarm.peer(n, Link(0.01, 10 * PIECE)) for n in "ABC"]
    blob_id = a.give(content(30))
    b.give(content(30))

    def watch(direction, peer, blob_id, count):
        if peer == "A" and c.exchange.received_bytes["A"] == 3 * PIECE:
            swarm.network.cut("A")

    c.exchange.on_bytes = watch
    assert await c.fetch(blob_id, "A", "B", deadline_seconds=30) == content(30)
    assert not c.violations


async def test_a_holder_that_comes_back_is_taken_up_again(swarm, autojump_clock):
    a, c = await swarm.peer("A", Link(0.01, 10 * PIECE)), await swarm.peer("C")
    blob_id = a.give(content(30))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(c.fetch, blob_id, "A")
        await trio.sleep(1)
        swarm.network.cut("A")
        await trio.sleep(20)
        assert 0 < c.exchange.received_bytes["A"] < 30 * PIECE
        (await swarm.peer("A")).store.bitmap(blob_id)
    assert c.store.path(blob_id)
    assert c.exchange.received_bytes["A"] <= 31 * PIECE


@pytest.mark.parametrize("sign", ["named again", "speaks to us"])
async def test_a_sole_holder_is_taken_up_at_once_when_it_returns(swarm, autojump_clock, sign):
    a, c = await swarm.peer("A", Link(0.01, 10 * PIECE)), await swarm.peer("C", Link(0.01))
    blob_id, holders = a.give(content(60)), ["A"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: c.exchange.fetch(blob_id, lambda: holders, max_bytes=CAP))
        await trio.sleep(1)
        swarm.network.freeze("A")
        await trio.sleep(400)  # by now it waits for long between tries
        assert c.exchange._fetching._pauses["A"].failures >= 3
        if sign == "named again":
            holders.clear()
            await trio.sleep(2)
            swarm.network.thaw("A")
            holders.append("A")
        else:
            swarm.network.thaw("A")
            async with trio.open_nursery() as other:
                other.start_soon(lambda: a.exchange.fetch("0" * 64, lambda: ["C"], max_bytes=CAP))
                await trio.sleep(1)
                other.cancel_scope.cancel()
        returned = trio.current_time()
    assert trio.current_time() - returned < 10


async def test_a_frozen_holder_is_left_after_the_stall_timeout(swarm, autojump_clock):
    a, b, c = [await swarm.peer(n, Link(0.01, 10 * PIECE), stall_seconds=10) for n in "ABC"]
    blob_id = a.give(content(30))
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(c.fetch, blob_id, "A", "B")
        await trio.sleep(1)
        swarm.network.freeze("A")
        await trio.sleep(8)
        assert not c.store.path(blob_id)
        b.give(content(30))
    assert trio.current_time() - start < 25
    assert not c.violations
    assert c.exchange.reputation.penalty("A") > 0


async def test_a_late_piece_is_asked_of_another_before_the_stall_timeout(swarm, autojump_clock):
    a, b, c = [await swarm.peer(n, late_seconds=3, stall_seconds=1000, update_wait_seconds=1) for n in "ABC"]
    blob_id = a.give(content(4))
    b.give(content(4))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(c.fetch, blob_id, "A", "B")
        swarm.network.freeze("A")
    assert c.exchange.received_bytes["B"] == 4 * PIECE


async def test_a_holder_that_serves_many_is_not_asked_in_vain(swarm, autojump_clock):
    """It speaks, and its pieces take five seconds each: no reason to have them of others as well."""
    a, c = await swarm.peer("A"), await swarm.peer("C", first_window_bytes=PIECE)
    blob_id, sent = a.give(content(3)), []

    async def crowded(stream):
        while True:
            request = await receive_frame(stream)
            if "piece" in request:
                await trio.sleep(5)
                sent.append(request["piece"])
                await send_bytes(stream, a.store.read_piece(blob_id, request["piece"]), BUSY)
            elif "want" in request:
                manifest = a.store.manifest(blob_id).as_message()
                await send_frame(stream, {"manifest": manifest, "have": full_bitmap(3)})
            elif "watch" in request:
                await send_frame(stream, news_of_all(request, full_bitmap(3)))
                while True:
                    await trio.sleep(1)
                    await send_frame(stream, {"news": [], "list": request["list"]})
            else:
                await send_frame(stream, {"ok": True})

    for name in ("slow", "slower"):
        await swarm.network.transport(name).handle(PROTOCOL, crowded)
    assert await c.fetch(blob_id, "slow", "slower") == content(3)
    assert sorted(sent) == [0, 1, 2]


async def test_a_liar_is_reported_banned_and_replaced(swarm, autojump_clock):
    a, c = await swarm.peer("A", Link(0.5, 10 * PIECE)), await swarm.peer("C")
    blob_id = a.give(content(20))
    lie = lambda index: b"\0" * PIECE  # noqa: E731
    await impostor(swarm, "liar", a.store.manifest(blob_id), lie)
    assert await c.fetch(blob_id, "liar", "A") == content(20)
    assert [peer for peer, _ in c.violations] == ["liar"]
    assert "does not match its hash" in c.violations[0][1]
    assert c.exchange.reputation.is_banned("liar") and not c.exchange.reputation.is_banned("A")


@pytest.mark.parametrize(
    "change",
    [{"size": 3 * PIECE}, {"hashes": b"\1" * 64}, {"piece_bytes": 2 * PIECE}, {"piece_bytes": 1}, {"size": -1}],
)
async def test_a_forged_manifest_is_a_lie(swarm, autojump_clock, change):
    a, c = await swarm.peer("A", Link(0.5)), await swarm.peer("C")
    blob_id = a.give(content(2))
    forged = a.store.manifest(blob_id).as_message() | change

    async def handler(stream):
        while True:
            request = await receive_frame(stream)
            if "watch" in request:
                await send_frame(stream, news_of_all(request, b"\3"))
            else:
                await send_frame(stream, {"manifest": forged, "have": b"\3"} if "want" in request else {"ok": True})

    await swarm.network.transport("liar").handle(PROTOCOL, handler)
    assert await c.fetch(blob_id, "liar", "A") == content(2)
    assert [peer for peer, _ in c.violations] == ["liar"]


async def test_an_oversized_frame_is_a_violation(swarm, autojump_clock):
    a, c = await swarm.peer("A", Link(0.5)), await swarm.peer("C")
    blob_id = a.give(content(3))
    await impostor(swarm, "liar", a.store.manifest(blob_id), lambda index: b"\0" * (PIECE + 1))
    assert await c.fetch(blob_id, "liar", "A") == content(3)
    assert "exceeds" in c.violations[0][1]


@pytest.mark.parametrize("soup", [b"\xff" * 100, b"\0\0\0\5hello", b"\0\0\0\1\x80", b"\0\0\0\1\xc0", b""])
async def test_byte_soup_from_a_requester_bans_it_and_hurts_nobody(swarm, autojump_clock, soup):
    a, c = await swarm.peer("A"), await swarm.peer("C")
    blob_id = a.give(content(3))
    async with conversation(swarm, "A") as stream:
        if soup:
            await stream.send_all(soup)
            assert await stream.receive_some(100) == b""
    assert [peer for peer, _ in a.violations] == (["probe"] if soup else [])
    assert await c.fetch(blob_id, "A") == content(3)


@pytest.mark.parametrize(
    "request_frame", [{"want": "../x"}, {"want": "a" * 65}, {"piece": -1}, {"what": 1}, {"done": 1}]
)
async def test_requests_out_of_bounds_are_violations(swarm, autojump_clock, request_frame):
    a = await swarm.peer("A")
    async with conversation(swarm, "A") as stream:
        await send_frame(stream, request_frame)
        with pytest.raises(StreamClosed):
            await receive_frame(stream)
    assert len(a.violations) == 1
    async with conversation(swarm, "A") as stream:  # and it stays out
        with pytest.raises(StreamClosed):
            await send_frame(stream, {"done": True})
            await receive_frame(stream)


async def test_a_piece_past_the_end_is_a_violation_one_not_here_an_empty_frame(swarm, autojump_clock):
    a = await swarm.peer("A")
    blob_id = a.give(content(2))
    async with conversation(swarm, "A") as stream:
        await send_frame(stream, {"piece": 7})  # nothing was wanted yet
        assert await receive_bytes(stream, PIECE) == b""
        await send_frame(stream, {"want": blob_id})
        await send_frame(stream, {"piece": 1})
        await send_frame(stream, {"done": True})
        assert (await receive_frame(stream))["have"] == b"\3"
        assert await receive_bytes(stream, 1 + PIECE) == IDLE + content(2)[PIECE:]  # nobody else asks for anything
        assert await receive_frame(stream) == {"ok": True}
    async with conversation(swarm, "A") as stream:
        await send_frame(stream, {"want": blob_id})
        await receive_frame(stream)
        await send_frame(stream, {"piece": 2})
        with pytest.raises(StreamClosed):
            await receive_bytes(stream, PIECE)
    assert len(a.violations) == 1


async def test_a_withheld_blob_looks_absent_until_it_is_released(swarm, autojump_clock):
    a, b = await swarm.peer("A"), await swarm.peer("B")
    (a.directory / "mine").write_bytes(content(3))
    blob_id = await a.exchange.adopt(a.directory / "mine", PIECE, withheld=True)
    with pytest.raises(BlobUnavailable, match="within 60 s"):
        await b.fetch(blob_id, "A", deadline_seconds=60)
    async with conversation(swarm, "A") as stream:
        await send_frame(stream, {"want": blob_id})
        assert await receive_frame(stream) == {"absent": True}
        await send_frame(stream, {"piece": 0})
        assert await receive_bytes(stream, PIECE) == b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.fetch, blob_id, "A")
        await trio.sleep(30)
        assert b.exchange.received_bytes.total() == 0
        a.exchange.release(blob_id)
        released = trio.current_time()
    assert trio.current_time() - released < 6
    assert not a.violations and not b.violations


async def test_withholding_takes_effect_on_open_streams(swarm, autojump_clock):
    a = await swarm.peer("A")
    blob_id = a.give(content(3))
    async with conversation(swarm, "A") as stream:
        await send_frame(stream, {"want": blob_id})
        await receive_frame(stream)
        a.exchange.withhold(blob_id)
        await send_frame(stream, {"piece": 0})
        assert await receive_bytes(stream, PIECE) == b""
        await send_frame(stream, {"watch": [blob_id], "list": 7})
        assert await receive_frame(stream) == {"news": [], "list": 7}  # nothing to tell


async def test_a_deadline_keeps_what_came_and_a_restart_goes_on(swarm, autojump_clock):
    a, b = await swarm.peer("A", Link(0.01, 2 * PIECE)), await swarm.peer("B")
    blob_id = a.give(content(20))
    with pytest.raises(BlobUnavailable):
        await b.fetch(blob_id, "A", deadline_seconds=5)
    before = b.exchange.received_bytes["A"]
    assert 5 * PIECE <= before <= 11 * PIECE
    swarm.network.cut("B")
    again = await swarm.peer("B")
    assert await again.fetch(blob_id, "A") == content(20)
    assert again.exchange.received_bytes["A"] == 20 * PIECE - before


async def test_without_a_deadline_it_keeps_trying_and_asks_for_holders_anew(swarm, autojump_clock):
    a, b = await swarm.peer("A"), await swarm.peer("B")
    blob_id, holders = a.give(content(2)), ["nobody"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: b.exchange.fetch(blob_id, lambda: holders, max_bytes=CAP))
        await trio.sleep(3600)
        assert b.store.path(blob_id) is None
        holders.append("A")
        appeared = trio.current_time()
    assert trio.current_time() - appeared < 2


async def test_fetches_of_one_blob_share_a_download(swarm, autojump_clock):
    a, b = await swarm.peer("A", Link(0.01, 10 * PIECE)), await swarm.peer("B")
    blob_id = a.give(content(20))
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(b.fetch, blob_id, "A")
        await trio.sleep(1)
        held, size = b.exchange.progress()[blob_id]
        assert 0 < held < size == 20 * PIECE
    assert b.exchange.received_bytes["A"] == 20 * PIECE
    assert b.exchange.progress() == {}


async def test_when_the_first_gives_up_the_next_goes_on(swarm, autojump_clock):
    a, b = await swarm.peer("A", Link(0.01, 2 * PIECE)), await swarm.peer("B")
    blob_id, results = a.give(content(20)), []

    async def impatient():
        with pytest.raises(BlobUnavailable):
            await b.fetch(blob_id, "nobody", deadline_seconds=5)

    async def patient():
        results.append(await b.fetch(blob_id, "A"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        await trio.sleep(1)
        nursery.start_soon(patient)
    assert results == [content(20)]
    assert b.exchange.received_bytes["A"] <= 24 * PIECE  # what was on its way at the change came twice


async def test_a_holders_bad_disk_is_not_our_problem(swarm, autojump_clock):
    a, b, c = [await swarm.peer(n) for n in "ABC"]
    blob_id, corrupt = a.give(content(10)), []
    b.give(content(10))
    a.exchange.on_corrupt = corrupt.append
    with a.store.path(blob_id).open("r+b") as file:
        file.seek(5 * PIECE + 3)
        file.write(b"flip")
    got = await c.fetch(blob_id, "A", "B")
    assert got == content(10) and not c.violations
    # asked for by itself, the bad piece is noticed where it lies, and the rest is served on
    async with conversation(swarm, "A") as stream:
        await send_frame(stream, {"want": blob_id})
        await receive_frame(stream)
        await send_frame(stream, {"piece": 5})
        assert await receive_bytes(stream, PIECE) == b""
    assert set(corrupt) <= {blob_id} and a.store.path(blob_id) is None
    assert await a.fetch(blob_id, "B") == content(10)
    assert a.exchange.received_bytes["B"] == PIECE


async def test_a_piece_that_goes_bad_here_while_fetching_is_fetched_again(swarm, autojump_clock):
    a, b = await swarm.peer("A", Link(0.01, 5 * PIECE)), await swarm.peer("B")
    blob_id = a.give(content(20))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.fetch, blob_id, "A")
        await trio.sleep(2)
        partial = b.store.partial(a.store.manifest(blob_id))
        bad = next(index for index in range(20) if partial.has(index))
        with partial.path.open("r+b") as file:
            file.seek(bad * PIECE)
            file.write(b"flip")
        async with conversation(swarm, "B") as stream:
            await send_frame(stream, {"want": blob_id})
            await receive_frame(stream)
            await send_frame(stream, {"piece": bad})
            assert await receive_bytes(stream, PIECE) == b""
    assert b.store.path(blob_id).read_bytes() == content(20)


async def test_seeding_fetches_only_what_differs(swarm, autojump_clock, tmp_path):
    a, b = await swarm.peer("A"), await swarm.peer("B")
    old = bytearray(content(20))
    (tmp_path / "old").write_bytes(old)
    old[7 * PIECE + 5] ^= 1
    blob_id = a.give(bytes(old))
    assert await b.fetch(blob_id, "A", seed=tmp_path / "old") == old
    assert b.exchange.received_bytes["A"] == PIECE
    assert (tmp_path / "old").read_bytes() == content(20)


async def test_a_missing_seed_is_no_reason_to_fail(swarm, autojump_clock, tmp_path):
    a, b = await swarm.peer("A"), await swarm.peer("B")
    assert await b.fetch(a.give(content(2)), "A", seed=tmp_path / "none") == content(2)


async def test_a_full_disk_is_told_and_nothing_is_lost(swarm, autojump_clock, monkeypatch):
    a, b = await swarm.peer("A"), await swarm.peer("B")
    blob_id, real, room = a.give(content(10)), os.pwrite, [4]

    def limited(descriptor, data, offset):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", limited)
    with pytest.raises(DiskFull, match="free space"):
        await b.fetch(blob_id, "A")
    assert b.store.path(blob_id) is None
    room[0] = 100
    assert await b.fetch(blob_id, "A") == content(10)
    assert room[0] == 94


async def test_a_blob_larger_than_allowed_is_refused_but_nobody_banned(swarm, autojump_clock):
    a, b = await swarm.peer("A"), await swarm.peer("B")
    blob_id = a.give(content(3))
    with pytest.raises(BlobTooLarge):
        await b.fetch(blob_id, "A", max_bytes=3 * PIECE - 1)
    assert not b.violations and b.exchange.received_bytes.total() == 0
    await b.fetch(blob_id, "A")
    with pytest.raises(BlobTooLarge):
        await b.fetch(blob_id, "A", max_bytes=3 * PIECE - 1)


async def test_too_many_streams_are_refused_politely(swarm, autojump_clock):
    a, b = await swarm.peer("A", streams_per_peer=2), await swarm.peer("B")
    blob_id = a.give(content(3))
    async with AsyncExitStack() as stack:
        for _ in range(2):
            served = await stack.enter_async_context(conversation(swarm, "A", "B2"))
            await send_frame(served, {"want": blob_id})
            assert "have" in await receive_frame(served)
        refused = await stack.enter_async_context(conversation(swarm, "A", "B2"))
        await send_frame(refused, {"want": blob_id})
        assert await receive_frame(refused) == {"busy": True}
        assert await b.fetch(blob_id, "A") == content(3)  # another peer has its own slots
    assert not a.violations


async def test_a_busy_holder_is_tried_again(swarm, autojump_clock):
    a, b = await swarm.peer("A", streams_total=2), await swarm.peer("B")
    blob_id = a.give(content(3))

    async def hold_the_slot():
        async with conversation(swarm, "A") as stream:
            await send_frame(stream, {"want": blob_id})
            await receive_frame(stream)
            await trio.sleep(20)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold_the_slot)
        await trio.sleep(1)
        nursery.start_soon(b.fetch, blob_id, "A")
        await trio.sleep(18)
        assert b.store.path(blob_id) is None
    assert b.store.path(blob_id)


async def test_the_banned_are_not_served(swarm, autojump_clock):
    a, c = [await swarm.peer(n) for n in "AC"]
    blob_id = a.give(content(3))
    a.exchange.reputation.ban("C", "test")
    with pytest.raises(BlobUnavailable):
        await c.fetch(blob_id, "A", deadline_seconds=10)


async def test_an_idle_stream_and_one_that_is_not_read_are_closed(swarm, autojump_clock):
    a = await swarm.peer("A", idle_seconds=60, stall_seconds=10)
    blob_id = a.give(content(200))
    async with conversation(swarm, "A") as idle, conversation(swarm, "A") as deaf:
        await send_frame(deaf, {"want": blob_id})
        for index in range(200):
            await send_frame(deaf, {"piece": index})
        await trio.sleep(61)
        assert await idle.receive_some(1) == b""
        assert a.transport.ends == set()


async def test_cuts_all_over_only_cost_time(swarm, autojump_clock):
    unkind = Link(0.01, 100 * PIECE, cut_probability=0.03)
    peers = [await swarm.peer(name, unkind) for name in "ABC"]
    blob_id = peers[0].give(content(60))
    peers[1].give(content(60))
    assert await peers[2].fetch(blob_id, "A", "B", deadline_seconds=600) == content(60)
    assert not any(peer.violations for peer in peers)


async def test_a_holder_that_promises_and_never_gives_ends_at_the_deadline(swarm, autojump_clock):
    a, c = await swarm.peer("A"), await swarm.peer("C")
    blob_id = a.give(content(3))
    await impostor(swarm, "miser", a.store.manifest(blob_id), lambda index: b"")
    with pytest.raises(BlobUnavailable):
        await c.fetch(blob_id, "miser", deadline_seconds=120)
    assert not c.violations


async def test_what_is_no_blob_id_is_refused(swarm, autojump_clock):
    a = await swarm.peer("A")
    with pytest.raises(ValueError, match="not a blob id"):
        await a.fetch("../etc/passwd", "B")


def test_settings_fit_together():
    settings = ExchangeSettings()
    assert settings.update_wait_seconds < settings.stall_seconds / 2
    assert replace(settings, max_holders=1).max_holders == 1
