"""Bittensor as a `Chain`: trio outside, the SDK's asyncio in a thread of its own inside."""

import contextlib
import logging
import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from covenantd.chain.bittensor.endpoint import shown
from covenantd.chain.bittensor.fate import Included, NotTaken, Unknown
from covenantd.chain.bittensor.link import Dial, Link, Question, Unreachable
from covenantd.chain.bittensor.reading import read_block, read_epoch, read_metagraph
from covenantd.chain.bittensor.signing import SdkSigner
from covenantd.chain.bittensor.writing import (
    CommitmentWrite,
    Seen,
    WeightsWrite,
    Write,
    checked_fields,
)
from covenantd.chain.protocol import MAX_COMMITMENT_FIELDS, MAX_FIELD_BYTES, Block, EpochInfo, Metagraph
from covenantd.errors import ChainError, ChainRefused
from p2p._asyncio_thread import AsyncioThread
from p2p.errors import TransportError, TransportTimeout
from p2p.protocols import Signer

logger = logging.getLogger(__name__)
T = TypeVar("T")
_LONG_POLL_SECONDS = 6.0  # half a block: heads go on even where announcements do not come
_FIRST_BACKOFF_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 5.0
_DROP_SECONDS = 1.0
_U16_MAX = 65535


class _TooLate(ChainError):
    """Our own deadline is over."""


class BittensorChain:
    """Implements `covenantd.chain.protocol.Chain`. The thread starts with the first call; `aclose` ends it.

    A read is retried while there is no connection, until `read_seconds` are over. A write is retried until
    `write_seconds` are over, but included once: its fate is read from the finalized state, and only one that is not
    there is submitted again, under the same nonce (commitments) or when it can be included no longer (weights).
    """

    def __init__(
        self,
        endpoint: str,
        netuid: int,
        signer: Signer | None = None,
        *,
        archive: str = "",
        dial: Dial | None = None,
        read_seconds: float = 30.0,
        submit_seconds: float = 120.0,
        write_seconds: float = 600.0,
        connect_seconds: float = 60.0,
        silence_seconds: float = 60.0,
    ) -> None:
        """`endpoint`: as `bittensor_endpoint_problem` finds it good. Without a signer it only reads. `archive`: where
        to read what the endpoint has forgotten. `dial` makes a `bittensor.Substrate` in its stead, for tests."""
        self.endpoint = shown(endpoint)
        self._netuid = netuid
        self._signer = signer
        self._dial = dial or (lambda: _rpc_substrate(endpoint, archive))
        self._read_seconds = read_seconds
        self._submit_seconds = submit_seconds
        self._write_seconds = write_seconds
        self._link_seconds = (connect_seconds, silence_seconds)
        self._thread: AsyncioThread | None = None
        self._link: Link | None = None
        self._starting = trio.Lock()

    async def heads(self) -> AsyncIterator[Block]:
        """As the protocol says; starts with the present head. A chain that is away is waited for."""
        last: Block | None = None
        while True:
            last = await self._next_head(last)
            yield last

    async def block(self, number: int | None = None) -> Block:
        return await self._read("block", lambda connection: read_block(connection, number))

    async def metagraph(self, block: int) -> Metagraph:
        return await self._read("metagraph", lambda connection: read_metagraph(connection, self._netuid, block))

    async def epoch(self) -> EpochInfo:
        return await self._read("epoch", lambda connection: read_epoch(connection, self._netuid))

    async def publish_commitment(self, fields: Sequence[bytes]) -> int:
        checked = checked_fields(fields, MAX_COMMITMENT_FIELDS, MAX_FIELD_BYTES)
        return await self._write(CommitmentWrite(self._netuid, self._require_signer(), checked))

    async def set_weights(self, weights: Mapping[int, float], version_key: int = 0) -> int:
        """On a subnet with commit-reveal they are sealed until the chain itself opens them, an epoch or more later.
        Raises ValueError for a negative or infinite weight."""
        if any(not math.isfinite(value) or value < 0 for value in weights.values()):
            raise ValueError("weights are finite and not negative")
        if any(not 0 <= uid <= _U16_MAX for uid in weights):
            raise ChainRefused("UidVecContainInvalidOne", "a uid has 16 bits")
        return await self._write(WeightsWrite(self._netuid, self._require_signer(), dict(weights), version_key))

    async def reveal_due(self) -> int | None:
        """Sealed weights are opened by the chain."""
        return None

    async def ask(self, what: str, question: Question[T]) -> T:
        """Any other read of the SDK's, under the same deadline. Raises ChainError, ChainRefused."""
        return await self._read(what, question)

    async def aclose(self) -> None:
        """End the thread and its connection; works under cancellation."""
        if self._thread is None:
            return
        if self._link is not None:
            link = self._link
            with trio.CancelScope(shield=True):
                try:
                    await self._thread.call(link.close, 2 * _DROP_SECONDS + 1)
                except TransportError as error:
                    logger.debug("closing the chain's connection: %s", error)
        await self._thread.stop()

    async def _next_head(self, last: Block | None) -> Block:
        pauses, silent = _backoff(), False
        while True:
            try:
                if last is not None:
                    await self._wait_for_head(last.number)
                head = await self.block()
                if last is None or head.number > last.number:
                    return head
            except ChainError as error:
                if not silent:
                    logger.warning("chain silent: %s", error)
                silent = True
            await trio.sleep(next(pauses))

    async def _wait_for_head(self, after: int) -> None:
        """Until a head past `after` is announced, or a while: then the caller looks for itself."""
        link = await self._started()
        try:
            assert self._thread is not None
            await self._thread.call(lambda: link.head_after(after), _LONG_POLL_SECONDS)
        except TransportTimeout:
            return
        except TransportError as error:
            raise ChainError(str(error)) from None

    async def _read(self, what: str, question: Question[T]) -> T:
        pauses, trouble = _backoff(), ""
        deadline = trio.current_time() + self._read_seconds
        while True:
            try:
                return await self._ask(what, question, max(0.0, deadline - trio.current_time()))
            except Unreachable as error:
                trouble = str(error)
                await trio.sleep(min(next(pauses), max(0.0, deadline - trio.current_time())))
            except _TooLate as error:
                raise ChainError(f"{error}: {trouble}" if trouble else str(error)) from None

    async def _ask(self, what: str, question: Question[T], seconds: float) -> T:
        link = await self._started()
        assert self._thread is not None
        try:
            return await self._thread.call(lambda: link.ask(question), seconds)
        except TransportTimeout:
            with contextlib.suppress(TransportError):
                await self._thread.call(lambda: link.give_up_if_stalled(seconds), _DROP_SECONDS)
            raise _TooLate(f"chain {self.endpoint}: no answer to {what} in time") from None
        except TransportError as error:
            raise ChainError(f"chain {self.endpoint}: {error}") from None

    async def _write(self, write: Write) -> int:
        """Returns the block the write succeeded in."""
        with self._deadline(write.what):
            seen = await self._seen(write, -1)
            since = seen.head
            if isinstance(write, CommitmentWrite) and seen.block is not None:
                return seen.block
            while True:
                block = await self._submit_once(write, since)
                if block is not None:
                    return block

    async def _submit_once(self, write: Write, since: int) -> int | None:
        """The block of one submission; None if there is none and it cannot come to one any more."""
        try:
            fate = await self._ask(write.what, write.submit, self._submit_seconds)
        except ChainError as error:
            if write.signer.has_signed:
                fate = Unknown(str(error))
            elif isinstance(error, Unreachable | _TooLate):
                fate = NotTaken(str(error))  # what was never signed was never sent
            else:
                raise
        if isinstance(fate, Included) and fate.block is not None:
            return fate.block
        if isinstance(fate, NotTaken):
            logger.info("%s was not taken: %s", write.what, fate.reason)
            return await self._fate(write, since, 1)
        if isinstance(fate, Unknown):
            logger.warning("fate of %s unknown: %s", write.what, fate.reason)
        return await self._fate(write, since, write.settled_after_blocks)

    async def _fate(self, write: Write, since: int, life_blocks: int) -> int | None:
        """The block that the finalized state shows the write in; None once `life_blocks` more are final without."""
        last, pauses = None, _backoff()
        while True:
            try:
                seen = await self._seen(write, since)
            except ChainError as error:
                logger.info("fate of %s still unknown: %s", write.what, error)
                await trio.sleep(next(pauses))
                continue
            if seen.block is not None:
                return seen.block
            if last is None:
                last = seen.head + life_blocks
            if seen.head >= last:
                return None
            await self._wait_for_head(seen.head)
            await trio.sleep(_FIRST_BACKOFF_SECONDS)  # the head that is announced may be another endpoint's

    async def _seen(self, write: Write, since: int) -> Seen:
        return await self._read(write.what, lambda connection: write.seen(connection, since))

    async def _started(self) -> Link:
        async with self._starting:
            if self._link is None:
                thread = AsyncioThread("bittensor")
                await thread.start()
                self._thread = thread
                self._link = await thread.call(self._make_link, _DROP_SECONDS)
            return self._link

    async def _make_link(self) -> Link:
        return Link(self._dial, *self._link_seconds)

    def _require_signer(self) -> SdkSigner:
        if self._signer is None:
            raise ChainRefused("BadSignature", "this client has no hotkey to sign with")
        return SdkSigner(self._signer)  # one for each write: it notes whether it was used

    @contextmanager
    def _deadline(self, what: str) -> Iterator[None]:
        try:
            with trio.fail_after(self._write_seconds):
                yield
        except trio.TooSlowError:
            raise ChainError(
                f"chain {self.endpoint}: {what} is in no final block within {self._write_seconds:g} s; it may yet be"
            ) from None


def _rpc_substrate(endpoint: str, archive: str) -> object:
    import bittensor
    from bittensor import settings

    network, address = settings.resolve_endpoint(endpoint)
    fallbacks = settings.default_fallback_endpoints(network)
    archives = [settings.resolve_endpoint(archive)[1]] if archive else settings.default_archive_endpoints(network)
    return bittensor.RpcSubstrate(address, fallback_endpoints=fallbacks, archive_endpoints=archives)


def _backoff() -> Iterator[float]:
    """Seconds to wait, doubling, with jitter so that an endpoint that returns is not met by everyone at once."""
    pause = _FIRST_BACKOFF_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, _LONGEST_BACKOFF_SECONDS)
