"""The chain and the DHT, with every call counted by its outcome (alerts ask whether they still answer); the
transport, with the bytes of every question and answer counted."""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import TypeVar

from covenantd.chain.protocol import Block, Chain, EpochInfo, Metagraph
from covenantd.errors import ChainError, ChainRefused
from covenantd.metrics import Metrics
from p2p.errors import TransportError
from p2p.exchange_settings import PROTOCOL as EXCHANGE
from p2p.flows import Flow
from p2p.protocols import PeerId, RecordStore, Stream, StreamHandler, Transport

_Answer = TypeVar("_Answer")


class CountedChain:
    """See `covenantd.chain.protocol.Chain`. Heads are not counted one by one: `chain_block` shows them."""

    def __init__(self, chain: Chain, metrics: Metrics) -> None:
        self._chain = chain
        self._requests = metrics.chain_requests

    def heads(self) -> AsyncIterator[Block]:
        return self._chain.heads()

    async def block(self, number: int | None = None) -> Block:
        return await self._counted("block", self._chain.block(number))

    async def metagraph(self, block: int) -> Metagraph:
        return await self._counted("metagraph", self._chain.metagraph(block))

    async def publish_commitment(self, fields: Sequence[bytes]) -> int:
        return await self._counted("publish_commitment", self._chain.publish_commitment(fields))

    async def set_weights(self, weights: Mapping[int, float], version_key: int = 0) -> int:
        return await self._counted("set_weights", self._chain.set_weights(weights, version_key))

    async def reveal_due(self) -> int | None:
        return await self._chain.reveal_due()

    async def epoch(self) -> EpochInfo:
        return await self._counted("epoch", self._chain.epoch())

    async def _counted(self, call: str, answer: Awaitable[_Answer]) -> _Answer:
        try:
            value = await answer
        except ChainRefused:
            self._requests.labels(call, "refused").inc()
            raise
        except ChainError:
            self._requests.labels(call, "error").inc()
            raise
        self._requests.labels(call, "ok").inc()
        return value


class CountedRecords:
    """See `p2p.protocols.RecordStore`. A store that no node took counts as refused."""

    def __init__(self, records: RecordStore, metrics: Metrics) -> None:
        self._records = records
        self._operations = metrics.dht_operations

    async def store(self, key: str, subkey: str, value: bytes, lifetime_seconds: float) -> bool:
        taken = await self._counted("store", self._records.store(key, subkey, value, lifetime_seconds))
        self._operations.labels("store", "ok" if taken else "refused").inc()
        return taken

    async def fetch(self, key: str) -> dict[str, bytes]:
        found = await self._counted("fetch", self._records.fetch(key))
        self._operations.labels("fetch", "ok").inc()
        return found

    async def _counted(self, operation: str, answer: Awaitable[_Answer]) -> _Answer:
        try:
            return await answer
        except TransportError:
            self._operations.labels(operation, "error").inc()
            raise


class CountedTransport:
    """See `p2p.protocols.Transport`. What goes over streams is counted as control, but for the exchange's: of those
    the blobs' pieces are, by what they are, and its news, manifests and requests are not."""

    def __init__(self, transport: Transport, metrics: Metrics) -> None:
        self._transport = transport
        self._metrics = metrics

    @property
    def peer_id(self) -> PeerId:
        return self._transport.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._transport.addresses

    async def dial(self, address: str) -> PeerId:
        return await self._transport.dial(address)

    async def open(self, peer: PeerId, protocol: str) -> Stream:
        return self._counted(await self._transport.open(peer, protocol), protocol)

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        await self._transport.handle(protocol, lambda stream: handler(self._counted(stream, protocol)))

    def flows(self) -> Sequence[Flow]:
        return self._transport.flows()

    async def connected(self) -> tuple[PeerId, ...]:
        return await self._transport.connected()

    def _counted(self, stream: Stream, protocol: str) -> Stream:
        return stream if protocol == EXCHANGE else _CountedStream(stream, self._metrics)


class _CountedStream:
    def __init__(self, stream: Stream, metrics: Metrics) -> None:
        self._stream = stream
        self._metrics = metrics

    @property
    def remote(self) -> PeerId:
        return self._stream.remote

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)
        self._metrics.add_network_bytes("sent", "control", len(data))

    async def receive_some(self, max_bytes: int) -> bytes:
        data = await self._stream.receive_some(max_bytes)
        self._metrics.add_network_bytes("received", "control", len(data))
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()
