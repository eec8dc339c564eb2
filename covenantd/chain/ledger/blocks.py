"""A block: what it hashes over and how the next one is made from the state before it. Pure."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from covenantd.chain.ledger.calls import apply_call
from covenantd.chain.ledger.epoch import next_epoch_block, run_epoch
from covenantd.chain.ledger.signing import Call
from covenantd.chain.ledger.state import State, StateDigest

ZERO_HASH = "00" * 32
_BLOCK_DOMAIN = b"covenantd ledger block 1\0"
_CALLS_DOMAIN = b"covenantd ledger calls 1\0"
_HEADER = struct.Struct(">32sQQ32s32s")


@dataclass(frozen=True)
class Included:
    """A call in a block, with the error name it came to."""

    call: Call
    error: str | None


@dataclass(frozen=True)
class LedgerBlock:
    """Hashes are 64 hex digits."""

    number: int
    parent: str
    timestamp_ms: int  # since the epoch, by the ledger host's clock, strictly growing
    calls_root: str
    state_digest: str

    @property
    def hash(self) -> str:
        """BLAKE3 over parent hash, number, timestamp, root of the calls, digest of the state after them."""
        header = _HEADER.pack(
            bytes.fromhex(self.parent),
            self.number,
            self.timestamp_ms,
            bytes.fromhex(self.calls_root),
            bytes.fromhex(self.state_digest),
        )
        return blake3(_BLOCK_DOMAIN + header).hexdigest()


def genesis_block(digest: StateDigest, timestamp_ms: int) -> LedgerBlock:
    return LedgerBlock(0, ZERO_HASH, timestamp_ms, calls_root(()), digest.root())


def make_block(
    state: State, digest: StateDigest, parent: LedgerBlock, now_ms: int, calls: Sequence[Call]
) -> tuple[LedgerBlock, tuple[Included, ...], dict[str, str | None]]:
    """Advance `state` by one block: the epoch first if it is due, then the calls in order.

    Returns the block, the calls as they came out and the changed entries. Raises Refusal(StaleNonce) if a call's
    nonce was used; the caller keeps such calls out.
    """
    number = parent.number + 1
    if number >= next_epoch_block(state):
        run_epoch(state, number)
    included = tuple(Included(call, apply_call(state, number, call)) for call in calls)
    changes = state.take_changes()
    digest.update(changes)
    timestamp_ms = max(now_ms, parent.timestamp_ms + 1)  # a clock set back must not turn time back
    block = LedgerBlock(number, parent.hash, timestamp_ms, calls_root(included), digest.root())
    return block, included, changes


def calls_root(included: Sequence[Included]) -> str:
    """BLAKE3 over each call's digest, signature and outcome, in order."""
    hasher = blake3(_CALLS_DOMAIN)
    for entry in included:
        line = f"{entry.call.digest} {entry.call.signature} {entry.error or '-'}\n"
        hasher.update(line.encode("ascii"))
    return hasher.hexdigest()
