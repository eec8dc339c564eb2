"""Dialling back: only the asker's own address and a port of its record are dialled, and not often; what answers must be
a peer, and all that does not is one to the asker."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from node_fixture import ScriptedSwarm, peer

from covenantd.reach import Reach, Sighting, dial
from p2p._p2pd import P2pdSettings, open_p2pd
from p2p.asking import answering, ask
from p2p.errors import ProtocolViolation, Refused, TransportError
from p2p.identity import create_identity
from p2p.testing import MemoryNetwork


@dataclass
class Asked(ScriptedSwarm):
    """A swarm over a memory network."""

    transport: Any = None
    asked: list[str] = field(default_factory=list)

    def by_peer_id(self, peer_id: str) -> Any:
        return next((one for one in self.present if one.peer_id == peer_id), None)

    async def ask(self, peer_id: str, protocol: str, message: object, timeout_seconds: float) -> object:
        self.asked.append(peer_id)
        return await ask(self.transport, peer_id, protocol, message, timeout_seconds)

    async def answer(self, protocol: str, handler: Any) -> None:
        await self.transport.handle(protocol, answering(handler, lambda *_: None, 1000, 60))


RECORD = ("/ip4/192.168.1.5/tcp/31330/p2p/own", "/ip4/127.0.0.1/tcp/80/p2p/own", "/ip4/1.2.3.4/tcp/x/p2p/own")


def at(network: MemoryNetwork, name: str, known: tuple[str, ...], seen: str = "") -> tuple[Reach, Asked]:
    """The Reach of a peer that knows others, by RECORD, and sees them at `seen`."""
    present = tuple(replace(peer(one), addresses=RECORD) for one in known)
    swarm = Asked(present=present, transport=network.transport(name))

    async def seen_at(peer_id: str) -> tuple[str, ...]:
        return (seen,) if seen else ()

    return Reach(cast(Any, swarm), "/reach", seen_at), swarm


async def test_a_peer_dials_the_address_it_sees_us_at_and_no_other(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    network = MemoryNetwork(nursery)
    own, swarm = at(network, "own", ("B", "C", "D", "E"))
    dialled: list[tuple[str, int]] = []

    async def try_it(ip: str, port: int) -> bool:
        dialled.append((ip, port))
        return not ip.endswith("8")

    places = {
        "B": "/ip4/198.41.0.7/tcp/5000/p2p/own",
        "C": "/ip4/198.41.0.8/tcp/5001/p2p/own",
        "D": "/ip4/198.41.0.9/tcp/1/p2p/R/p2p-circuit/p2p/own",
        "E": "/ip4/198.41.0.10/tcp/5002/p2p/own",
    }
    for name, place in places.items():
        other, _ = at(network, name, ("own",), place)
        other.dial = try_it
        await other.serve()
    found = {one.peer_id: one for one in await own.sightings(31330)}
    assert found == {
        "B": Sighting("B", "miner", "198.41.0.7", 5000, ""),
        "C": Sighting("C", "miner", "198.41.0.8", 5001, "unreachable"),
    }, "D sees us through a relay, and three are enough to ask"
    assert sorted(dialled) == [("198.41.0.7", 31330), ("198.41.0.8", 31330)] and sorted(swarm.asked) == list("BCD")
    assert len(await own.sightings(31330)) == 2 and len(swarm.asked) == 3, "of a moment ago"
    await trio.sleep(31)
    assert len(await own.sightings(31330)) == 2 and len(swarm.asked) == 6


async def test_strangers_and_those_who_ask_too_often_are_refused(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    network = MemoryNetwork(nursery)
    other, _ = at(network, "B", ("own", "ill"), "/ip4/198.41.0.7/tcp/5000/p2p/own")
    dialled = 0

    async def try_it(ip: str, port: int) -> bool:
        nonlocal dialled
        dialled += 1
        return True

    other.dial = try_it
    await other.serve()
    own, ill, stranger = (network.transport(name) for name in ("own", "ill", "stranger"))
    with pytest.raises(Refused, match="say hello first"):
        await ask(stranger, "B", "/reach", {"port": 80}, 10)
    assert await ask(own, "B", "/reach", {"port": 80}, 10)
    with pytest.raises(Refused, match="not so soon"):
        await ask(own, "B", "/reach", {"port": 31330}, 10)
    await trio.sleep(21)
    assert await ask(own, "B", "/reach", {"port": 80}, 10)
    for bad in ({"port": 0}, {"port": 65536}, {"port": "80"}, {"ip": "192.0.2.1"}, []):
        with pytest.raises((TransportError, ProtocolViolation)):
            await ask(ill, "B", "/reach", bad, 10)
    assert dialled == 2


async def test_a_port_or_a_private_address_that_is_not_in_the_askers_record_is_not_dialled(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    network = MemoryNetwork(nursery)
    own = network.transport("own")
    dialled: list[tuple[str, int]] = []

    async def try_it(ip: str, port: int) -> bool:
        dialled.append((ip, port))
        return True

    for number, (place, port, says) in enumerate(
        (
            ("/ip4/198.41.0.7/tcp/5000/p2p/own", 22, "no address of your record has that port"),
            ("/ip4/127.0.0.2/tcp/5000/p2p/own", 31330, "private address"),
            ("/ip4/10.0.0.1/tcp/5000/p2p/own", 31330, "private address"),
            ("/ip4/169.254.169.254/tcp/5000/p2p/own", 80, "private address"),
            ("/ip6/::1/tcp/5000/p2p/own", 80, "private address"),
            ("/ip6/::ffff:127.0.0.1/tcp/5000/p2p/own", 80, "private address"),
        )
    ):
        other, _ = at(network, f"B{number}", ("own",), place)
        other.dial = try_it
        await other.serve()
        with pytest.raises(Refused, match=says):
            await ask(own, f"B{number}", "/reach", {"port": port}, 10)
    assert not dialled
    for name, place in (("C", "/ip4/127.0.0.1/tcp/5000/p2p/own"), ("D", "/ip4/192.168.1.5/tcp/5000/p2p/own")):
        other, _ = at(network, name, ("own",), place)
        other.dial = try_it
        await other.serve()
        await ask(own, name, "/reach", {"port": 31330}, 10)
    assert dialled == [("127.0.0.1", 31330), ("192.168.1.5", 31330)]


@pytest.mark.parametrize("seconds", [0.0, 2.0, 5.0])
async def test_whatever_failed_is_told_by_one_word_after_the_same_time(
    seconds: float, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    network = MemoryNetwork(nursery)
    other, _ = at(network, "B", ("own",), "/ip4/198.41.0.7/tcp/5000/p2p/own")

    async def try_it(ip: str, port: int) -> bool:
        await trio.sleep(seconds)
        return False

    other.dial = try_it
    await other.serve()
    began = trio.current_time()
    answer = await ask(network.transport("own"), "B", "/reach", {"port": 80}, 10)
    assert answer == {"ip": "198.41.0.7", "source_port": 5000, "trouble": "unreachable"}
    assert trio.current_time() - began == pytest.approx(5.0, abs=0.1)


async def test_an_answer_that_is_none_is_left_out(nursery: trio.Nursery) -> None:
    network = MemoryNetwork(nursery)
    own, _ = at(network, "own", ("B",))
    answers = iter([{"ip": "evil\x1b[31m", "source_port": 1, "trouble": ""}, {"ip": "192.0.2.1"}, 7])

    async def lie(peer_id: str, message: object) -> object:
        return next(answers)

    await network.transport("B").handle("/reach", answering(lie, lambda *_: None, 1000, 60))
    for _ in range(3):
        own._told = None
        assert await own.sightings(31330) == []


async def test_a_real_peer_is_told_from_a_closed_port_and_from_something_else(tmp_path: Path) -> None:
    create_identity(tmp_path / "a")
    create_identity(tmp_path / "b")
    with trio.fail_after(60):
        async with (
            open_p2pd(P2pdSettings(tmp_path / "a", listen_host="127.0.0.1")) as a,
            open_p2pd(P2pdSettings(tmp_path / "b", listen_host="127.0.0.1")) as b,
        ):
            port = int(a.addresses[0].split("/")[4])
            assert await dial("127.0.0.1", port)
            await b.dial(a.addresses[0])
            (seen,) = await a.seen_at(b.peer_id)
            assert seen.startswith("/ip4/127.0.0.1/tcp/") and seen.endswith(f"/p2p/{b.peer_id}")
        assert not await dial("127.0.0.1", port)
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

            async def something_else(stream: trio.SocketStream) -> None:
                await stream.send_all(b"SSH-2.0-OpenSSH\r\n")
                await stream.receive_some(100)

            nursery.start_soon(trio.serve_listeners, something_else, [listener])
            assert not await dial("127.0.0.1", listener.socket.getsockname()[1])
            nursery.cancel_scope.cancel()
