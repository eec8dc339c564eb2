"""The two writes: how each is submitted, and how the chain's state shows that it was."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from covenantd.chain.bittensor.fate import Fate, Unknown, judge
from covenantd.chain.bittensor.link import Connection
from covenantd.chain.bittensor.reading import raw_fields, read_commitment, read_last_update, read_nonce
from covenantd.chain.bittensor.signing import SdkSigner
from covenantd.errors import ChainRefused

LIFE_BLOCKS = 16
"""Weights can be included for so many blocks after the finalized head they were signed at: a power of 2."""
_COMMITMENT_LIFE_BLOCKS = 64  # votes are to get into blocks while finality stalls


@dataclass(frozen=True)
class Seen:
    """The finalized head, and the block of a write that is in the state there."""

    head: int
    block: int | None


@dataclass
class CommitmentWrite:
    """A vote cannot wait until a lost one has expired. It is sent again under the same nonce, of which the chain
    includes one extrinsic at most, until the finalized state shows it, or another under its nonce."""

    netuid: int
    signer: SdkSigner
    fields: tuple[bytes, ...]
    nonce: int | None = None
    what: str = "set_commitment"
    settled_after_blocks: int = 1

    async def submit(self, connection: Connection) -> Fate:
        import bittensor

        call = bittensor.calls.Commitments.set_commitment(netuid=self.netuid, info=raw_fields(self.fields))
        return await _submitted(self._send(connection, call), self.signer)

    async def _send(self, connection: Connection, call: Any) -> Any:
        composed = await connection.substrate.compose(call)
        if self.nonce is None:
            self.nonce = await connection.substrate.account_next_index(self.signer.ss58_address)
        result = await connection.substrate.submit(
            composed,
            self.signer,
            nonce=self.nonce,
            period=_COMMITMENT_LIFE_BLOCKS,
            wait_for_inclusion=True,
            wait_for_finalization=True,
        )
        if getattr(result.error, "name", None) == "Future":
            self.nonce = None  # whatever had the nonces before it was lost
        return result

    async def seen(self, connection: Connection, since: int) -> Seen:
        """What already says the same needs no second write, whenever it was written: a write costs quota."""
        address = self.signer.ss58_address
        head, commitment = await read_commitment(connection, self.netuid, address)
        if commitment is not None and commitment.fields == self.fields:
            return Seen(head, commitment.block)
        if self.nonce is not None and await read_nonce(connection, address, head) > self.nonce:
            self.nonce = None
        return Seen(head, None)


@dataclass(frozen=True)
class WeightsWrite:
    netuid: int
    signer: SdkSigner
    weights: Mapping[int, float]
    version_key: int
    what: str = "set_weights"
    settled_after_blocks: int = LIFE_BLOCKS

    async def submit(self, connection: Connection) -> Fate:
        """Plaintext, or sealed until the epoch's end where the subnet says so."""
        import bittensor

        intent = bittensor.SetWeights(
            netuid=self.netuid, weights=dict(self.weights), mechid=0, version_key=self.version_key
        )
        return await _submitted(connection.client.execute(intent, self.signer, period=LIFE_BLOCKS), self.signer)

    async def seen(self, connection: Connection, since: int) -> Seen:
        """Setting and committing both mark the block. Raises ChainRefused for a hotkey without a uid."""
        head, updated = await read_last_update(connection, self.netuid, self.signer.ss58_address)
        if updated is None:
            raise ChainRefused("HotKeyNotRegisteredInSubNet", self.signer.ss58_address)
        return Seen(head, updated if updated > since else None)


Write = CommitmentWrite | WeightsWrite


async def _submitted(submission: Awaitable[Any], signer: SdkSigner) -> Fate:
    """Raises ChainRefused, and ChainError for what failed before anything was signed. A connection lost later is an
    unknown fate: the SDK never submits again by itself."""
    from covenantd.chain.bittensor.failures import SDK_FAILURES, refused_before_signing, translated

    signer.has_signed = False
    try:
        return judge(await submission)
    except SDK_FAILURES as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        if signer.has_signed:
            return Unknown(reason)
        refusal = refused_before_signing(error)
        raise refusal or translated(error) from None


def checked_fields(fields: Sequence[bytes], max_fields: int, max_bytes: int) -> tuple[bytes, ...]:
    """Raises ChainRefused as the chain would; it cannot even decode some of what is refused here."""
    if len(fields) > max_fields:
        raise ChainRefused("TooManyFieldsInCommitmentInfo", f"at most {max_fields}")
    if any(len(field) > max_bytes for field in fields):
        raise ChainRefused("InvalidArguments", f"a field has at most {max_bytes} bytes")
    return tuple(bytes(field) for field in fields)
