"""The embedded ledger as a `Chain`."""

import logging
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.ledger.answers import decoded, parse_block, parse_commitment, parse_epoch, parse_metagraph
from covenantd.chain.ledger.connection import LedgerConnections, Unreachable
from covenantd.chain.ledger.hidden import HiddenWeights, parse_reveal_clock
from covenantd.chain.ledger.sealing import SealedWeights
from covenantd.chain.ledger.signing import call_digest, sign_call
from covenantd.chain.ledger.state import Refusal
from covenantd.chain.protocol import MAX_FIELD_BYTES, Block, EpochInfo, Metagraph
from covenantd.errors import ChainError, ChainRefused
from p2p.protocols import Signer

logger = logging.getLogger(__name__)
_LONG_POLL_SECONDS = 20
_FIRST_BACKOFF_SECONDS = 0.05
_LONGEST_BACKOFF_SECONDS = 2.0
_ASK_AGAIN = {"BlockNotFinalized", "NotIncludedYet", "PoolFull"}
"""Refusals of the moment, not of the thing."""
_NO_SUCH_COMMIT = {"NoWeightsCommitFound", "InvalidRevealCommitHashNotMatch"}
"""The second if there are others of ours."""


class LedgerChain:
    """Implements `covenantd.chain.protocol.Chain`. No task of its own: connections are made as calls need them.

    A read is retried until `read_seconds` are over, a write until `write_seconds` (it waits for a block). A write
    whose connection broke is looked up by its nonce before it is sent again, so it happens at most once.
    """

    def __init__(
        self,
        endpoint: str,
        netuid: int,
        signer: Signer | None = None,
        *,
        read_seconds: float = 10.0,
        write_seconds: float = 60.0,
        hidden: Path | None = None,
    ) -> None:
        """`endpoint`: unix:///PATH or tcp://HOST:PORT, else ConfigError. Without a signer it only reads. `hidden`: a
        file that keeps weights from their commit to their reveal over a restart."""
        self._connections = LedgerConnections(endpoint, netuid)
        self._signer = signer
        self._read_seconds = read_seconds
        self._write_seconds = write_seconds
        self._last_nonce = 0
        self._hidden = HiddenWeights(hidden)

    async def heads(self) -> AsyncIterator[Block]:
        """As the protocol says; starts with the present head. A ledger that is away is waited for.

        Raises ChainRefused: WrongGenesis, SubnetNotExists, HeadWentBack (the ledger denies a block it gave us).
        """
        last: Block | None = None
        while True:
            last = await self._next_head(last)
            yield last

    async def block(self, number: int | None = None) -> Block:
        value = await (self._read("head") if number is None else self._read("block", number=number))
        return decoded(parse_block, value)

    async def metagraph(self, block: int) -> Metagraph:
        return decoded(parse_metagraph, await self._read("metagraph", block=block))

    async def epoch(self) -> EpochInfo:
        return decoded(parse_epoch, await self._read("epoch"))

    async def publish_commitment(self, fields: Sequence[bytes]) -> int:
        if any(len(field) > MAX_FIELD_BYTES for field in fields):
            raise ChainRefused("InvalidArguments", f"a field has at most {MAX_FIELD_BYTES} bytes")
        signer = self._require_signer()
        with self._deadline("commitment", self._write_seconds):  # whoever writes waits for a ledger that restarts
            there = await self._retrying("commitment", {"hotkey": signer.hotkey})
        if there is not None:
            known = decoded(partial(parse_commitment, signer.hotkey), there)
            if known.fields == tuple(map(bytes, fields)):
                return known.block  # a write costs quota
        return await self._write("set_commitment", {"fields": [bytes(field).hex() for field in fields]})

    async def set_weights(self, weights: Mapping[int, float], version_key: int = 0) -> int:
        """On a ledger with commit-reveal: reveal what was set before, as far as its time has come, and commit to
        these; `reveal_due` shows them. Raises ValueError for a negative or infinite weight."""
        sealed = SealedWeights.seal(weights, version_key)
        hidden = decoded(lambda value: value.get("commit_reveal") is True, await self._read("epoch"))
        if not hidden:
            return await self._write("set_weights", sealed.open_arguments())
        await self.reveal_due()
        return await self.commit_weights(sealed)

    async def commit_weights(self, sealed: SealedWeights) -> int:
        """Commit to weights that `reveal_due` or `reveal_weights` show later. Returns the block."""
        signer = self._require_signer()
        digest = sealed.hash_for(signer.hotkey, self._connections.netuid)
        self._hidden.add(sealed)  # first: it may come into a block without our hearing of it
        try:
            block = await self._write("commit_weights", {"hash": digest})
        except ChainRefused:
            self._hidden.remove(sealed)
            raise
        self._hidden.committed(sealed, block)
        return block

    async def reveal_weights(self, sealed: SealedWeights) -> int:
        """Show weights that were committed to. Returns the block."""
        return await self._write("reveal_weights", sealed.reveal_arguments())

    async def reveal_due(self) -> int | None:
        """A commit can be revealed in one epoch only; what has missed it is given up. One of which nobody told us
        whether it came into a block may do so yet: it is looked for until the epoch after."""
        if not self._hidden:
            return None
        clock = decoded(parse_reveal_clock, await self._read("epoch"))
        for sealed, commitment in self._hidden.items():
            if commitment.block is None or clock.epochs >= clock.reveal_epoch(commitment.block):
                await self._reveal_or_give_up(sealed, clock.epochs)
        return clock.next_epoch_block if self._hidden else None

    async def _reveal_or_give_up(self, sealed: SealedWeights, epochs: int) -> None:
        try:
            await self.reveal_weights(sealed)
        except ChainRefused as refusal:
            if refusal.name == "RevealTooEarly":
                return
            if refusal.name in _NO_SUCH_COMMIT and self._hidden.unfound(sealed, epochs):
                logger.info("weights not revealed yet: their commit may still be pending (%s)", refusal)
                return
            logger.warning("weights given up: they can no longer be revealed (%s)", refusal)
        self._hidden.remove(sealed)

    async def balance(self, hotkey: str) -> int:
        """Free balance in rao at the head; 0 for a hotkey nobody heard of."""
        return (await self.holdings(hotkey))[0]

    async def holdings(self, hotkey: str) -> tuple[int, int]:
        """(free balance, stake) in rao at the head."""
        held = await self._read("balance", hotkey=hotkey)
        return decoded(lambda value: (int(value["balance"]), int(value["stake"])), held)

    async def inspect(self, block: int | None = None) -> dict[str, Any]:
        """Everything an operator may want to see, as the ledger gives it: {"head", "epoch", "subnet", "metagraph"}.
        Not checked beyond the shape of what `metagraph` and `epoch` return."""
        head = decoded(parse_block, await self._read("head")).number
        metagraph = await self._read("metagraph", block=head if block is None else block)
        epoch, subnet = await self._read("epoch"), await self._read("subnet")
        decoded(parse_metagraph, metagraph)
        decoded(parse_epoch, epoch)
        return {"head": head, "epoch": epoch, "subnet": subnet, "metagraph": metagraph}

    async def register(self) -> int:
        """Take a uid (ledger only: on Bittensor that is the coldkey's). Returns the block."""
        return await self._write("register", {})

    async def add_stake(self, amount: int) -> int:
        """Move `amount` rao from our balance to our stake. Returns the block."""
        return await self._write("add_stake", {"amount": amount})

    async def transfer(self, to: str, amount: int) -> int:
        """Move `amount` rao to another hotkey's balance. Returns the block."""
        return await self._write("transfer", {"to": to, "amount": amount})

    async def swap_hotkey(self, to: str) -> int:
        """Hand over uid, stake, balance and commitment to another hotkey. Returns the block."""
        return await self._write("swap_hotkey", {"to": to})

    async def allow(self, hotkey: str, allowed: bool = True) -> int:
        """Put a hotkey on a private subnet's allow-list or take it off; the owner's call. Returns the block."""
        return await self._write("allow" if allowed else "disallow", {"who": hotkey})

    async def advance(self, blocks: int) -> Block:
        """Make blocks at once; needs a ledger started with --allow-advance. Not retried. Returns the new head."""
        with self._deadline("advance", self._write_seconds):
            await self._retrying("head", {})  # finds out connections that a restart of the ledger left dead
            try:
                return decoded(parse_block, await self._connections.request("advance", {"blocks": blocks}))
            except Unreachable as error:
                raise ChainError(f"ledger {self._connections.endpoint}: {error}") from None
            except Refusal as refusal:
                raise _chain_error(refusal) from None

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def _next_head(self, last: Block | None) -> Block:
        pauses = _backoff()
        silent = False
        while True:
            try:
                head = await self._poll_head(last)
            except ChainError as error:
                if not silent:
                    logger.warning("chain silent: %s", error)
                silent = True
                await trio.sleep(next(pauses))
                continue
            if head is not None:
                return head

    async def _poll_head(self, last: Block | None) -> Block | None:
        """The head past `last`, or None if there is none within the long poll."""
        after = last.number if last else -1
        with self._deadline("wait_block", _LONG_POLL_SECONDS + self._read_seconds):
            answer = await self._retrying("wait_block", {"after": after, "timeout_seconds": _LONG_POLL_SECONDS})
        block, after_hash = decoded(lambda value: (value["block"], value["after_hash"]), answer)
        if last is not None and after_hash not in (None, last.hash):
            raise ChainRefused("HeadWentBack", f"block {last.number} is not the one the ledger gave before")
        return decoded(parse_block, block) if block is not None else None

    async def _read(self, method: str, **params: Any) -> Any:
        with self._deadline(method, self._read_seconds):
            return await self._retrying(method, params)

    async def _retrying(self, method: str, params: dict[str, Any]) -> Any:
        """A read, again and again until the ledger answers; the caller holds the deadline."""
        pauses = _backoff()
        while True:
            try:
                return await self._connections.request(method, params)
            except Unreachable:
                await trio.sleep(next(pauses))
            except Refusal as refusal:
                raise _chain_error(refusal) from None

    async def _write(self, method: str, args: dict[str, Any]) -> int:
        """Returns the block the call succeeded in."""
        with self._deadline(method, self._write_seconds):
            while True:
                fate = await self._submit_once(method, args)
                if fate is not None:
                    break
        if fate.get("error") is not None:
            raise ChainRefused(str(fate["error"]), f"{method} in block {fate['block']}")
        return int(fate["block"])

    async def _submit_once(self, method: str, args: dict[str, Any]) -> dict[str, Any] | None:
        """Sign with a fresh nonce and see it through to its block; None if another call had taken the nonce."""
        signer = self._require_signer()
        nonce = await self._take_nonce(signer.hotkey)
        genesis = await self._connections.genesis()
        submission = sign_call(signer, genesis, nonce, method, args)
        pauses = _backoff()
        while True:
            try:
                return decoded(_included, await self._connections.request("submit", dict(submission)))
            except Unreachable as error:
                logger.debug("%s cut: %s", method, error)
            except Refusal as refusal:
                if refusal.name != "StaleNonce":
                    raise _chain_error(refusal) from None
            # Read before sending again: it may be in a block already, or its nonce may be another's.
            fate = await self._retrying("fate", {"hotkey": signer.hotkey, "nonce": nonce})
            if decoded(partial(_is_lost, nonce=nonce, digest=call_digest(submission["call"])), fate):
                return None
            if fate["status"] == "included":
                return decoded(_included, fate)
            await trio.sleep(next(pauses))

    def _require_signer(self) -> Signer:
        if self._signer is None:
            raise ChainRefused("BadSignature", "this client has no hotkey to sign with")
        return self._signer

    async def _take_nonce(self, hotkey: str) -> int:
        answer = await self._retrying("nonce", {"hotkey": hotkey})
        self._last_nonce = max(decoded(lambda value: int(value["next"]), answer), self._last_nonce + 1)
        return self._last_nonce

    @contextmanager
    def _deadline(self, what: str, seconds: float) -> Iterator[None]:
        try:
            with trio.fail_after(seconds):
                yield
        except trio.TooSlowError:
            raise ChainError(f"ledger {self._connections.endpoint}: no answer to {what} within {seconds:g} s") from None


def _chain_error(refusal: Refusal) -> ChainError | ChainRefused:
    if refusal.name in _ASK_AGAIN:
        return ChainError(str(refusal))
    return ChainRefused(refusal.name, refusal.detail)


def _included(fate: Any) -> dict[str, Any]:
    if type(fate["block"]) is not int or not isinstance(fate["error"], str | None):
        raise ValueError("not a call's fate")
    return dict(fate)


def _is_lost(fate: Any, nonce: int, digest: str) -> bool:
    """Whether the call with that nonce and digest can never be in a block any more."""
    if fate["status"] == "unknown":
        return int(fate["used_nonce"]) >= nonce
    return bool(fate["digest"] != digest)


def _backoff() -> Iterator[float]:
    """Seconds to wait, doubling, with jitter so that a ledger that returns is not met by everyone at once."""
    pause = _FIRST_BACKOFF_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, _LONGEST_BACKOFF_SECONDS)
