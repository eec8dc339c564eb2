"""Checks of the addresses an operator may write. Pure; each check returns what is wrong, or None."""

import ipaddress
import re
from collections.abc import Sequence

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")
_PEER_ID = re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,64}")
MAX_UNIX_PATH_BYTES = 4096


def multiaddr_problem(address: str, *, peer_required: bool = False, peer_allowed: bool = True) -> str | None:
    """`/ip4/1.2.3.4/tcp/31330[/p2p/PEER_ID]`, also ip6, dns, dns4, dns6, and relayed `/p2p-circuit/p2p/ID`.

    Port 0 is let through: it is good to listen on.
    """
    parts = address.split("/")
    if len(address) > 512 or len(parts) < 5 or parts[0]:
        return "is not a multiaddr such as /ip4/203.0.113.7/tcp/31330"
    if (problem := _host_problem(parts[1], parts[2])) is not None:
        return problem
    if parts[3] != "tcp":
        return f"uses {parts[3]!r}; only tcp is spoken here, e.g. /ip4/203.0.113.7/tcp/31330"
    if (problem := _port_problem(parts[4])) is not None:
        return problem
    return _peer_problem(parts[5:], peer_required, peer_allowed)


def _host_problem(kind: str, value: str) -> str | None:
    if kind in ("dns", "dns4", "dns6"):
        return None if _HOST_NAME.fullmatch(value) else f"has a bad host name {value!r}"
    if kind not in ("ip4", "ip6"):
        return f"starts with {kind!r}; use ip4, ip6, dns, dns4 or dns6"
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError:
        return f"has a bad {kind} address {value!r}"
    return None if parsed.version == int(kind[2]) else f"calls the IPv{parsed.version} address {value} {kind}"


def _port_problem(text: str) -> str | None:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535:
        return None
    return f"has a bad port {text!r} (0 to 65535)"


def _peer_problem(rest: list[str], required: bool, allowed: bool) -> str | None:
    if not rest:
        return "must end in /p2p/PEER_ID: take the whole address the other peer prints" if required else None
    if not allowed:
        return "must not go on after the port: our own peer id is known"
    while rest:
        if len(rest) < 2 or rest[0] != "p2p" or not _PEER_ID.fullmatch(rest[1]):
            return "must end in /p2p/PEER_ID"
        rest = rest[2:]
        if rest and (rest[0] != "p2p-circuit" or len(rest) == 1):
            return "must end in /p2p/PEER_ID"
        rest = rest[1:]
    return None


def most_reachable(addresses: Sequence[str], announced: Sequence[str]) -> str:
    """The one to tell strangers, without our peer id: what the operator announces, else a global address, else a
    private one; loopback only if there is nothing else. "" if there is none. One through a relay does not count: it
    is another peer's, and longer than a commitment has room for."""
    for choice in (announced, sorted(addresses, key=_remoteness)):
        direct = [one.partition("/p2p/")[0] for one in choice if "/p2p-circuit" not in one]
        if direct:
            return direct[0]
    return ""


def _remoteness(address: str) -> int:
    """0: from anywhere; 1: from the same network; 2: from the same link; 3: from the same host."""
    kind, host = address.split("/")[1:3]
    if kind not in ("ip4", "ip6"):
        return 0
    parsed = ipaddress.ip_address(host)
    if parsed.is_loopback or parsed.is_unspecified:
        return 3
    if parsed.is_link_local:
        return 2
    return 0 if parsed.is_global else 1


def listen_problem(address: str) -> str | None:
    """`HOST:PORT`, `[IPv6]:PORT`, or empty for off."""
    if not address:
        return None
    try:
        split_host_port(address)
    except ValueError as error:
        return str(error)
    return None


def split_host_port(address: str) -> tuple[str, int]:
    """Host (IPv6 without its brackets) and port; ValueError says what is wrong."""
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError("is not HOST:PORT, e.g. 127.0.0.1:9464")
    if (problem := _port_problem(port)) is not None:
        raise ValueError(problem)
    if host.startswith("[") and host.endswith("]"):
        if _host_problem("ip6", host[1:-1]) is not None:
            raise ValueError(f"has a bad IPv6 address {host}")
        return host[1:-1], int(port)
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"has a bad host {host!r} (an IPv6 address goes in brackets)")
    return host, int(port)


def multiaddr_host_port(address: str) -> tuple[str, int]:
    """Of /ip4/HOST/tcp/PORT or /ip6/HOST/tcp/PORT, as `multiaddr_problem` has found it good."""
    _, _, host, _, port = address.split("/")[:5]
    return host, int(port)


def endpoint_problem(endpoint: str) -> str | None:
    """A ledger's address: `unix:///absolute/path` or `tcp://HOST:PORT`."""
    scheme, separator, rest = endpoint.partition("://")
    if separator and scheme == "unix":
        good = rest.startswith("/") and "\0" not in rest and len(rest.encode()) < MAX_UNIX_PATH_BYTES
        return None if good else "needs an absolute path: unix:///run/covenantd-ledger/ledger.sock"
    if separator and scheme == "tcp":
        if not rest:
            return "is not HOST:PORT, e.g. tcp://127.0.0.1:9945"
        return listen_problem(rest)
    return "is neither unix:///PATH nor tcp://HOST:PORT"
