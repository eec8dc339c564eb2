"""The chain as covenantd sees it. Backends: `ledger` (embedded), `bittensor` (production)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

MAX_COMMITMENT_FIELDS = 3
MAX_FIELD_BYTES = 128


@dataclass(frozen=True)
class Block:
    """A finalized block."""

    number: int
    hash: str  # 64 hex digits
    timestamp: float  # seconds since the epoch, by the chain's clock


@dataclass(frozen=True)
class Neuron:
    """One registered hotkey of the subnet. Stake and emission in rao (1e-9 of the unit)."""

    uid: int
    hotkey: str
    stake: int
    validator_permit: bool
    registered_block: int
    last_update_block: int
    incentive: int  # u16
    dividends: int  # u16
    emission: int  # rao in the last epoch


@dataclass(frozen=True)
class Commitment:
    """The latest on-chain commitment of a hotkey: at most 3 fields of at most 128 bytes."""

    hotkey: str
    block: int
    fields: tuple[bytes, ...]


@dataclass(frozen=True)
class Metagraph:
    """One consistent view of the subnet in the finalized state of `block`."""

    netuid: int
    block: int
    neurons: tuple[Neuron, ...]
    commitments: Mapping[str, Commitment]  # only of registered hotkeys
    weights: Mapping[int, Mapping[int, int]] = field(default_factory=dict)  # uid -> uid -> u16

    def neuron(self, hotkey: str) -> Neuron | None:
        return next((n for n in self.neurons if n.hotkey == hotkey), None)


@dataclass(frozen=True)
class EpochInfo:
    """When weights count and how often they may be set."""

    tempo_blocks: int
    next_epoch_block: int
    weights_rate_limit_blocks: int


class Chain(Protocol):
    """Every call has a deadline of its own and raises `ChainError` (ask again) or `ChainRefused` (a no)."""

    def heads(self) -> AsyncIterator[Block]:
        """Finalized heads as they appear, newest first seen; numbers grow but may skip. Never ends by itself;
        a silent chain is a silent iterator, not an error."""
        ...

    async def block(self, number: int | None = None) -> Block:
        """The finalized block with that number; the finalized head without one."""
        ...

    async def metagraph(self, block: int) -> Metagraph: ...

    async def publish_commitment(self, fields: Sequence[bytes]) -> int:
        """Replace our commitment; returns the block that includes it. Nothing is written, and the block that did is
        returned, where the finalized state says the same already."""
        ...

    async def set_weights(self, weights: Mapping[int, float], version_key: int = 0) -> int:
        """Set our weights (any non-negative numbers; scaled so that the largest is 65535)."""
        ...

    async def reveal_due(self) -> int | None:
        """Show weights that a chain keeps hidden until their owner shows them, as far as their time has come. Returns
        the block after which there is more to show; None if nothing is left, as always where the chain itself does."""
        ...

    async def epoch(self) -> EpochInfo: ...
