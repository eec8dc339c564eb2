"""The transport on real p2pd processes."""

import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from p2p import wire
from p2p._circuit import reserve
from p2p._p2pd import P2pdSettings, P2pdTransport, open_p2pd
from p2p._p2pd_settings import RELAY_CIRCUIT_BYTES, near_addresses, p2pd_arguments, p2pd_environment
from p2p.errors import (
    IdentityError,
    PeerUnreachable,
    PortInUse,
    ProtocolViolation,
    StreamClosed,
    TransportDied,
)
from p2p.identity import create_identity, peer_id_of
from p2p.protocols import Stream

PROTOCOL = "/test/1"
DEADLINE_SECONDS = 60
NOBODY = "12D3KooWGjMCwWuhGMv6nPHsUqBJGAQqQNfYvQVXqZtXmFXBbmBz"


def settings(directory: Path, name: str, **changes: object) -> P2pdSettings:
    identity = directory / name
    if not identity.exists():
        create_identity(identity)
    return P2pdSettings(identity, listen_host="127.0.0.1", **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def two_transports(directory: Path) -> AsyncIterator[tuple[P2pdTransport, P2pdTransport]]:
    with trio.fail_after(DEADLINE_SECONDS):
        async with open_p2pd(settings(directory, "a")) as a, open_p2pd(settings(directory, "b")) as b:
            yield a, b


def alive(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists()


async def test_eight_megabytes_each_way_at_once(tmp_path: Path) -> None:
    up, down = os.urandom(8 << 20), os.urandom(8 << 20)
    seen: list[tuple[str, str]] = []

    async def serve(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send_bytes, stream, down)
            received = await wire.receive_bytes(stream, 9 << 20)
            seen.append((stream.remote, hashlib.sha256(received).hexdigest()))
        with pytest.raises(StreamClosed):
            await wire.receive_frame(stream)  # the requester closes
        answered.set()

    async with two_transports(tmp_path) as (a, b):
        answered = trio.Event()
        await b.handle(PROTOCOL, serve)
        assert await a.dial(b.addresses[0]) == b.peer_id
        stream = await a.open(b.peer_id, PROTOCOL)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send_bytes, stream, memoryview(up))
            assert await wire.receive_bytes(stream, 9 << 20) == down
        await stream.aclose()
        await answered.wait()
        assert seen == [(a.peer_id, hashlib.sha256(up).hexdigest())]


async def test_both_see_who_the_other_is(tmp_path: Path) -> None:
    async def tell(stream: Stream) -> None:
        await wire.send_frame(stream, stream.remote)
        await stream.receive_some(1)

    async with two_transports(tmp_path) as (a, b):
        await b.handle(PROTOCOL, tell)
        await a.dial(b.addresses[0])
        assert a.peer_id == peer_id_of(tmp_path / "a")
        stream = await a.open(b.peer_id, PROTOCOL)
        assert stream.remote == b.peer_id == peer_id_of(tmp_path / "b")
        assert await wire.receive_frame(stream) == a.peer_id
        await stream.aclose()
        assert await a.connected() == (b.peer_id,)
        await a.disconnect(b.peer_id)
        assert await a.connected() == ()


async def test_what_cannot_be_reached_fails_clearly_and_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        async with two_transports(tmp_path) as (a, b):
            with trio.fail_after(20):
                with pytest.raises(PeerUnreachable, match="attempts to connect"):
                    await a.dial(f"/ip4/127.0.0.1/tcp/1/p2p/{NOBODY}")
                with pytest.raises(PeerUnreachable):
                    await a.dial(f"/ip4/127.0.0.1/tcp/{port}/p2p/{b.peer_id}")  # accepts, then says nothing
                with pytest.raises(PeerUnreachable, match="cannot dial"):
                    await a.dial("not an address")
                with pytest.raises(PeerUnreachable):
                    await a.open(NOBODY, PROTOCOL)
                await a.dial(b.addresses[0])
                with pytest.raises(PeerUnreachable, match="protocol"):
                    await a.open(b.peer_id, "/nobody/serves/this")


async def test_a_peer_that_was_away_is_reached_at_once_when_it_is_back(tmp_path: Path) -> None:
    """libp2p alone would refuse to try again for 5 s and more."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    peer = create_identity(tmp_path / "b")
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"
    with trio.fail_after(DEADLINE_SECONDS):
        async with open_p2pd(settings(tmp_path, "a")) as a:
            for _ in range(3):
                with pytest.raises(PeerUnreachable):
                    await a.dial(address)
            async with open_p2pd(settings(tmp_path, "b", listen_port=port)):
                assert await a.dial(address) == peer


async def test_an_address_with_another_peers_id_is_refused(tmp_path: Path) -> None:
    async with two_transports(tmp_path) as (a, b):
        create_identity(tmp_path / "c")
        forged = b.addresses[0].replace(b.peer_id, peer_id_of(tmp_path / "c"))
        with pytest.raises(PeerUnreachable):
            await a.dial(forged)


async def test_a_peers_fault_ends_its_stream_only(tmp_path: Path) -> None:
    async def accuse(stream: Stream) -> None:
        raise ProtocolViolation("you said something silly")

    async with two_transports(tmp_path) as (a, b):
        await b.handle(PROTOCOL, accuse)
        await a.dial(b.addresses[0])
        for _ in range(2):
            stream = await a.open(b.peer_id, PROTOCOL)
            with pytest.raises(StreamClosed):
                await wire.receive_frame(stream)
            await stream.aclose()


async def test_our_own_bug_in_a_handler_is_not_swallowed(tmp_path: Path) -> None:
    async def broken(stream: Stream) -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        async with two_transports(tmp_path) as (a, b):
            await b.handle(PROTOCOL, broken)
            await a.dial(b.addresses[0])
            await (await a.open(b.peer_id, PROTOCOL)).send_all(b"x")
            await trio.sleep_forever()


async def test_inbound_streams_are_limited_per_peer(tmp_path: Path) -> None:
    async def hold(stream: Stream) -> None:
        await wire.send_frame(stream, "welcome")
        await stream.receive_some(1)

    with trio.fail_after(DEADLINE_SECONDS):
        narrow = settings(tmp_path, "b", max_inbound_streams_per_peer=2)
        async with open_p2pd(settings(tmp_path, "a")) as a, open_p2pd(narrow) as b:
            await b.handle(PROTOCOL, hold)
            await a.dial(b.addresses[0])
            streams = [await a.open(b.peer_id, PROTOCOL) for _ in range(3)]
            answers = 0
            for stream in streams:
                with suppress(StreamClosed):
                    answers += await wire.receive_frame(stream) == "welcome"
            assert answers == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_death_of_p2pd_ends_the_context(tmp_path: Path, number: signal.Signals) -> None:
    with trio.fail_after(DEADLINE_SECONDS), pytest.raises(TransportDied, match="p2pd exited"):
        async with open_p2pd(settings(tmp_path, "a")) as a:
            os.kill(a.process_id, number)
            await trio.sleep_forever()


async def test_requests_at_the_moment_of_death_say_so_too(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_SECONDS), pytest.raises(TransportDied):
        async with open_p2pd(settings(tmp_path, "a")) as a:
            os.kill(a.process_id, signal.SIGKILL)
            while True:
                await a.connected()


async def test_a_used_port_is_an_error_and_a_free_one_is_taken(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        async with open_p2pd(settings(tmp_path, "a")) as a:
            port = int(a.addresses[0].split("/")[4])
            with pytest.raises(PortInUse, match=str(port)):
                async with open_p2pd(settings(tmp_path, "b", listen_port=port)):
                    pass
        async with open_p2pd(settings(tmp_path, "b", listen_port=port)) as b:
            assert b.addresses == (f"/ip4/127.0.0.1/tcp/{port}/p2p/{b.peer_id}",)


async def test_an_exposed_identity_is_refused(tmp_path: Path) -> None:
    exposed = settings(tmp_path, "a")
    exposed.identity.chmod(0o644)
    with pytest.raises(IdentityError):
        async with open_p2pd(exposed):
            pass


async def test_leaving_and_cancelling_leave_nothing_behind(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:  # tmp_path can be too long for sockets
        with trio.move_on_after(DEADLINE_SECONDS) as scope:
            async with open_p2pd(settings(tmp_path, "a", runtime_directory=Path(runtime))) as a:
                process_id = a.process_id
                assert [entry.stat().st_mode & 0o777 for entry in os.scandir(runtime)] == [0o700]
                scope.cancel()
                await trio.sleep_forever()
        assert not alive(process_id) and not list(os.scandir(runtime))


async def test_a_path_too_long_for_a_socket_is_avoided(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    async with open_p2pd(settings(tmp_path, "a", runtime_directory=long)) as a:
        assert len(a.control_address) < 108


VICTIM = """
import sys, trio
from pathlib import Path
from p2p._p2pd import P2pdSettings, open_p2pd

async def main():
    settings = P2pdSettings(Path(sys.argv[1]), "127.0.0.1", runtime_directory=Path(sys.argv[2]))
    async with open_p2pd(settings) as transport:
        print(transport.process_id, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_kill_9_of_us_leaves_no_p2pd_and_the_next_start_no_sockets(tmp_path: Path) -> None:
    identity = settings(tmp_path, "a").identity
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        command = [sys.executable, "-c", VICTIM, os.fspath(identity), runtime]
        victim = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert victim.stdout is not None
        process_id = int(await victim.stdout.receive_some(100))
        descriptor = os.pidfd_open(process_id)
        try:
            victim.kill()
            with trio.fail_after(5):
                await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
            await victim.wait()
        assert len(list(os.scandir(runtime))) == 1
        other = settings(tmp_path, "b", runtime_directory=Path(runtime))
        async with (
            open_p2pd(settings(tmp_path, "a", runtime_directory=Path(runtime))),
            open_p2pd(other),
        ):
            assert len(list(os.scandir(runtime))) == 2
        assert not list(os.scandir(runtime))


def test_neither_torch_nor_hivemind_is_imported() -> None:
    code = "import sys, p2p._p2pd as t; t.P2pdSettings; from p2p._p2pd_control import _protobuf_module as m; m()\n"
    code += "print([name for name in ('torch', 'hivemind') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_p2pd_is_told_of_relays(tmp_path: Path) -> None:
    """Any two of the three make a peer behind a NAT unreachable: see tests/netlab/test_nat.py."""

    def told(**changes: object) -> set[str]:
        return set(p2pd_arguments(settings(tmp_path, "a", **changes), tmp_path))

    behind = {"-relay=1", "-autoRelay=1", "-relayDiscovery=0", "-forceReachabilityPrivate=1", "-autonat=1"}
    assert behind | {"-trustedRelays=/ip4/1.2.3.4/tcp/1/p2p/X"} <= told(relays=("/ip4/1.2.3.4/tcp/1/p2p/X",))
    public = {"-relay=1", "-relayService=1", "-forceReachabilityPublic=1", "-dht=1"}
    assert public <= told(relay_service=True)
    assert not public & told() and "-dhtServer=1" in told()
    assert {"-relay=0", "-relayService=0", "-autonat=1", "-natPortMap=0"} <= told()
    assert {"-autonat=0", "-natPortMap=1"} <= told(hole_punching=False, nat_port_map=True)


def test_a_relay_has_one_processor_unless_its_operator_says_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    monkeypatch.setenv("A_SECRET", "x")
    relay, miner = P2pdSettings(tmp_path, relay_service=True), P2pdSettings(tmp_path)
    assert p2pd_environment(relay)["GOMAXPROCS"] == "1"
    assert not {"GOMAXPROCS", "A_SECRET"} & p2pd_environment(miner).keys()
    monkeypatch.setenv("GOMAXPROCS", "4")
    assert p2pd_environment(relay)["GOMAXPROCS"] == "4"


@pytest.mark.parametrize("_again", range(5))
async def test_a_relay_has_our_limits_at_its_first_start_and_serves_the_dht(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _again: int
) -> None:
    """Five in a row: it must not be by chance, which once gave a relay for NATs too small for any contribution."""
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    monkeypatch.setattr("p2p._p2pd._RELAY_STARTS", 1)
    with trio.fail_after(DEADLINE_SECONDS):
        async with (
            open_p2pd(settings(tmp_path, "a", relay_service=True)) as relay,
            open_p2pd(settings(tmp_path, "b")) as other,
        ):
            await other.dial(relay.addresses[0])
            assert (await reserve(other, relay.peer_id)).circuit_bytes == RELAY_CIRCUIT_BYTES
            await (await other.open(relay.peer_id, "/ipfs/kad/1.0.0")).aclose()  # only a server speaks it


async def test_a_relay_that_never_takes_our_limits_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def small(*_: object) -> bool:
        return False

    monkeypatch.setattr("p2p._p2pd._relays_in_earnest", small)
    monkeypatch.setattr("p2p._p2pd._RELAY_STARTS", 2)
    with trio.fail_after(DEADLINE_SECONDS):
        async with open_p2pd(settings(tmp_path, "a", relay_service=True)) as relay:
            assert relay.peer_id
    assert "in 2 starts p2pd took libp2p's smallest relay limits" in caplog.text


async def test_a_relay_that_announces_other_addresses_is_tried_where_it_listens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    changes = {"listen_port": port, "announce": ("/ip4/203.0.113.1/tcp/1",), "relay_service": True}
    with trio.fail_after(DEADLINE_SECONDS), caplog.at_level(logging.WARNING):
        async with open_p2pd(settings(tmp_path, "a", **changes)) as relay:
            assert relay.addresses[0].startswith("/ip4/203.0.113.1/tcp/1")
    assert "could not try" not in caplog.text


@pytest.mark.parametrize(
    ("host", "near"), [("0.0.0.0", "/ip4/127.0.0.1"), ("::", "/ip6/::1"), ("10.0.0.9", "/ip4/10.0.0.9")]
)
def test_where_this_machine_reaches_it(tmp_path: Path, host: str, near: str) -> None:
    assert near_addresses(P2pdSettings(tmp_path, listen_host=host, listen_port=7)) == (f"{near}/tcp/7",)
    assert near_addresses(P2pdSettings(tmp_path, listen_host=host)) == ()
