"""The chain and the DHT, with every call counted by its outcome: alerts ask whether they still answer."""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import TypeVar

from covenantd.chain.protocol import Block, Chain, EpochInfo, Metagraph
from covenantd.errors import ChainError, ChainRefused
from covenantd.metrics import Metrics
from p2p.errors import TransportError
from p2p.protocols import RecordStore

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
