"""The run spec: the signed document every peer of a run shares. Its hash is the run's name.

On disk: a JSON object {"spec": {...}, "signature": hex}, signed by the owner that the spec names. `run_id` is the
BLAKE3 of the canonical JSON of the genesis spec; changes in mid-run (`covenantd.specchange`) do not change it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from blake3 import blake3

from covenantd.errors import ConfigError
from covenantd.refusal import is_refusal, refusal
from covenantd.roster import MAX_CONTRIBUTIONS, is_hash
from covenantd.timing import Timing
from model.config import MAX_ALPHA, CompressionConfig, InnerConfig, ModelConfig, TrainingConfig, trouble_with
from p2p.manifest import MAX_PIECE_BYTES, MIN_PIECE_BYTES
from p2p.protocols import Signer, Verify

FORMAT = 1
MAX_SPEC_BYTES = 1 << 20
_DOMAIN = b"covenantd run spec 1\0"
_NOT_IN_DOCUMENT = ("revision", "genesis_id", "first_round", "earlier")


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
    owner: str  # hotkey, ss58: signs the spec and its changes
    format: int = FORMAT
    revision: int = 0  # how many changes are in force; not part of the document
    genesis_id: str = ""  # the run id, where changes are in force; not part of the document

    @cached_property
    def run_id(self) -> str:
        return self.genesis_id or blake3(_DOMAIN + canonical(document(self))).hexdigest()

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


def document(spec: RunSpec) -> dict[str, Any]:
    """The genesis spec as plain data: what is signed and hashed."""
    body = {name: value for name, value in asdict(spec).items() if name not in _NOT_IN_DOCUMENT}
    body["timing"] = {name: value for name, value in body["timing"].items() if name not in _NOT_IN_DOCUMENT}
    return body


def write(path: Path, spec: RunSpec, owner: Signer) -> None:
    """Raises ConfigError if `owner` is not the one the spec names."""
    if owner.hotkey != spec.owner:
        raise ConfigError(f"the run belongs to {spec.owner}: {owner.hotkey} cannot sign its spec")
    body = document(spec)
    signed = {"spec": body, "signature": owner.sign(_DOMAIN + canonical(body)).hex()}
    path.write_text(json.dumps(signed, indent=2, sort_keys=True) + "\n")


def read(path: Path, verify: Verify) -> RunSpec:
    """Raises ConfigError naming the file and what is wrong with it; PermissionRefused: we may not read it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SPEC_BYTES + 1)
    except OSError as error:
        if is_refusal(error):
            raise refusal(error) from error
        raise ConfigError(
            f"run spec {path}: {error.strerror}; get run.json from the run's owner or make a run with `covenantd plan`"
        ) from error
    try:
        return parse(data, verify)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(data: bytes, verify: Verify) -> RunSpec:
    if len(data) > MAX_SPEC_BYTES:
        raise ConfigError(f"run spec has more than {MAX_SPEC_BYTES} bytes")
    try:
        signed = json.loads(data)
        body, signature = signed["spec"], bytes.fromhex(signed["signature"])
        owner, message = body["owner"], _DOMAIN + canonical(body)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"not a signed run spec: {error!r:.200}") from error
    if not isinstance(owner, str) or not verify(owner, message, signature):
        raise ConfigError(f"run spec is not signed by its owner {owner}: the file was changed or damaged")
    spec = _build(body)
    check(spec)
    if canonical(document(spec)) != canonical(body):  # a default of ours would make it another run
        raise ConfigError("run spec does not fit this covenantd: it lacks fields that this version has")
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
        missing = {f.name for f in fields(RunSpec)} - set(body) - set(_NOT_IN_DOCUMENT)
        if missing:
            raise ConfigError(f"run spec lacks {', '.join(sorted(missing))}")
        if set(_NOT_IN_DOCUMENT) & {*body, *body["timing"]}:
            raise ConfigError("run spec holds fields that no genesis spec has")
        nested = {name: make(**body[name]) for name, make in _NESTED.items()}
        return RunSpec(**{**body, **nested})
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"run spec does not fit this covenantd: {error}") from error


def check(spec: RunSpec) -> None:
    """Raises ConfigError for what its owner should not have signed: nobody could run it, or not for long."""
    wrong = [*_mistyped(spec, "")]
    if not wrong:
        wrong = [name for name, holds in _conditions(spec).items() if not holds]
    if wrong:
        raise ConfigError(f"run spec: bad value of {', '.join(wrong)}")
    spec.timing.check()


def _mistyped(part: Any, prefix: str) -> Iterator[str]:
    """Names of fields that are not of their declared type: JSON has no types to speak of."""
    hints = get_type_hints(type(part))
    for name, value in ((f.name, getattr(part, f.name)) for f in fields(part)):
        kind = hints[name]
        if name in _NOT_IN_DOCUMENT:
            continue
        if is_dataclass(value):
            yield from _mistyped(value, f"{prefix}{name}.")
        elif kind is float:
            if type(value) not in (int, float):
                yield prefix + name
        elif kind == tuple[str, ...]:
            if not all(isinstance(item, str) for item in value):
                yield prefix + name
        elif type(value) is not kind:
            yield prefix + name


def _conditions(spec: RunSpec) -> dict[str, bool]:
    data, scoring, sizes = spec.dataset, spec.scoring, asdict(spec.model)
    sizes |= {"batch_sequences": spec.inner.batch_sequences, "sequence_tokens": spec.inner.sequence_tokens}
    trouble = trouble_with(spec.compression)
    ids = {"genesis_state": spec.genesis_state, "chain.genesis": spec.chain.genesis}
    ids |= {"dataset.tokenizer": data.tokenizer, "dataset.heldout_shard": data.heldout_shard}
    return {
        **{name: is_hash(value) for name, value in ids.items()},
        **{name: value > 0 for name, value in sizes.items() if type(value) in (int, float)},
        **{name: value >= 0 for name, value in asdict(spec.inner).items() if name not in sizes},
        "dataset.train_shards": bool(data.train_shards) and all(is_hash(shard) for shard in data.train_shards),
        "dataset.max_blob_bytes": data.max_blob_bytes > 0,
        f"piece_bytes (not in [{MIN_PIECE_BYTES}, {MAX_PIECE_BYTES}])": MIN_PIECE_BYTES
        <= spec.piece_bytes
        <= MAX_PIECE_BYTES,
        f"compression ({trouble})": trouble is None,
        "inner_steps": 0 < spec.inner_steps < 1 << 31,
        "min_inner_steps": 0 <= spec.min_inner_steps <= spec.inner_steps,
        "alpha": 0 < spec.alpha <= MAX_ALPHA,
        "roster_size": 0 < spec.roster_size <= MAX_CONTRIBUTIONS,
        "snapshot_rounds": spec.snapshot_rounds > 0,
        "timing.block_seconds": spec.timing.block_seconds > 0,
        "timing.proposal_blocks": spec.timing.proposal_blocks > 0,
        "scoring.sequences": scoring.sequences > 0,
        "scoring.decay": 0 <= scoring.decay < 1,
        "chain.netuid": 0 <= spec.chain.netuid < 1 << 16,
    }
