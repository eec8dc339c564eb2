"""The run spec: the signed document every peer of a run shares. Its hash is the run's name.

On disk: a JSON object {"spec": {...}, "owner": ss58, "signature": hex}. `run_id` is the BLAKE3 of the canonical JSON
of "spec" alone, so that who signed it does not change what is trained.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from blake3 import blake3

from covenantd.errors import ConfigError
from model.config import CompressionConfig, InnerConfig, ModelConfig, TrainingConfig
from p2p.manifest import MAX_PIECE_BYTES, MIN_PIECE_BYTES
from p2p.protocols import Signer, Verify

FORMAT = 1
MAX_SPEC_BYTES = 1 << 20
_DOMAIN = b"covenantd run spec 1\0"


@dataclass(frozen=True)
class Timing:
    """Where a round's fixed points lie, in blocks after its first block."""

    start_block: int
    blocks_per_round: int
    seal_blocks: int  # S_r: training stops
    commit_blocks: int  # C_r: the last block a commit may be receipted at
    vote_blocks: int  # V_r: votes are read in the state of this block
    serve_slack_blocks: int = 1  # after C_r, until contributions may be served
    block_seconds: float = 12.0  # what the chain aims at; for lifetimes and hints, never for agreement
    proposal_blocks: int = 2  # the next certifier in stake order proposes this much later

    def start(self, round: int) -> int:
        return self.start_block + round * self.blocks_per_round

    def seal(self, round: int) -> int:
        return self.start(round) + self.seal_blocks

    def commit(self, round: int) -> int:
        return self.start(round) + self.commit_blocks

    def serve(self, round: int) -> int:
        return self.commit(round) + self.serve_slack_blocks

    def vote(self, round: int) -> int:
        return self.start(round) + self.vote_blocks

    def last_decided(self, block: int) -> int:
        """The newest round whose votes can be read at `block`; -1 before the first."""
        return (block - self.start_block - self.vote_blocks) // self.blocks_per_round if block >= self.vote(0) else -1

    def check(self) -> None:
        order = (0, self.seal_blocks, self.commit_blocks, self.commit_blocks + self.serve_slack_blocks)
        points = (*order, self.vote_blocks, self.blocks_per_round)
        if any(a >= b for a, b in zip(points, points[1:], strict=False)) or self.start_block < 1:
            raise ConfigError(
                f"run spec: timing must satisfy 0 < seal < commit < serve < vote < blocks_per_round, got {self}"
            )


@dataclass(frozen=True)
class Dataset:
    """Blob ids of what training reads."""

    tokenizer: str
    train_shards: tuple[str, ...]
    heldout_shard: str
    max_blob_bytes: int  # no blob of the run is larger; what a peer allocates for is bounded by it


@dataclass(frozen=True)
class Scoring:
    """How validators judge. `scale` multiplies a contribution applied alone; `decay` is of the gain's average."""

    sequences: int = 16
    scale: float = 1.0
    decay: float = 0.6
    harmful_gain: float = -1e-3  # an average below this leaves a miner out of the roster
    useless_share: float = 0.1  # so does one below this share of the median, after two rounds


@dataclass(frozen=True)
class ChainSpec:
    netuid: int
    genesis: str  # hash of block 0: two chains are never confused


@dataclass(frozen=True)
class RunSpec:
    name: str
    model: ModelConfig
    inner: InnerConfig
    compression: CompressionConfig
    piece_bytes: int
    genesis_state: str  # state hash of θ_0, which is also its blob id
    dataset: Dataset
    inner_steps: int
    min_inner_steps: int
    alpha: float
    roster_size: int
    snapshot_rounds: int
    timing: Timing
    scoring: Scoring
    chain: ChainSpec
    format: int = FORMAT

    @cached_property
    def run_id(self) -> str:
        return blake3(_DOMAIN + canonical(asdict(self))).hexdigest()

    @property
    def tag(self) -> bytes:
        """Eight bytes that name the run in an on-chain vote."""
        return bytes.fromhex(self.run_id)[:8]

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig(self.run_id, self.model, self.inner, self.compression, self.piece_bytes)

    def protocol(self, name: str) -> str:
        return f"/covenantd/{self.run_id[:16]}/{name}/1"


def canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def write(path: Path, spec: RunSpec, owner: Signer) -> None:
    body = asdict(spec)
    document = {
        "spec": body,
        "owner": owner.hotkey,
        "signature": owner.sign(_DOMAIN + canonical(body)).hex(),
    }
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def read(path: Path, verify: Verify) -> RunSpec:
    """Raises ConfigError naming the file and what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"run spec {path}: {error.strerror}; get run.json from the run's owner or make a run with `covenantd plan`"
        ) from error
    try:
        return parse(data, verify)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(data: bytes, verify: Verify) -> RunSpec:
    if len(data) > MAX_SPEC_BYTES:
        raise ConfigError(f"run spec of {len(data)} bytes exceeds {MAX_SPEC_BYTES}")
    try:
        document = json.loads(data)
        body, owner, signature = document["spec"], document["owner"], bytes.fromhex(document["signature"])
        message = _DOMAIN + canonical(body)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"not a signed run spec: {error!r}") from error
    if not isinstance(owner, str) or not verify(owner, message, signature):
        raise ConfigError(f"run spec is not signed by its owner {owner}: the file was changed or damaged")
    spec = _build(body)
    spec.timing.check()
    if not MIN_PIECE_BYTES <= spec.piece_bytes <= MAX_PIECE_BYTES:
        raise ConfigError(f"run spec: piece_bytes {spec.piece_bytes} is not in [{MIN_PIECE_BYTES}, {MAX_PIECE_BYTES}]")
    return spec


_NESTED: dict[str, Callable[..., Any]] = {
    "model": ModelConfig,
    "inner": InnerConfig,
    "compression": CompressionConfig,
    "dataset": lambda **d: Dataset(**{**d, "train_shards": tuple(d["train_shards"])}),
    "timing": Timing,
    "scoring": Scoring,
    "chain": ChainSpec,
}


def _build(body: dict[str, Any]) -> RunSpec:
    try:
        if body["format"] != FORMAT:
            raise ConfigError(f"run spec has format {body['format']}, this covenantd reads {FORMAT}: upgrade covenantd")
        nested = {name: make(**body[name]) for name, make in _NESTED.items()}
        missing = {f.name for f in fields(RunSpec)} - set(body)
        if missing:
            raise ConfigError(f"run spec lacks {', '.join(sorted(missing))}")
        return RunSpec(**{**body, **nested})
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"run spec does not fit this covenantd: {error}") from error
