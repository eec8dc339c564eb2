"""Real p2pds and DHT nodes: peers find each other, and only each other."""

import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from bittensor_core import Keypair

from p2p import wire
from p2p._p2pd import P2pdSettings, P2pdTransport, open_p2pd
from p2p.dht import Dht, open_dht
from p2p.errors import TransportDied
from p2p.identity import create_identity, ensure_identity
from p2p.protocols import PeerId, Stream
from p2p.published import dht_key, place_by_signature, sign_published
from p2p.swarm import Swarm, SwarmSettings

RUN = "5a" * 32
DEADLINE_SECONDS = 60


class Hotkey:
    def __init__(self, name: str) -> None:
        self._keypair = Keypair.create_from_uri(f"//{name}")
        self.hotkey: str = self._keypair.ss58_address

    def sign(self, message: bytes) -> bytes:
        signature: bytes = self._keypair.sign(message)
        return signature


def verify(hotkey: str, message: bytes, signature: bytes) -> bool:
    return bool(Keypair(ss58_address=hotkey).verify(message, signature))


@dataclass
class Member:
    name: str
    transport: P2pdTransport
    dht: Dht
    swarm: Swarm
    signer: Hotkey
    rejected: list[str] = field(default_factory=list)


class Network:
    """Members run until the end of the `network` context, each in a task of its own."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self._directory = directory
        self._nursery = nursery

    async def member(self, name: str, *bootstrap: str, port: int = 0, explore_seconds: float = 60.0) -> Member:
        settings = SwarmSettings(RUN, "miner", bootstrap, explore_seconds=explore_seconds, lonely_seconds=1.0)
        member: Member = await self._nursery.start(self._run, name, settings, port)
        return member

    async def _run(
        self, name: str, swarm_settings: SwarmSettings, port: int, task_status: trio.TaskStatus[Member]
    ) -> None:
        ensure_identity(self._directory / name)
        settings = P2pdSettings(self._directory / name, listen_host="127.0.0.1", listen_port=port)
        async with (
            open_p2pd(settings) as transport,
            open_dht(transport, place_by_signature(RUN, verify)) as dht,
            trio.open_nursery() as nursery,
        ):
            signer = Hotkey(name)
            swarm = Swarm(transport, dht, signer, verify, swarm_settings)
            member = Member(name, transport, dht, swarm, signer)
            swarm.on_rejected = member.rejected.append
            await nursery.start(swarm.run)
            task_status.started(member)


@asynccontextmanager
async def network(directory: Path) -> AsyncIterator[Network]:
    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            yield Network(directory, nursery)
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """What happens in other processes sets no event of ours; the test's deadline ends this."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.02)


def all_know_all(members: list[Member]) -> bool:
    everybody = {member.signer.hotkey for member in members}
    return all(
        {peer.hotkey for peer in member.swarm.peers() if peer.connected} | {member.signer.hotkey} == everybody
        for member in members
    )


async def test_c_learns_of_b_only_through_the_dht(tmp_path: Path) -> None:
    async def echo(peer: PeerId, message: object) -> object:
        return [peer, message]

    async def stream_back(stream: Stream) -> None:
        await wire.send_bytes(stream, await wire.receive_bytes(stream, 1 << 20))
        await stream.receive_some(1)

    async with network(tmp_path) as net:
        a = await net.member("A")
        b = await net.member("B", a.transport.addresses[0])
        await b.swarm.answer("/echo/1", echo)
        await b.transport.handle("/raw/1", stream_back)
        c = await net.member("C", a.transport.addresses[0])
        await until(lambda: c.swarm.by_hotkey(b.signer.hotkey) is not None)
        found = c.swarm.by_hotkey(b.signer.hotkey)
        assert found is not None
        assert (found.peer_id, found.addresses, found.role) == (b.swarm.peer_id, b.transport.addresses, "miner")
        assert await c.swarm.ask(found.peer_id, "/echo/1", {"x": 1}) == [c.swarm.peer_id, {"x": 1}]
        payload = os.urandom(1 << 20)
        stream = await c.transport.open(found.peer_id, "/raw/1")
        await wire.send_bytes(stream, payload)
        assert await wire.receive_bytes(stream, 1 << 20) == payload
        await stream.aclose()
        await until(lambda: all_know_all([a, b, c]))


async def test_records_published_by_one_are_found_by_all(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        a = await net.member("A")
        b = await net.member("B", a.transport.addresses[0])
        await until(lambda: all_know_all([a, b]))
        assert await b.swarm.publish("commit", 3, {"blob": b"\1" * 32}, 60)
        assert await a.swarm.publish("commit", 3, {"blob": b"\2" * 32}, 60)
        for member in (a, b):
            records = {record.hotkey: record.content() for record in await member.swarm.lookup("commit", 3)}
            assert records == {
                a.signer.hotkey: {"blob": b"\2" * 32},
                b.signer.hotkey: {"blob": b"\1" * 32},
            }
            assert await member.swarm.lookup("commit", 4) == []


async def test_simultaneous_starts_form_one_swarm(tmp_path: Path) -> None:
    """A ring: each knows only the next one, which may or may not be there yet."""
    names = [str(index) for index in range(5)]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    ids = {name: create_identity(tmp_path / name) for name in names}
    members: list[Member] = []
    async with network(tmp_path) as net:

        async def start(name: str, following: str) -> None:
            bootstrap = f"/ip4/127.0.0.1/tcp/{ports[following]}/p2p/{ids[following]}"
            members.append(await net.member(name, bootstrap, port=ports[name]))

        async with trio.open_nursery() as nursery:
            for name, following in zip(names, names[1:] + names[:1], strict=True):
                nursery.start_soon(start, name, following)
        await until(lambda: all_know_all(members))
        assert [await member.dht.size() for member in members] == [4] * 5


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


async def test_two_islands_become_one_when_they_meet(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        a, b = await net.member("A"), await net.member("B")
        c = await net.member("C", a.transport.addresses[0])
        d = await net.member("D", b.transport.addresses[0])
        await until(lambda: all_know_all([a, c]) and all_know_all([b, d]))
        bridge = await net.member("E", a.transport.addresses[0], b.transport.addresses[0])
        await until(lambda: all_know_all([a, b, c, d, bridge]))


async def test_two_islands_become_one_by_an_address_that_one_of_them_knows(tmp_path: Path) -> None:
    """Nobody is alone and no bootstrap peer leads across; the chain, say, tells C where A is."""
    async with network(tmp_path) as net:
        a, c = await net.member("A"), await net.member("C", explore_seconds=1.0)
        b = await net.member("B", a.transport.addresses[0])
        d = await net.member("D", c.transport.addresses[0])
        await until(lambda: all_know_all([a, b]) and all_know_all([c, d]))
        c.swarm.candidates = lambda: a.transport.addresses
        await until(lambda: all_know_all([a, b, c, d]))


async def test_the_dht_refuses_what_its_author_did_not_put_there(tmp_path: Path) -> None:
    """A hostile node, without our checks, stores forgeries at an honest one."""
    async with network(tmp_path) as net:
        honest = await net.member("A")
        victim = Hotkey("victim")
        create_identity(tmp_path / "evil")
        async with (
            open_p2pd(P2pdSettings(tmp_path / "evil", listen_host="127.0.0.1")) as transport,
            open_dht(transport) as evil,
        ):
            await transport.dial(honest.transport.addresses[0])
            while await evil.size() < 1:  # noqa: ASYNC110
                await trio.sleep(0.02)

            def signed(signer: Hotkey, run_id: str = RUN) -> bytes:
                return sign_published(
                    signer,
                    run_id=run_id,
                    kind="k",
                    round=1,
                    peer_id=transport.peer_id,
                    body=1,
                    lifetime_seconds=60,
                    now=time.time(),
                )

            mine = Hotkey("evil")
            key = dht_key(RUN, "k", 1)
            flipped = bytearray(signed(victim))
            flipped[-1] ^= 1
            forgeries = [
                (key, victim.hotkey, bytes(flipped)),
                (key, victim.hotkey, signed(mine)),
                (key, mine.hotkey, signed(mine, "00" * 32)),
                (dht_key(RUN, "k", 2), mine.hotkey, signed(mine)),
                (key, mine.hotkey, b"junk"),
                (key, mine.hotkey, signed(mine)),  # the expiry is not the signed one
            ]
            for where, subkey, value in forgeries:
                await evil.store(where, subkey, value, 300)
            assert await honest.dht.fetch(key) == await honest.dht.fetch(dht_key(RUN, "k", 2)) == {}
            assert await honest.swarm.lookup("k", 1) == []


async def test_p2pd_dying_under_a_dht_does_not_hang_the_exit(tmp_path: Path) -> None:
    create_identity(tmp_path / "a")
    with trio.fail_after(20), pytest.raises(TransportDied):
        async with (
            open_p2pd(P2pdSettings(tmp_path / "a", listen_host="127.0.0.1")) as transport,
            open_dht(transport),
        ):
            os.kill(transport.process_id, 9)
            await trio.sleep_forever()
    assert "dht" not in [thread.name for thread in threading.enumerate()]
