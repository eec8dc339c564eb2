"""`covenantd doctor` on the network: can we listen, can others reach us, can we reach them."""

import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from covenantd.addresses import endpoint_problem, multiaddr_host_port, split_host_port
from covenantd.config import Config
from covenantd.ctloutput import clean
from covenantd.finding import Finding, failure, ok, skipped, warning

_CONNECT_SECONDS = 4.0
_SHARED = ipaddress.ip_network("100.64.0.0/10")  # carrier-grade NAT (RFC 6598)


@dataclass(frozen=True)
class Sighting:
    """A peer's: where it sees us, from which port, and why it could not connect back; empty if it did."""

    ip: str
    source_port: int
    trouble: str


@dataclass(frozen=True)
class Reach:
    """What the running daemon's peers found; `port` is the one they tried."""

    port: int | None
    sightings: tuple[Sighting, ...]

    @staticmethod
    def from_answer(data: Mapping[str, Any]) -> "Reach":
        """Of the daemon's verb `reachable`."""
        rows = data["sightings"]
        return Reach(data["port"], tuple(Sighting(r["ip"], r["source_port"], r["trouble"]) for r in rows))


Connect = Callable[[str, int], "str | None"]
"""Why a TCP connection to host and port fails; None if it is made."""


def tcp_connect(host: str, port: int) -> str | None:
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except TimeoutError:
        return f"no answer in {_CONNECT_SECONDS:g} s: a firewall, or a wrong address"
    except OSError as error:
        return error.strerror or str(error)
    return None


def port(config: Config, is_running: bool) -> Iterator[Finding]:
    host, number = multiaddr_host_port(config.network.listen)
    if is_running:
        yield ok("port", f"the running daemon holds {host}:{number}")
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
    except OSError as error:
        fix = f"`ss -ltnp 'sport = :{number}'` says who has it; end that, or change [network] listen"
        yield failure("port", f"{host}:{number} cannot be listened on: {error.strerror}", fix)
        return
    yield ok("port", f"{host}:{number} is free")


def reachable(
    config: Config, is_running: bool, reach: Reach | None = None, connect: Connect = tcp_connect
) -> Iterator[Finding]:
    """What connected peers found when they dialled us; where none could, what we announce is dialled from here."""
    if not is_running:
        yield skipped("reachable", "the daemon is not running, so nobody can try: start it, then ask again")
    elif reach is None or not reach.sightings:
        yield from _announced(config, connect)
    else:
        yield _tried(config, reach)


def _tried(config: Config, reach: Reach) -> Finding:
    tried, port = reach.sightings, reach.port
    places = ", ".join(sorted({one.ip for one in tried}))
    well = sum(not one.trouble for one in tried)
    if well:
        return ok("reachable", f"yes: {well} of {len(tried)} peers that tried reached TCP {port} at {places}")
    why = "; ".join(sorted({clean(one.trouble) for one in tried}))
    what = f"no: {len(tried)} peers tried TCP {port} at {places}: {why}"
    what += "; they come through a relay instead" if config.network.relays else ""
    is_direct = all(is_ours(one.ip) for one in tried)
    fix = "open it in this host's firewall" if is_direct else "forward it to this host, open it in its firewall"
    return warning("reachable", what, f"TCP {port}: {fix}; covenantd help firewall")


def _announced(config: Config, connect: Connect) -> Iterator[Finding]:
    """A yes proves the forward, a no may be a router that does not loop back."""
    if not config.network.announce:
        yield skipped("reachable", "unknown: no peer is connected that could try; ask again once one is")
    for address in config.network.announce:
        host, number = multiaddr_host_port(address.partition("/p2p/")[0])
        trouble = connect(host, number)
        if trouble is None:
            yield ok("reachable", f"{address} answers")
        else:
            fix = f"open TCP {number} in the firewall, forward it to this host; from outside: nc -vz {host} {number}"
            yield warning("reachable", f"{address} does not answer from here: {trouble}", fix)


def nat(
    config: Config, reach: Reach | None = None, own_address: Callable[[], str | None] | None = None
) -> Iterator[Finding]:
    """From the address peers see us at; before there are any, from the one our packets leave with."""
    if reach is not None and reach.sightings:
        yield _seen(config, reach)
        return
    address = (own_address or (lambda: _own_address(config)))()
    if address is None:
        yield skipped("nat", "no route to the outside: the address of this host is not known")
        return
    ip, number = ipaddress.ip_address(address), multiaddr_host_port(config.network.listen)[1]
    forward = f"forward TCP {number} of the router to {address} and set [network] announce to /ip4/PUBLIC/tcp/{number}"
    if ip.is_loopback or config.network.announce:
        yield ok("nat", f"{address}; announced: {', '.join(config.network.announce) or 'as it is'}")
    elif config.network.relays and not ip.is_global:
        yield ok("nat", f"{address}; reached through {', '.join(config.network.relays)}")
    elif ip in _SHARED if ip.version == 4 else False:
        fix = "ask the provider for a public address, use IPv6, or set [network] relays: covenantd help firewall"
        yield warning("nat", f"{address} is behind the provider's NAT: others cannot dial this host", fix)
    elif ip.is_private:
        fix = f"{forward}; not needed if all peers are in this network"
        yield warning("nat", f"{address} is a private address, and [network] announce is empty", fix)
    else:
        yield ok("nat", f"{address} is a public address")


def _seen(config: Config, reach: Reach) -> Finding:
    """None, one with the same port towards everybody, or one with another port for each."""
    seen = reach.sightings
    places = sorted({one.ip for one in seen})
    if all(map(is_ours, places)):
        return ok("nat", f"none: peers see this host at its own address, {', '.join(places)}")
    ports = {one.source_port for one in seen}
    kind = "one outside port for all peers" if len(ports) == 1 else "symmetric, another outside port for each peer"
    kind = kind if len(seen) > 1 else "of what kind one peer alone cannot tell"
    what = f"a NAT, {kind}: peers see us at {', '.join(places)}"
    if any(not one.trouble for one in seen):
        return ok("nat", f"{what}; the port is forwarded")
    if config.network.relays:
        return ok("nat", f"{what}; reached through {', '.join(config.network.relays)}")
    port, kind = multiaddr_host_port(config.network.listen)[1], "ip6" if ":" in places[0] else "ip4"
    announce = f"/{kind}/{places[0]}/tcp/{port}"
    fix = f"forward TCP {port} of the router to this host and set [network] announce to {announce}, or set relays"
    return warning("nat", what, fix)


def is_ours(ip: str) -> bool:
    """Whether an interface of this host has that address."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True


def _own_address(config: Config) -> str | None:
    """The source address towards a bootstrap peer, or the outside; no packet is sent."""
    targets = [multiaddr_host_port(one.partition("/p2p/")[0]) for one in config.network.bootstrap]
    for host, number in [*targets, ("192.0.2.1", 9)]:
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((host, number))
                return str(probe.getsockname()[0])
        except OSError:
            continue  # no route there, or a name that does not resolve
    return None


def bootstrap(config: Config, connect: Connect = tcp_connect) -> Iterator[Finding]:
    addresses = config.network.bootstrap
    if not addresses:
        if config.node.role == "bootstrap":
            yield ok("bootstrap", "none needed: others come to us")
        else:
            yield warning(
                "bootstrap", "no peer to join through", "set [network] bootstrap to the run's bootstrap peers"
            )
        return
    dead = 0
    for address in addresses:
        trouble = connect(*multiaddr_host_port(address.partition("/p2p/")[0]))
        if trouble is None:
            yield ok("bootstrap", f"{address} answers")
        else:
            dead += 1
            level = failure if dead == len(addresses) else warning
            yield level("bootstrap", f"{address}: {trouble}", "is it up, is its port open, is the address still right?")


def http(config: Config) -> Iterator[Finding]:
    if not config.http.listen:
        yield ok("http", "off")
        return
    host, number = split_host_port(config.http.listen)
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if is_local:
        yield ok("http", f"{config.http.listen}, for this host alone")
    else:
        fix = f"let only your monitoring reach TCP {number}, or listen on 127.0.0.1:{number}"
        yield warning("http", f"{config.http.listen}: whoever reaches it reads status, peers and metrics", fix)


def endpoint(config: Config) -> Iterator[Finding]:
    problem = endpoint_problem(config.chain.endpoint)
    if problem is not None:
        yield failure("chain", f"[chain] endpoint {config.chain.endpoint!r} {problem}", "correct it")
