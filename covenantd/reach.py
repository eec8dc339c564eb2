"""Can others dial us? A connected peer tries: it opens a TCP connection to the address that it sees us at, on the
port we say we listen on, and hangs up at once.

Nobody can be made to dial a third party, or to scan ports: the address is that of the asker's own connection, never its
word, and one that is not public must be in its signed record, as the port must. All that fails is answered by one word,
after the same time. A peer may ask once in a while, and few are tried for at a time.
"""

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import structlog
import trio

from covenantd.addresses import multiaddr_host_port, multiaddr_problem
from covenantd.control import Verb
from covenantd.status import SCHEMA
from p2p.errors import P2pError, ProtocolViolation, Refused
from p2p.protocols import PeerId
from p2p.swarm import Swarm
from p2p.wire import Fields

log = structlog.get_logger("covenantd.reach")
_TRIES_AT_A_TIME = 4
_PEER_PAUSE_SECONDS = 20.0
_REMEMBERED_PEERS = 1024
_DIAL_SECONDS = 5.0
_ANSWER_SECONDS = 15.0
_ASKED_PEERS = 3
_FRESH_SECONDS = 30.0
_UNREACHED = "unreachable"
_GREETING = b"\x13/multistream/1.0.0\n"  # how libp2p connections begin

SeenAt = Callable[[PeerId], Awaitable[tuple[str, ...]]]
"""The multiaddrs of a peer's connections as they look from here."""


@dataclass(frozen=True)
class Sighting:
    """What one peer saw and tried. `trouble`: its word that it did not reach us; empty if it did."""

    peer_id: PeerId
    role: str
    ip: str
    source_port: int  # of our connection to it: what a NAT has made of it
    trouble: str


class Reach:
    """Asks and answers for one daemon. `dial`: whether a peer answers at an address; tests have their own."""

    def __init__(self, swarm: Swarm, protocol: str, seen_at: SeenAt) -> None:
        self._swarm = swarm
        self._protocol = protocol
        self._seen_at = seen_at
        self._last: dict[PeerId, float] = {}
        self._trying = trio.CapacityLimiter(_TRIES_AT_A_TIME)
        self._asking = trio.Lock()
        self._told: tuple[float, list[Sighting]] | None = None
        self.dial: Callable[[str, int], Awaitable[bool]] = dial

    async def serve(self) -> None:
        await self._swarm.answer(self._protocol, self._answer)

    def verb(self) -> Verb:
        async def handler(args: Mapping[str, Any]) -> object:
            port = self._port()
            sightings = await self.sightings(port) if port else []
            return {"schema": SCHEMA, "port": port, "sightings": [asdict(one) for one in sightings]}

        return Verb(handler)

    # Asking

    def _port(self) -> int | None:
        """That others should dial; None while none is known."""
        for address in self._swarm.transport.addresses:
            if "/tcp/" in address and "/p2p-circuit" not in address:
                return multiaddr_host_port(address.partition("/p2p/")[0])[1]
        return None

    async def sightings(self, port: int) -> list[Sighting]:
        """Of a few connected peers, bootstrap peers before others; those of a moment ago, if there are."""
        async with self._asking:
            if self._told is None or trio.current_time() - self._told[0] > _FRESH_SECONDS:
                self._told = trio.current_time(), await self._ask_some(port)
            return self._told[1]

    async def _ask_some(self, port: int) -> list[Sighting]:
        connected = [peer for peer in self._swarm.peers() if peer.connected]
        asked = sorted(connected, key=lambda peer: peer.role != "bootstrap")[:_ASKED_PEERS]
        found: list[Sighting] = []

        async def ask(peer_id: PeerId, role: str) -> None:
            try:
                reply = await self._swarm.ask(peer_id, self._protocol, {"port": port}, _ANSWER_SECONDS)
                found.append(_sighting(peer_id, role, Fields(reply)))
            except (P2pError, ProtocolViolation) as error:
                log.info("a peer did not try to reach us", peer=peer_id, error=str(error))

        async with trio.open_nursery() as nursery:
            for peer in asked:
                nursery.start_soon(ask, peer.peer_id, peer.role)
        return found

    # Answering

    async def _answer(self, peer: PeerId, message: object) -> object:
        """Raises Refused, ProtocolViolation."""
        structlog.contextvars.bind_contextvars(peer=peer)
        port = Fields(message).number("port", 1, 65535)
        if (asker := self._swarm.by_peer_id(peer)) is None:
            raise Refused("who are you? say hello first")
        told = _of_record(asker.addresses)
        if port not in {known for _, known in told}:
            raise Refused("no address of your record has that port")
        self._slow_down(peer)
        hosts = {host for host, _ in told}
        for address in await self._seen_at(peer):
            if (seen := _ip_and_port(address)) is not None and (_is_public(seen[0]) or seen[0] in hosts):
                return {"ip": seen[0], "source_port": seen[1], "trouble": await self._tried(seen[0], port)}
        raise Refused("you are here through a relay, or from a private address that your record lacks")

    async def _tried(self, ip: str, port: int) -> str:
        """Empty, or the one word for whatever went wrong, after the time that the longest takes."""
        async with self._trying:
            began = trio.current_time()
            if await self.dial(ip, port):
                return ""
        await trio.sleep_until(began + _DIAL_SECONDS)
        return _UNREACHED

    def _slow_down(self, peer: PeerId) -> None:
        """Raises Refused. As many peers are remembered as there may be in a run."""
        now = trio.current_time()
        self._last = {one: at for one, at in self._last.items() if now - at < _PEER_PAUSE_SECONDS}
        if peer in self._last or len(self._last) >= _REMEMBERED_PEERS:
            raise Refused("not so soon again")
        self._last[peer] = now


def _sighting(peer_id: PeerId, role: str, fields: Fields) -> Sighting:
    """Raises ProtocolViolation."""
    text = fields.text("ip", 64)
    try:
        ip = str(ipaddress.ip_address(text))
    except ValueError:
        raise ProtocolViolation(f"{text!r} is no address") from None
    return Sighting(peer_id, role, ip, fields.number("source_port", 0, 65535), fields.text("trouble", 100))


def _ip_and_port(address: str) -> tuple[str, int] | None:
    """None: relayed, or nothing that TCP could be tried on."""
    parts = address.split("/")
    if "p2p-circuit" in parts or len(parts) < 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        return None
    return parts[2], int(parts[4])


def _is_public(ip: str) -> bool:
    return ipaddress.ip_address(ip).is_global


def _of_record(addresses: Iterable[str]) -> list[tuple[str, int]]:
    """Host and port of each that is dialled directly; what is no multiaddr is left out."""
    direct = [address.partition("/p2p/")[0] for address in addresses if "/p2p-circuit" not in address]
    return [multiaddr_host_port(address) for address in direct if multiaddr_problem(address) is None]


async def dial(ip: str, port: int) -> bool:
    """Whether a libp2p peer answers there."""
    with trio.move_on_after(_DIAL_SECONDS):
        try:
            async with await trio.open_tcp_stream(ip, port) as stream:
                await stream.send_all(_GREETING)
                return bytes(await stream.receive_some(64)).startswith(_GREETING)
        except (OSError, trio.BrokenResourceError):
            return False
    return False
