"""`covenantd doctor` on the network: can we listen, can others reach us, can we reach them."""

import ipaddress
import socket
from collections.abc import Callable, Iterator

from covenantd.addresses import endpoint_problem, multiaddr_host_port, split_host_port
from covenantd.config import Config
from covenantd.finding import Finding, failure, ok, skipped, warning

_CONNECT_SECONDS = 4.0
_SHARED = ipaddress.ip_network("100.64.0.0/10")  # carrier-grade NAT (RFC 6598)

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


def reachable(config: Config, is_running: bool, connect: Connect = tcp_connect) -> Iterator[Finding]:
    """What we announce, dialled from here: a yes proves the forward, a no may be a router that does not loop back."""
    if not config.network.announce:
        yield skipped("reachable", "nothing is set under [network] announce, so there is no outside address to try")
        return
    if not is_running:
        yield skipped("reachable", "the daemon is not running: start it, then ask again")
        return
    for address in config.network.announce:
        host, number = multiaddr_host_port(address.partition("/p2p/")[0])
        trouble = connect(host, number)
        if trouble is None:
            yield ok("reachable", f"{address} answers")
        else:
            fix = f"open TCP {number} in the firewall, forward it to this host; from outside: nc -vz {host} {number}"
            yield warning("reachable", f"{address} does not answer from here: {trouble}", fix)


def nat(config: Config, own_address: Callable[[], str | None] | None = None) -> Iterator[Finding]:
    """From the address our packets leave with: a private one is not what the world sees."""
    address = (own_address or (lambda: _own_address(config)))()
    if address is None:
        yield skipped("nat", "no route to the outside: the address of this host is not known")
        return
    ip, number = ipaddress.ip_address(address), multiaddr_host_port(config.network.listen)[1]
    forward = f"forward TCP {number} of the router to {address} and set [network] announce to /ip4/PUBLIC/tcp/{number}"
    if ip.is_loopback or config.network.announce:
        yield ok("nat", f"{address}; announced: {', '.join(config.network.announce) or 'as it is'}")
    elif ip in _SHARED if ip.version == 4 else False:
        fix = "ask the provider for a public address, use IPv6, or run where there is one; then set [network] announce"
        yield warning("nat", f"{address} is behind the provider's NAT: others cannot dial this host", fix)
    elif ip.is_private:
        fix = f"{forward}; not needed if all peers are in this network"
        yield warning("nat", f"{address} is a private address, and [network] announce is empty", fix)
    else:
        yield ok("nat", f"{address} is a public address")


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
