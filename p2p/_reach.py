"""Which of a peer's addresses reach it from the farthest: those go first, in its record and on chain."""

import ipaddress
from collections.abc import Iterable

CIRCUIT = "/p2p-circuit"
_GLOBAL, _PRIVATE, _LOOPBACK, _NOWHERE = 0, 2, 4, 6


def farthest_first(addresses: Iterable[str]) -> tuple[str, ...]:
    """Without repetition; among equals the order stays. A relayed one comes after direct ones of its kind."""
    return tuple(sorted(dict.fromkeys(addresses), key=_rank))


def _rank(address: str) -> int:
    return _kind(address) + int(CIRCUIT in address)


def _kind(address: str) -> int:
    protocol, host = (*address.split("/")[1:3], "", "")[:2]
    if protocol.startswith("dns"):
        return _LOOPBACK if host == "localhost" else _GLOBAL
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return _NOWHERE
    if ip.is_loopback:
        return _LOOPBACK
    if ip.is_link_local or ip.is_unspecified or ip.is_multicast:
        return _NOWHERE
    return _GLOBAL if ip.is_global else _PRIVATE
