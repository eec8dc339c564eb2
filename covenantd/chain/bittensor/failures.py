"""From the SDK's exceptions to ours. Imports the SDK: only for what runs in the asyncio thread."""

import bittensor
from bittensor.error_map import ErrorCode

from covenantd.chain.bittensor.link import Unreachable
from covenantd.errors import ChainError, ChainRefused

SDK_FAILURES = (
    bittensor.BittensorError,
    OSError,  # TimeoutError included
    # An answer that the SDK could not decode ends in whatever its code ran into; an endpoint may answer anything.
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
_NAMES = {
    ErrorCode.NOT_REGISTERED: "HotKeyNotRegisteredInSubNet",
    ErrorCode.RATE_LIMITED: "SettingWeightsTooFast",
    ErrorCode.NOT_AUTHORIZED: "NeuronNoValidatorPermit",
    ErrorCode.INVALID_ARGUMENT: "WeightVecLengthIsLow",
}
"""What the SDK checks before it signs comes with a code and no name: these are the chain's own for them."""


def translated(error: Exception) -> ChainError | ChainRefused:
    """What a failed read comes to."""
    if isinstance(error, ChainError | ChainRefused):
        return error
    text = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, bittensor.RpcPolicyError):
        wait = f" (retry after {error.retry_after})" if error.retry_after else ""
        return ChainError(f"the endpoint turns us away{wait}: {error}"[:300])
    if isinstance(error, OSError | bittensor.RpcConnectionError | bittensor.ConnectionNotReady):
        return Unreachable(text)
    if isinstance(error, bittensor.ChainError):
        if "state discarded" in str(error).lower() or "state already discarded" in str(error).lower():
            return ChainRefused("StateDiscarded", "the node keeps no state of that block; set [chain] archive")
        if "session closed" in str(error).lower() or "connection" in str(error).lower():
            return Unreachable(text)
        return ChainError(text)
    return ChainError(f"the endpoint's answer makes no sense: {text}")


def refused_before_signing(error: Exception) -> ChainRefused | None:
    """The refusal that a failed `execute` stands for, if it was the SDK's own check of the chain's rules."""
    if isinstance(error, bittensor.ChainError):
        name = error.name or _NAMES.get(error.code)
        return ChainRefused(name, str(error)[:300]) if name else None
    if isinstance(error, bittensor.RpcConnectionError | bittensor.ConnectionNotReady):
        return None
    if isinstance(error, bittensor.BittensorError):
        return ChainRefused("InvalidArguments", str(error)[:300])
    return None
