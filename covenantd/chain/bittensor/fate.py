"""What became of one submission, as far as its answer tells. Pure but for the SDK's types, which it only reads."""

from dataclasses import dataclass
from typing import Any

from covenantd.errors import ChainRefused

_MAYBE_IN = {"Usurped", "Retracted", "FinalityTimeout", "Dropped", "Invalid", "AlreadyImported", "PriorityTooLow"}
"""One node's pool lost sight of it, or has something of ours under the same nonce: another may yet include it."""
_NOT_TAKEN = {"Stale", "Future", "ExhaustsResources", "AncientBirthBlock"}
"""The pool's doors were closed, to this one and for now: signed again it may pass."""


@dataclass(frozen=True)
class Included:
    """Final and successful. `block` is None where the answer does not say which."""

    block: int | None


@dataclass(frozen=True)
class NotTaken:
    reason: str


@dataclass(frozen=True)
class Unknown:
    """It may be in a block, in a pool, or nowhere: only the chain's state can tell."""

    reason: str


Fate = Included | NotTaken | Unknown


def judge(result: Any) -> Fate:
    """Of the SDK's `ExtrinsicResult`. Raises ChainRefused with the chain's reason for a no that is final."""
    if result.success:
        return Included(_block_of(result.extrinsic_id))
    name, message = getattr(result.error, "name", None), str(result.message)[:300]
    if result.block_hash is not None:
        raise ChainRefused(name or "Other", message)  # it was in a block, and failed there
    if name is None or name in _MAYBE_IN:
        return Unknown(message)
    if name in _NOT_TAKEN:
        return NotTaken(f"{name}: {message}")
    raise ChainRefused(name, message)


def _block_of(extrinsic_id: Any) -> int | None:
    """The id is block and index, e.g. 4031337-0007."""
    number, _, _ = str(extrinsic_id or "").partition("-")
    return int(number) if number.isascii() and number.isdigit() else None
