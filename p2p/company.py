"""Staying in touch: with bootstrap peers; when all of those are dead, with others; and remembering whom we met."""

import logging
from collections.abc import Awaitable, Callable, Iterable

import trio

from p2p.meetings import Backoff
from p2p.peerbook import Peer
from p2p.peercache import PeerCache
from p2p.protocols import PeerId

_log = logging.getLogger("p2p.swarm")
_ADDRESSES_EACH = 2


async def keep_met(
    address: str,
    is_met: Callable[[], bool],
    meet: Callable[[], Awaitable[bool]],
    backoff: Backoff,
    refresh_seconds: float,
) -> None:
    """Connected and greeted, or trying, for as long as we live: bootstrap peers come and go."""
    missed = False
    while True:
        if is_met():
            backoff.reset()
            missed = False
            await trio.sleep(refresh_seconds)
            continue
        if not await meet() and not missed:
            _log.warning("bootstrap peer %s cannot be reached; trying on", address)
            missed = True
        await trio.sleep(backoff.next_seconds())


async def keep_company(
    alone: Callable[[], bool],
    addresses: Callable[[], Iterable[str]],
    meet: Callable[[PeerId, str], Awaitable[bool]],
    waits_seconds: tuple[float, float],
    at_a_time: int,
) -> None:
    """While `alone`, try the addresses, some at a time, ever more slowly; for ever."""
    backoff = Backoff(*waits_seconds)
    while True:
        await trio.sleep(backoff.next_seconds())
        if not alone():
            backoff.reset()
            continue
        others = list(dict.fromkeys(addresses()))
        for start in range(0, len(others), at_a_time):
            if alone():
                async with trio.open_nursery() as nursery:
                    for address in others[start : start + at_a_time]:
                        nursery.start_soon(meet, address.rpartition("/p2p/")[2], address)


async def keep_cache(cache: PeerCache, peers: Callable[[], Iterable[Peer]], seconds: float) -> None:
    """Remember who is connected, for ever."""
    while True:
        await trio.sleep(seconds)
        cache.remember(one for peer in peers() if peer.connected for one in peer.addresses[:_ADDRESSES_EACH])
