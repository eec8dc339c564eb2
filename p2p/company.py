"""Staying in touch: with bootstrap peers; when all of those are dead, with others; and remembering whom we met."""

import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from p2p._reach import farthest_first
from p2p.meetings import Backoff
from p2p.peerbook import Peer
from p2p.peercache import PeerCache
from p2p.protocols import PeerId
from p2p.swarm_settings import SwarmSettings

Meet = Callable[[PeerId, str], Awaitable[bool]]
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


class Company:
    """Whom to look for where: when nobody of the run is there, and, at leisure, those whom we have not met.

    `peers()`: the run's, as we know them; strangers are no company. `candidates()`: addresses somebody told us.
    `reached` (to be written by who dials): where a peer answered. An address ends in /p2p/PEER_ID.
    """

    def __init__(
        self,
        own: PeerId,
        peers: Callable[[], Iterable[Peer]],
        candidates: Callable[[], Iterable[str]],
        cache: PeerCache | None,
        is_banned: Callable[[PeerId], bool] = lambda peer: False,
    ) -> None:
        self.reached: dict[PeerId, str] = {}
        self._own = own
        self._peers = peers
        self._candidates = candidates
        self._cache = cache
        self._is_banned = is_banned

    def alone(self) -> bool:
        return not any(peer.connected for peer in self._peers())

    def addresses(self) -> list[str]:
        """Of others, not banned: one we were told, one from the cache, in turn: a list of the dead delays nobody."""
        cached = self._cache.addresses if self._cache is not None else ()
        pairs = itertools.zip_longest(self._candidates(), cached)
        known = [one for one in dict.fromkeys(itertools.chain(*pairs)) if one]
        return [one for one in known if _peer_of(one) != self._own and not self._is_banned(_peer_of(one))]

    def unmet(self) -> list[str]:
        """Addresses of peers that are not in the book."""
        met = {peer.peer_id for peer in self._peers()}
        return [address for address in self.addresses() if _peer_of(address) not in met]

    async def keep(self, meet: Meet, settings: SwarmSettings) -> None:
        """While alone, try everybody, ever more slowly. Otherwise now and then a few of those we have not met: two
        parts of a run that were apart know of each other by the chain or from before, and by nothing else."""
        backoff = Backoff(settings.lonely_seconds, settings.retry_last_seconds)
        looked_at = trio.current_time()
        while True:
            await trio.sleep(backoff.next_seconds())
            if self.alone():
                await self._try(self.addresses(), meet, settings.max_dials)
                continue
            backoff.reset()
            if trio.current_time() - looked_at >= settings.explore_seconds:
                looked_at = trio.current_time()
                unmet = self.unmet()
                await _meet_all(random.sample(unmet, min(len(unmet), settings.max_dials)), meet)

    async def _try(self, addresses: Sequence[str], meet: Meet, at_a_time: int) -> None:
        for start in range(0, len(addresses), at_a_time):
            if self.alone():
                await _meet_all(addresses[start : start + at_a_time], meet)

    async def keep_cache(self, seconds: float) -> None:
        """Remember who is connected, for ever."""
        while self._cache is not None:
            await trio.sleep(seconds)
            there = [peer for peer in self._peers() if peer.connected]
            self.reached = {p.peer_id: self.reached[p.peer_id] for p in there if p.peer_id in self.reached}
            self._cache.remember(address for peer in there for address in self._best(peer))

    def _best(self, peer: Peer) -> list[str]:
        """Where it answered, then what reaches it from the farthest."""
        reached = [self.reached[peer.peer_id]] if peer.peer_id in self.reached else []
        return list(dict.fromkeys((*reached, *farthest_first(peer.addresses))))[:_ADDRESSES_EACH]


async def _meet_all(addresses: Iterable[str], meet: Meet) -> None:
    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(meet, _peer_of(address), address)


def _peer_of(address: str) -> PeerId:
    return address.rpartition("/p2p/")[2]
