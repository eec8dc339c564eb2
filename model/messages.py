"""What the engine understands: one frozen dataclass a message, msgpack on a unix socket. Torch-free.

A frame is a 4-byte big-endian length and a msgpack map {"type": name, **fields}. The daemon sends one request
and reads events (`Progress`, `Traced`, `Alive`) until the request's reply or `Failed`. Only `Stop` and `Profile` may
be sent while `Train` runs: the one ends training after the current inner step, the other has the next steps traced.
"""

import struct
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import msgpack

MAX_FRAME_BYTES = 16 << 20
_LENGTH = struct.Struct(">I")


class BadMessage(Exception):
    """A frame that is too long, not msgpack, or not one of our messages."""


@dataclass(frozen=True)
class Load:
    """Take up a state: θ from `theta_path` (a raw fp32 file), EF and optimiser from `state_directory` if there."""

    training: dict[str, Any]  # TrainingConfig.as_dict()
    round: int  # θ is θ_round
    theta_path: str
    train_shards: tuple[str, ...]  # token files, little-endian uint16
    heldout_shard: str
    state_directory: str  # the engine's own: ef.bin, optimizer.bin
    threads: int
    device: str = "auto"
    behavior: str = "honest"  # "noise": a test-only switch, sends random contributions


@dataclass(frozen=True)
class Loaded:
    parameters: int
    layout_hash: str
    state_hash: str
    contribution_bytes: int  # the exact size of a valid contribution
    train_sequences: int
    trained_round: int  # the last round whose Δ is in the error feedback; -1 if none
    pending_rounds: tuple[int, ...]  # sealed, outcome unknown


@dataclass(frozen=True)
class Hash:
    """Hash θ as it is in memory now."""


@dataclass(frozen=True)
class Hashed:
    state_hash: str


@dataclass(frozen=True)
class Train:
    """At most `inner_steps` from θ on the sequences that `assignment_key` draws."""

    round: int
    assignment_key: str  # 64 hex digits; see model.data.assigned_sequences
    inner_steps: int
    schedule: dict[str, Any] = field(default_factory=dict)  # of model.config.SCHEDULE, where changed in mid-run


@dataclass(frozen=True)
class Progress:
    """An event while training."""

    round: int
    inner_step: int
    loss: float
    tokens_per_second: float
    gradient_norm: float
    learning_rate: float
    memory_bytes: int  # resident, and on the GPU
    gpu_memory_bytes: int = 0  # the most torch held on the GPU so far


@dataclass(frozen=True)
class Alive:
    """An event now and then while any order takes long: there is progress, of which nothing else is to be told."""


@dataclass(frozen=True)
class Trained:
    round: int
    inner_steps: int
    tokens: int
    loss: float  # mean over the round's steps; nan for zero steps
    seconds: float
    nonfinite_steps: int


@dataclass(frozen=True)
class Stop:
    """End the running Train after its current step. No reply of its own; ignored when nothing trains."""


@dataclass(frozen=True)
class Profile:
    """Trace the next `steps` inner steps, of the running Train or else of the next one. No reply of its own, but an
    event `Traced` when done; fewer steps if training ends before."""

    steps: int
    path: str  # written whole or not at all; Chrome's trace event format, JSON


@dataclass(frozen=True)
class Traced:
    """An event while training: the trace that `Profile` asked for."""

    path: str
    steps: int
    error: str = ""  # why it could not be written


@dataclass(frozen=True)
class Seal:
    """e ← β·e + Δ, persisted; with a `path`, also write the contribution there and remember it as pending."""

    round: int
    base_state_hash: str
    hotkey: str  # 64 hex digits, the public key
    path: str | None


@dataclass(frozen=True)
class Sealed:
    round: int
    path: str | None
    bytes: int
    error_feedback_norm: float


@dataclass(frozen=True)
class Check:
    """Fast checks of one contribution file: header, size, bounds, finiteness."""

    path: str
    round: int
    base_state_hash: str
    hotkey: str


@dataclass(frozen=True)
class Checked:
    ok: bool
    reason: str  # empty when ok, else one line
    norm: float


@dataclass(frozen=True)
class Score:
    """Loss before and after applying each contribution alone (scale `scale`), on sequences drawn by `key`
    from those no miner of this round was assigned (`excluded_keys`), and before/after on its own assignment."""

    round: int
    contributions: tuple[str, ...]  # paths
    assignment_keys: tuple[str, ...]  # one a contribution
    assigned_steps: tuple[int, ...]  # inner steps each claims
    key: str
    scale: float
    sequences: int


@dataclass(frozen=True)
class Scored:
    random_before: float
    random_after: tuple[float, ...]
    assigned_before: tuple[float, ...]
    assigned_after: tuple[float, ...]


@dataclass(frozen=True)
class Evaluate:
    """Mean loss of θ over the held-out split (reporting only)."""

    sequences: int  # at most this many, from the start of the split


@dataclass(frozen=True)
class Evaluated:
    loss: float
    sequences: int


@dataclass(frozen=True)
class Advance:
    """The outer step of `round`: θ ← θ - α·G over `contributions` in roster order (none: a void round, θ stays).
    Refused if θ in memory does not hash to `base_state_hash`. Settles the error feedback of `round` first:
    `own_included` says whether our contribution is in it. Writes θ to `theta_path` when given."""

    round: int
    contributions: tuple[str, ...]
    hotkeys: tuple[str, ...]  # public keys in hex, same order; headers must agree
    base_state_hash: str
    alpha: float
    own_included: bool
    theta_path: str | None


@dataclass(frozen=True)
class Advanced:
    round: int  # θ is θ_round now, round of the request + 1
    state_hash: str
    update_norm: float
    clipped: int  # (contribution, tensor) pairs clipped
    error_feedback_norm: float


@dataclass(frozen=True)
class Settle:
    """Settle the claim of a round that was skipped by a jump to a later state; θ stays. Unknown rounds: no-op."""

    round: int
    own_included: bool


@dataclass(frozen=True)
class Settled:
    round: int
    pending_rounds: tuple[int, ...]


@dataclass(frozen=True)
class Restore:
    """Replace θ alone (repair, catch-up); EF and optimiser state stay."""

    round: int
    theta_path: str


@dataclass(frozen=True)
class Restored:
    round: int
    state_hash: str


@dataclass(frozen=True)
class FlipBit:
    """Test-only: flip one bit of θ in memory. Refused unless the engine was started with --allow-faults."""

    parameter: int
    bit: int


@dataclass(frozen=True)
class Flipped:
    pass


@dataclass(frozen=True)
class Failed:
    """The request could not be done. `kind`: "input" (a file or field is bad; the engine goes on), "memory" (the GPU is
    full) or "bug"; after these the engine ends."""

    kind: str
    message: str
    path: str = field(default="")


Message = (
    Load | Loaded | Hash | Hashed | Train | Progress | Alive | Trained | Stop | Profile | Traced | Seal | Sealed
    | Check | Checked | Score | Scored | Evaluate | Evaluated | Advance | Advanced | Settle | Settled
    | Restore | Restored | FlipBit | Flipped | Failed
)  # fmt: skip

_TYPES: dict[str, type[Message]] = {t.__name__: t for t in Message.__args__}


def encode(message: Message) -> bytes:
    """A whole frame, length included."""
    body: bytes = msgpack.packb({"type": type(message).__name__, **asdict(message)})
    if len(body) > MAX_FRAME_BYTES:
        raise BadMessage(f"{type(message).__name__} of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def frame_length(prefix: bytes) -> int:
    """The body's length from its 4-byte prefix, checked before anything is allocated."""
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_FRAME_BYTES:
        raise BadMessage(f"frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
    return int(length)


def decode(body: bytes) -> Message:
    """Raises BadMessage."""
    try:
        data = msgpack.unpackb(body, use_list=False)
        kind = _TYPES[data.pop("type")]
        return kind(**{f.name: data.pop(f.name) for f in fields(kind)}, **data)
    except (ValueError, KeyError, TypeError, AttributeError, msgpack.exceptions.ExtraData) as error:
        raise BadMessage(f"not an engine message: {error!r}") from error
