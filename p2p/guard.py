"""A transport that has nothing to do with the banned."""

from collections.abc import Sequence

from p2p.errors import PeerUnreachable
from p2p.flows import Flow
from p2p.protocols import PeerId, Stream, StreamHandler, Transport
from p2p.reputation import Reputation


class GuardedTransport:
    """`inner`, without streams to or from peers that `reputation` has banned. See `p2p.protocols.Transport`."""

    def __init__(self, inner: Transport, reputation: Reputation) -> None:
        self._inner = inner
        self._reputation = reputation

    @property
    def peer_id(self) -> PeerId:
        return self._inner.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._inner.addresses

    async def dial(self, address: str) -> PeerId:
        self._refuse(address.rpartition("/p2p/")[2])
        return await self._inner.dial(address)

    async def open(self, peer: PeerId, protocol: str) -> Stream:
        self._refuse(peer)
        return await self._inner.open(peer, protocol)

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        async def guarded(stream: Stream) -> None:
            if self._reputation.is_banned(stream.remote):
                await stream.aclose()
            else:
                await handler(stream)

        await self._inner.handle(protocol, guarded)

    async def connected(self) -> tuple[PeerId, ...]:
        return tuple(peer for peer in await self._inner.connected() if not self._reputation.is_banned(peer))

    def flows(self) -> Sequence[Flow]:
        return self._inner.flows()

    def _refuse(self, peer: PeerId) -> None:
        if self._reputation.is_banned(peer):
            raise PeerUnreachable(f"{peer} is banned")
