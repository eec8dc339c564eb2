"""The two writes: how each is submitted, and how the chain's state shows that it was."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from covenantd.chain.bittensor.fate import Fate, Unknown, judge
from covenantd.chain.bittensor.link import Connection
from covenantd.chain.bittensor.reading import raw_fields, read_commitment, read_last_update
from covenantd.chain.bittensor.signing import SdkSigner
from covenantd.errors import ChainRefused

LIFE_BLOCKS = 16
"""A signed write can be included for so many blocks after the finalized head it was signed at: a power of 2."""


@dataclass(frozen=True)
class Seen:
    """The finalized head, and the block of a write that is in the state there."""

    head: int
    block: int | None


@dataclass(frozen=True)
class CommitmentWrite:
    netuid: int
    signer: SdkSigner
    fields: tuple[bytes, ...]
    what: str = "set_commitment"

    async def submit(self, connection: Connection) -> Fate:
        import bittensor

        call = bittensor.calls.Commitments.set_commitment(netuid=self.netuid, info=raw_fields(self.fields))
        submission = connection.client.submit_call(call, self.signer, signer="hotkey", period=LIFE_BLOCKS)
        return await _submitted(submission, self.signer)

    async def seen(self, connection: Connection, since: int) -> Seen:
        """What already says the same needs no second write, whenever it was written: a write costs quota."""
        head, commitment = await read_commitment(connection, self.netuid, self.signer.ss58_address)
        same = commitment is not None and commitment.fields == self.fields
        return Seen(head, commitment.block if same and commitment is not None else None)


@dataclass(frozen=True)
class WeightsWrite:
    netuid: int
    signer: SdkSigner
    weights: Mapping[int, float]
    version_key: int
    what: str = "set_weights"

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
