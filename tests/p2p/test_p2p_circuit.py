"""A place at a relay: what we make of its answers; and whose address goes first."""

import pytest
import trio

from p2p._circuit import Place, circuit_address, keep_place, reserve
from p2p._reach import farthest_first
from p2p.errors import PeerUnreachable, ProtocolViolation, StreamClosed

RELAY = "12D3KooWGjMCwWuhGMv6nPHsUqBJGAQqQNfYvQVXqZtXmFXBbmBz"
# HopMessage: type STATUS, limit {1800 s, 4 GiB}, status 100
LIMIT = bytes.fromhex("08880e108080808010")
GOOD = bytes.fromhex("0802") + bytes([0x22, len(LIMIT)]) + LIMIT + bytes.fromhex("2864")


class FakeStream:
    remote = RELAY

    def __init__(self, *chunks):
        self.chunks, self.sent, self.closed = list(chunks), b"", False

    async def send_all(self, data):
        self.sent += bytes(data)

    async def receive_some(self, max_bytes):
        await trio.lowlevel.checkpoint()
        return self.chunks.pop(0) if self.chunks else b""

    async def aclose(self):
        self.closed = True


class Ping(FakeStream):
    """What comes back for each message, until the connection ends."""

    def __init__(self, *, answer=lambda data: data):
        super().__init__()
        self.answer, self.unread, self.ended = answer, b"", trio.Event()

    async def send_all(self, data):
        self.unread += self.answer(data)

    async def receive_some(self, max_bytes):
        if not self.unread:
            await self.ended.wait()
        chunk, self.unread = self.unread[:20], self.unread[20:]
        return chunk


class FakeTransport:
    def __init__(self, *streams):
        self.streams, self.dialled, self.ping = list(streams), 0, Ping()

    async def dial(self, address):
        self.dialled += 1
        return RELAY

    async def open(self, peer, protocol):
        assert peer == RELAY
        if protocol == "/ipfs/ping/1.0.0":
            return self.ping
        assert protocol == "/libp2p/circuit/relay/0.2.0/hop"
        return self.streams.pop(0) if self.streams else FakeStream(bytes([len(GOOD)]) + GOOD)


async def test_a_place_and_its_limits():
    for cut in range(len(GOOD)):
        framed = bytes([len(GOOD)]) + GOOD
        stream = FakeStream(framed[:cut], framed[cut:]) if cut else FakeStream(framed)
        assert await reserve(FakeTransport(stream), RELAY) == Place(1800, 4 << 30)
        assert (stream.sent, stream.closed) == (b"\x02\x08\x00", True)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"\x04\x08\x02\x28\x64"[:3], PeerUnreachable),  # cut
        (b"\x05\x08\x02\x28\xc8\x01", PeerUnreachable),  # status 200: refused
        (b"\x02\x08\x02", PeerUnreachable),  # no status at all
        (b"\xff\x7f", ProtocolViolation),  # 16 KiB announced
        (b"\x80\x80\x01", ProtocolViolation),
        (b"\x04\x22\x7f\x08\x01", ProtocolViolation),  # a limit longer than the message
        (b"\x02\x0d\x00", ProtocolViolation),  # a wire type that circuits do not use
        (b"\x06\x28\x64\x22\x02\x12\x00", ProtocolViolation),  # bytes where a number belongs
    ],
)
async def test_other_answers(answer, error):
    with pytest.raises(error):
        await reserve(FakeTransport(FakeStream(answer)), RELAY)


async def test_a_place_is_renewed_and_taken_again_when_the_relay_was_away(autojump_clock, nursery):
    transport = FakeTransport(FakeStream(b"\x05\x08\x02\x28\xc8\x01"))
    nursery.start_soon(keep_place, transport, f"/ip4/10.0.0.1/tcp/1/p2p/{RELAY}")
    await trio.sleep(10)
    assert transport.dialled == 2  # refused once, then it had a place
    await trio.sleep(295)
    assert transport.dialled == 3  # renewed
    gone, transport.ping = transport.ping, Ping()
    gone.ended.set()  # it may be connected again already: the place is gone all the same
    await trio.sleep(2.5)
    assert transport.dialled == 4
    assert gone.closed
    transport.streams = [Cut(), Cut()]
    transport.ping.ended.set()
    await trio.sleep(36)  # three waits of about 4, 8 and 16 s, each up to a quarter longer: 35 s
    assert not transport.streams
    assert transport.dialled >= 7


@pytest.mark.parametrize("answer", [lambda data: b"", lambda data: bytes(32), lambda data: data + b"more"])
async def test_a_relay_whose_pings_are_wrong_is_asked_ever_more_rarely(autojump_clock, nursery, answer):
    transport = FakeTransport()
    transport.ping = Ping(answer=answer)
    nursery.start_soon(keep_place, transport, f"/ip4/10.0.0.1/tcp/1/p2p/{RELAY}")
    await trio.sleep(600)
    assert 8 <= transport.dialled <= 25


class Cut(FakeStream):
    async def send_all(self, data):
        raise StreamClosed("gone")


def test_who_is_reached_from_afar_goes_first():
    far, near = f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY}", f"/ip4/192.168.1.4/tcp/1/p2p/{RELAY}"
    relayed, loopback = circuit_address(far, "X"), f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY}"
    name, link = f"/dns4/peer.example/tcp/1/p2p/{RELAY}", f"/ip6/fe80::1/tcp/1/p2p/{RELAY}"
    mixed = [loopback, link, near, "/nonsense", "", relayed, far, name, far]
    assert farthest_first(mixed) == (far, name, relayed, near, loopback, link, "/nonsense", "")
    assert farthest_first([circuit_address(near, "X"), near]) == (near, circuit_address(near, "X"))
