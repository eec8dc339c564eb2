"""The swarm's behaviour on a network in memory; on real processes: tests/integration/test_dht_discovery.py."""

import hashlib
from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock as Clock

from p2p import wire
from p2p.asking import MAX_MESSAGE_BYTES
from p2p.errors import (
    PeerUnreachable,
    ProtocolViolation,
    RecordRejected,
    Refused,
    StreamClosed,
    TransportTimeout,
)
from p2p.peerbook import PEER_KIND, PeerBook, PeerClaim, peer_body, read_claim
from p2p.protocols import PeerId, Stream
from p2p.published import Published, dht_key, open_published, place_by_signature, sign_published
from p2p.records import NO_ROUND, Record
from p2p.swarm import HELLO, Swarm, SwarmSettings
from p2p.testing import MemoryNetwork, MemoryTransport
from p2p.wire import pack

RUN = "ab" * 32
EPOCH = 1_700_000_000.0
LONG_SECONDS = 120.0


def wall() -> float:
    return EPOCH + trio.current_time()


class FakeSigner:
    def __init__(self, hotkey: str) -> None:
        self.hotkey = hotkey

    def sign(self, message: bytes) -> bytes:
        return signature_of(self.hotkey, message)


def signature_of(hotkey: str, message: bytes) -> bytes:
    return hashlib.blake2b(hotkey.encode() + b"\0" + message).digest()


def verify(hotkey: str, message: bytes, signature: bytes) -> bool:
    return signature == signature_of(hotkey, message)


@dataclass
class Member:
    swarm: Swarm
    transport: MemoryTransport
    rejected: list[str] = field(default_factory=list)

    @property
    def known(self) -> dict[str, PeerId]:
        return {peer.hotkey: peer.peer_id for peer in self.swarm.peers()}


class World:
    """Swarms named by a letter: hotkey "A-hotkey", peer id "A"."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork(nursery)
        self.records = self.network.records()
        self._nursery = nursery

    async def join(self, name: str, *bootstrap: str, run_id: str = RUN) -> Member:
        transport = self.network.transport(name)
        addresses = tuple(f"/memory/0/p2p/{other}" for other in bootstrap)
        settings = SwarmSettings(run_id, "miner", addresses)
        swarm = Swarm(transport, self.records, FakeSigner(f"{name}-hotkey"), verify, settings, wall=wall)
        member = Member(swarm, transport)
        swarm.on_rejected = member.rejected.append
        await self._nursery.start(swarm.run)
        return member

    async def plant(self, value: bytes, subkey: str) -> None:
        """Anybody can put anything into a DHT."""
        await self.records.store(dht_key(RUN, PEER_KIND, NO_ROUND), subkey, value, 1e6)


@pytest.fixture
def world(nursery: trio.Nursery) -> World:
    return World(nursery)


def peer_record(
    hotkey: str, peer_id: PeerId, *, run_id: str = RUN, age_seconds: float = 0.0, body: object = None
) -> bytes:
    return sign_published(
        FakeSigner(hotkey),
        run_id=run_id,
        kind=PEER_KIND,
        peer_id=peer_id,
        body=body or peer_body((f"/memory/0/p2p/{peer_id}",), "miner"),
        lifetime_seconds=180.0,
        now=wall() - age_seconds,
    )


async def test_peers_find_each_other(world: World, autojump_clock: Clock) -> None:
    a, b, c = await world.join("A"), await world.join("B", "A"), await world.join("C", "A")
    await trio.sleep(LONG_SECONDS)
    assert a.known == {"B-hotkey": "B", "C-hotkey": "C"}
    assert b.known == {"A-hotkey": "A", "C-hotkey": "C"}
    found = c.swarm.by_hotkey("B-hotkey")
    assert found is not None and found == c.swarm.by_peer_id("B")
    assert (found.addresses, found.role, found.connected) == (("/memory/0/p2p/B",), "miner", True)
    assert not a.rejected and not b.rejected and not c.rejected


async def test_a_bootstrap_peer_that_comes_late_is_found(world: World, autojump_clock: Clock) -> None:
    b = await world.join("B", "A")
    await trio.sleep(LONG_SECONDS)
    assert b.known == {}
    await world.join("A")
    await trio.sleep(LONG_SECONDS)
    assert b.known == {"A-hotkey": "A"}


async def test_records_are_renewed_and_the_dead_forgotten(world: World, autojump_clock: Clock) -> None:
    a = await world.join("A")
    await world.join("B", "A")
    await trio.sleep(3600)
    assert a.known == {"B-hotkey": "B"}
    world.network.cut("B")
    await trio.sleep(5)
    gone = a.swarm.by_hotkey("B-hotkey")
    assert gone is not None and not gone.connected


async def test_who_is_taken_by_nobody_asks_ever_less_often(
    world: World, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    async def refuse(key: str, subkey: str, value: bytes, lifetime_seconds: float) -> bool:
        tried.append(trio.current_time())
        return False

    monkeypatch.setattr(world.records, "store", refuse)
    a = await world.join("A")
    await trio.sleep(3600)
    assert 150 < len(tried) < 400, "every 15 s"
    await world.join("B", "A")
    tried.clear()
    await trio.sleep(3)
    assert "B-hotkey" in a.known and len(tried) >= 2, "somebody new may take it"


async def test_connecting_by_hand(world: World, autojump_clock: Clock) -> None:
    a = await world.join("A")
    await world.join("B")
    assert await a.swarm.connect("/memory/0/p2p/B") == "B-hotkey"
    assert a.known == {"B-hotkey": "B"}
    with pytest.raises(PeerUnreachable):
        await a.swarm.connect("/memory/0/p2p/nobody")
    await world.join("C", run_id="cd" * 32)
    with pytest.raises((Refused, RecordRejected)):
        await a.swarm.connect("/memory/0/p2p/C")


async def test_who_stops_announcing_expires(world: World, autojump_clock: Clock) -> None:
    a = await world.join("A")
    silent = world.network.transport("S")
    stream = await silent.open("A", HELLO)
    await wire.send_frame(stream, {"record": peer_record("S-hotkey", "S")})
    assert set(await wire.receive_frame(stream)) == {"ok"}
    assert a.known == {"S-hotkey": "S"}
    await trio.sleep(200)
    assert a.known == {}


async def forged_peer_record(reason: str) -> bytes:
    good = peer_record("evil", "E")
    return {
        "signature": good[:-1] + bytes([good[-1] ^ 1]),
        "run": peer_record("evil", "E", run_id="cd" * 32),
        "hotkey": peer_record("somebody else", "E"),
        "expired": peer_record("evil", "E", age_seconds=1000),
        "future": peer_record("evil", "E", age_seconds=-1000),
        "malformed": peer_record("evil", "E", body={"addresses": 7}),
        "protocol": peer_record("evil", "E", body={"addresses": [], "role": "x", "protocol": 99}),
        "peer": peer_record("evil", "E", body=peer_body(("/memory/0/p2p/A",), "miner")),
        "oversized": bytes(9000),
    }[reason]


REASONS = ["signature", "run", "hotkey", "expired", "future", "malformed", "protocol", "peer", "oversized"]


@pytest.mark.parametrize("reason", REASONS)
async def test_forged_records_in_the_dht_are_counted_and_ignored(
    world: World, reason: str, autojump_clock: Clock
) -> None:
    a = await world.join("A")
    world.network.transport("E")
    await world.plant(await forged_peer_record(reason), "evil")
    await world.join("B", "A")
    await trio.sleep(30)
    assert a.known == {"B-hotkey": "B"}
    assert set(a.rejected) == {reason}


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason != "hotkey"])
async def test_forged_hellos_are_refused_and_the_hostile_banned(
    world: World, reason: str, autojump_clock: Clock
) -> None:
    a = await world.join("A")
    stream = await world.network.transport("E").open("A", HELLO)
    await wire.send_frame(stream, {"record": await forged_peer_record(reason)})
    assert await wire.receive_frame(stream) == {"refused": reason}
    innocent = reason in {"run", "expired", "future", "protocol"}
    assert a.swarm.reputation.is_banned("E") is not innocent
    assert a.known == {} and a.rejected == [reason]


async def test_a_hello_with_a_record_of_another_peer_is_refused(world: World, autojump_clock: Clock) -> None:
    """A replay: the record is good, but whoever shows it is not the peer it names."""
    a = await world.join("A")
    stream = await world.network.transport("E").open("A", HELLO)
    await wire.send_frame(stream, {"record": peer_record("B-hotkey", "B")})
    assert await wire.receive_frame(stream) == {"refused": "peer"}
    assert a.known == {}


async def test_claiming_somebody_elses_peer_id_gains_nothing(world: World, autojump_clock: Clock) -> None:
    a = await world.join("A")
    await world.join("B", "A")
    await world.plant(peer_record("evil", "B"), "evil")
    await trio.sleep(30)
    assert a.known == {"B-hotkey": "B"}
    assert "peer" in a.rejected and not a.swarm.reputation.is_banned("B")


async def test_claiming_our_own_peer_id_is_counted(world: World, autojump_clock: Clock) -> None:
    a = await world.join("A")
    await world.plant(peer_record("evil", "A"), "evil")
    await trio.sleep(30)
    assert a.known == {} and set(a.rejected) == {"peer"}


async def test_only_admitted_hotkeys_count(world: World, autojump_clock: Clock) -> None:
    a = await world.join("A")
    admitted: set[str] = set()
    a.swarm.admit = admitted.__contains__
    b = await world.join("B", "A")
    await b.swarm.publish("commit", 1, {"x": 1}, 600)
    await trio.sleep(10)
    assert a.known == {} and await a.swarm.lookup("commit", 1) == [] and not a.swarm.knows("B")
    admitted.add("B-hotkey")
    assert a.swarm.knows("B") and b.swarm.knows("A") and not a.swarm.knows("somebody")
    assert a.known == {"B-hotkey": "B"}
    assert [record.content() for record in await a.swarm.lookup("commit", 1)] == [{"x": 1}]


async def test_what_a_peer_says_of_its_link_is_in_its_record(world: World, autojump_clock: Clock) -> None:
    a = await world.join("A")
    b = await world.join("B", "A")
    b.swarm.own_hints = lambda: {"up": 2_500_000, "down": 12_500_000, "else": 1}
    await trio.sleep(120)
    told = a.swarm.by_peer_id("B")
    assert told is not None and (told.up, told.down) == (2_500_000, 12_500_000)
    silent = b.swarm.by_peer_id("A")
    assert silent is not None and (silent.up, silent.down) == (0, 0)


async def test_asking_and_answering(world: World, autojump_clock: Clock) -> None:
    a, b = await world.join("A"), await world.join("B", "A")

    async def answer(peer: PeerId, message: object) -> object:
        if message == "no":
            raise Refused("because")
        return {"from": peer, "said": message}

    await a.swarm.answer("/t/1", answer)
    assert await b.swarm.ask("A", "/t/1", [1, b"2", None]) == {"from": "B", "said": [1, b"2", None]}
    with pytest.raises(Refused, match="because"):
        await b.swarm.ask("A", "/t/1", "no")
    with pytest.raises(PeerUnreachable):
        await b.swarm.ask("A", "/unknown/1", 1)
    with pytest.raises(PeerUnreachable):
        await b.swarm.ask("Z", "/t/1", 1)
    with pytest.raises(ValueError, match="exceeds"):
        await b.swarm.ask("A", "/t/1", bytes(MAX_MESSAGE_BYTES))


async def test_a_silent_peer_does_not_keep_us_waiting(world: World, autojump_clock: Clock) -> None:
    async def sleep(peer: PeerId, message: object) -> object:
        await trio.sleep(30)
        return None

    a, b = await world.join("A"), await world.join("B", "A")
    await a.swarm.answer("/t/1", sleep)
    began = trio.current_time()
    with pytest.raises(TransportTimeout, match="did not answer"):
        await b.swarm.ask("A", "/t/1", 1, timeout_seconds=3)
    assert trio.current_time() - began == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("reply", [wire.pack([1]), wire.pack({"else": 1}), b"\xc1", None])
async def test_a_nonsense_answer_bans(world: World, reply: bytes | None, autojump_clock: Clock) -> None:
    a = await world.join("A")

    async def lie(stream: Stream) -> None:
        await wire.receive_frame(stream)
        if reply is None:
            await stream.send_all(b"\xff\xff\xff\xff")
        else:
            await wire.send_bytes(stream, reply)
        await stream.receive_some(1)

    await world.network.transport("L").handle("/t/1", lie)
    with pytest.raises(ProtocolViolation):
        await a.swarm.ask("L", "/t/1", 1)
    with pytest.raises(PeerUnreachable, match="banned"):
        await a.swarm.ask("L", "/t/1", 1)


async def test_the_banned_get_no_stream_and_are_not_seen(world: World, autojump_clock: Clock) -> None:
    a, b = await world.join("A"), await world.join("B", "A")

    async def answer(peer: PeerId, message: object) -> object:
        return 1

    await a.swarm.answer("/t/1", answer)
    await trio.sleep(10)
    a.swarm.reputation.ban("B", "test")
    assert a.known == {}
    with pytest.raises(StreamClosed):
        await b.swarm.ask("A", "/t/1", 1)
    for action in (a.swarm.transport.open("B", HELLO), a.swarm.transport.dial("/memory/0/p2p/B")):
        with pytest.raises(PeerUnreachable, match="banned"):
            await action


async def test_lookup_gives_the_good_and_counts_the_bad(world: World, autojump_clock: Clock) -> None:
    a, b = await world.join("A"), await world.join("B", "A")
    assert await b.swarm.publish("commit", 7, {"blob": b"x"}, 600)
    good = (await world.records.fetch(dht_key(RUN, "commit", 7)))["B-hotkey"]
    await world.records.store(dht_key(RUN, "commit", 7), "C-hotkey", good, 600)  # somebody else's subkey
    await world.records.store(dht_key(RUN, "commit", 8), "B-hotkey", good, 600)  # another round
    found = await a.swarm.lookup("commit", 7)
    assert [(record.hotkey, record.peer_id, record.round, record.content()) for record in found] == [
        ("B-hotkey", "B", 7, {"blob": b"x"})
    ]
    assert a.rejected == ["hotkey"]
    assert await a.swarm.lookup("commit", 8) == [] and a.rejected == ["hotkey", "round"]
    await trio.sleep(599)
    assert len(await a.swarm.lookup("commit", 7)) == 1


async def test_a_restarted_peer_with_a_new_peer_id_replaces_its_old_self(world: World, autojump_clock: Clock) -> None:
    a = await world.join("A")
    for peer_id, age in (("S1", 100.0), ("S2", 0.0)):
        stream = await world.network.transport(peer_id).open("A", HELLO)
        await wire.send_frame(stream, {"record": peer_record("S-hotkey", peer_id, age_seconds=age)})
        await wire.receive_frame(stream)
    assert a.known == {"S-hotkey": "S2"}


@given(st.binary(max_size=300))
def test_any_bytes_as_a_published_record(data: bytes) -> None:
    with pytest.raises(RecordRejected):
        open_published(data, verify, run_id=RUN)
    assert place_by_signature(RUN, verify)("x", data) is None


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={"addresses": PLAIN | st.lists(st.text(max_size=20)), "role": PLAIN, "protocol": PLAIN | st.just(1)},
    )
    | PLAIN
)
def test_any_peer_body_is_read_or_rejected(body: object) -> None:
    record = Record(RUN, PEER_KIND, NO_ROUND, "h", "P", pack(body), EPOCH)
    try:
        claim = read_claim(Published(record, EPOCH), 1.0)
    except RecordRejected:
        return
    assert all(address.endswith("/p2p/P") for address in claim.addresses)


def claim(hotkey: str, peer_id: PeerId, issued_at: float) -> PeerClaim:
    return PeerClaim(hotkey, peer_id, (), "miner", issued_at, 1e9)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("VWXYZ"), st.integers(0, 9)), max_size=40))
def test_the_peer_book_stays_one_to_one_and_bounded(claims: list[tuple[str, str, int]]) -> None:
    book = PeerBook(max_peers=3)
    for hotkey, peer_id, issued_at in claims:
        book.bind(claim(hotkey, peer_id, issued_at), 0.0, lambda hotkey: hotkey != "a")
        held = [one for one, _ in book.claims(0.0)]
        assert len(held) <= 3
        assert len({one.hotkey for one in held}) == len({one.peer_id for one in held}) == len(held)
        assert all(book.hotkey_of(one.peer_id) == one.hotkey for one in held)
