"""How much one peer, and all peers together, may have of us at a time.

Identities are free, so peers we do not know (`admit` says whom we do) have little each and half of it all together.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from p2p.errors import Busy
from p2p.protocols import PeerId

Admit = Callable[[PeerId], bool]
MAX_PEERS_COUNTED = 4096
_OTHERS = ""
_STRANGERS_SLOTS = 4  # a stranger has so many times fewer than a peer we know
_PEERS_SHARE = 4  # one peer has at most this part of a byte budget, except for its first piece
_V = TypeVar("_V")


def everyone(peer: PeerId) -> bool:
    return True


class SlotLimiter:
    """Slots (streams, requests), so many a peer and so many in all. Who finds none is told so, not queued."""

    def __init__(self, per_peer: int, total: int, admit: Admit = everyone) -> None:
        self._per_peer = per_peer
        self._total = total
        self._admit = admit
        self._held: Counter[PeerId] = Counter()
        self._held_by_strangers = 0

    @property
    def held(self) -> int:
        return self._held.total()

    @contextmanager
    def slot(self, peer: PeerId) -> Iterator[None]:
        """Raises Busy when the peer, or everybody together, holds too many."""
        stranger = not self._admit(peer)
        if self.held >= self._total or self._held[peer] >= self._most(stranger) or (stranger and self._crowded()):
            raise Busy(f"no slot for {peer}: it holds {self._held[peer]}, all hold {self.held}")
        self._held[peer] += 1
        self._held_by_strangers += stranger
        try:
            yield
        finally:
            self._held_by_strangers -= stranger
            self._held[peer] -= 1
            if not self._held[peer]:
                del self._held[peer]  # strangers come and go; the table must not grow

    def _most(self, stranger: bool) -> int:
        return max(self._per_peer // _STRANGERS_SLOTS, 1) if stranger else self._per_peer

    def _crowded(self) -> bool:
        return self._held_by_strangers >= max(self._total // 2, 1)


@dataclass(eq=False)
class _Holding:
    peer: PeerId
    size_bytes: int
    stranger: bool
    granted: trio.Event = field(default_factory=trio.Event)


class ByteBudget:
    """A bound on the bytes in memory at a time; who asks for more waits, first come first served of those whose own
    share is not used up."""

    def __init__(self, total_bytes: int, admit: Admit = everyone) -> None:
        self._total = self._free = total_bytes
        self._admit = admit
        self._held: Counter[PeerId] = Counter()
        self._held_by_strangers = 0
        self._waiting: list[_Holding] = []

    @asynccontextmanager
    async def hold(self, size_bytes: int, peer: PeerId) -> AsyncIterator[None]:
        """More than the whole budget counts as the whole budget, so that it can be had at all."""
        holding = _Holding(peer, min(size_bytes, self._total), not self._admit(peer))
        self._waiting.append(holding)
        self._grant()
        try:
            await holding.granted.wait()
            yield
        finally:
            if holding.granted.is_set():
                self._account(holding, -1)
            else:
                self._waiting.remove(holding)
            self._grant()

    def _grant(self) -> None:
        for holding in list(self._waiting):
            if self._exceeds_share(holding):
                continue
            if holding.size_bytes > self._free:
                return
            self._waiting.remove(holding)
            self._account(holding, 1)
            holding.granted.set()

    def _exceeds_share(self, holding: _Holding) -> bool:
        held, strangers = self._held[holding.peer], self._held_by_strangers
        if held and held + holding.size_bytes > self._total // _PEERS_SHARE:
            return True
        return holding.stranger and bool(strangers) and strangers + holding.size_bytes > self._total // 2

    def _account(self, holding: _Holding, sign: int) -> None:
        size_bytes = sign * holding.size_bytes
        self._free -= size_bytes
        self._held[holding.peer] += size_bytes
        self._held_by_strangers += size_bytes * holding.stranger
        if not self._held[holding.peer]:
            del self._held[holding.peer]


def count(counts: Counter[PeerId], peer: PeerId, amount: int) -> None:
    """The sum stays right when those of whom nothing came for the longest time are no longer told apart."""
    counts[peer] = counts.pop(peer, 0) + amount
    if len(counts) > MAX_PEERS_COUNTED:
        oldest = next(one for one in counts if one != _OTHERS)
        counts[_OTHERS] += counts.pop(oldest)


def forget_oldest(table: dict[PeerId, _V], most: int = MAX_PEERS_COUNTED) -> None:
    while len(table) > most:
        del table[next(iter(table))]
