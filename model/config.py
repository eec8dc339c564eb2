"""Everything about a model and its training that is data. Torch-free: the daemon imports it."""

from dataclasses import asdict, dataclass, replace
from math import isqrt
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-3 style decoder (RMSNorm, RoPE, GQA, SwiGLU)."""

    vocabulary_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    feedforward_width: int
    head_width: int
    rope_base: float = 500_000.0
    norm_epsilon: float = 1e-5
    tied_embeddings: bool = True


PRESETS: dict[str, ModelConfig] = {
    "nano": ModelConfig(1024, 128, 4, 4, 2, 384, 32),
    "150m": ModelConfig(32_768, 768, 16, 12, 4, 2048, 64),
    "1b": ModelConfig(128_256, 2048, 16, 32, 8, 8192, 64),
    "4b": ModelConfig(128_256, 3072, 28, 24, 8, 8192, 128),
    "8b": ModelConfig(128_256, 4096, 32, 32, 8, 14_336, 128, tied_embeddings=False),
    "72b": ModelConfig(262_144, 8192, 80, 64, 8, 28_672, 128, tied_embeddings=False),
}


@dataclass(frozen=True)
class InnerConfig:
    """The inner optimiser: AdamW with linear warmup and cosine decay, counted in inner steps of the run."""

    peak_learning_rate: float = 3e-3
    warmup_steps: int = 20
    decay_steps: int = 2000
    final_learning_rate_ratio: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    batch_sequences: int = 4
    sequence_tokens: int = 128


CODECS = {
    "row1": "the default: the largest of each 64, its sign, a scale a chunk; mean over the roster",
    "covenant": "top-64 of 4096, 2-bit values, 12-bit indices, mean over the roster: the paper's rule",
    "topk2": "the same update as covenant, bit for bit; the indices of a chunk coded as one number",
    "templar": "top-64 of 4096, 12-bit indices, four levels a tensor, mean over the senders of a coordinate",
}
OUTER = {"row1": (4.0, 0.9), "covenant": (2.0, 0.95), "topk2": (2.0, 0.95), "templar": (1.0, 0.95)}
"""α, the outer learning rate, and β, the decay of error feedback, unless a run's owner chooses others: the best found
by `python -m tests.bench learning`, of β for row1 alone; the other rules have their papers' β, not their α of 1."""
COMBINATIONS = ("roster", "senders")
MAX_CHUNK = 4096
MAX_CODED_KEPT = 64  # a chunk's indices as one number take longer than linear time
ROWS = (2, 4, 8, 16, 32, 64, 128, 256)
MAX_ALPHA = 1e9

SCHEDULE = ("peak_learning_rate", "decay_steps", "final_learning_rate_ratio", "gradient_clip")
"""Settings of InnerConfig that a run may change in mid-run: the optimiser's own state does not depend on them."""


@dataclass(frozen=True)
class CompressionConfig:
    """SparseLoCo (arXiv 2508.15706, 2603.08163): selection, quantisation, error feedback, outer step.

    `row1` keeps the largest of each group of chunk / kept_per_chunk values: 64 of 64, or 128, 32, 16 a chunk for
    groups of 32, 128, 256.
    """

    codec: str = "row1"
    chunk: int = 4096
    kept_per_chunk: int = 64
    error_feedback_decay: float = OUTER["row1"][1]
    combination: str = ""  # "roster" or "senders": what a coordinate's sum is divided by; "": the codec's own


def trouble_with(compression: CompressionConfig) -> str | None:
    """Why no engine can work by it, None if it can."""
    codec, chunk, k = compression.codec, compression.chunk, compression.kept_per_chunk
    if codec not in CODECS:
        return f"unknown codec {codec!r}, known: {', '.join(CODECS)}"
    if compression.combination not in ("", *COMBINATIONS):
        return f"unknown combination {compression.combination!r}, known: {', '.join(COMBINATIONS)}"
    if not 1 <= chunk <= MAX_CHUNK or isqrt(chunk) ** 2 != chunk or not 1 <= k <= chunk:
        return f"cannot keep {k} of {chunk}: the chunk must be a square, at most {MAX_CHUNK}"
    if codec == "row1" and (chunk & (chunk - 1) or chunk // k not in ROWS or chunk % k):
        return f"row1 cannot keep {k} of {chunk}: rows of {', '.join(map(str, ROWS))} values are possible"
    if codec == "topk2" and k > MAX_CODED_KEPT:
        return f"topk2 cannot keep {k} of {chunk}: it codes at most {MAX_CODED_KEPT} indices together"
    if not 0 <= compression.error_feedback_decay <= 1:
        return f"an error feedback decay of {compression.error_feedback_decay} is not in [0, 1]"
    return None


def compression_named(text: str) -> CompressionConfig:
    """A codec's name, or `row1:128` for another length of row than 64. Raises ValueError."""
    codec, colon, row = text.partition(":")
    if codec not in CODECS or (colon and (codec != "row1" or row not in ("32", "64", "128", "256"))):
        raise ValueError(f"{text!r} is none of {', '.join(CODECS)} (row1:32, row1:128 and row1:256 are possible)")
    chosen = CompressionConfig(codec, error_feedback_decay=OUTER[codec][1])
    return replace(chosen, kept_per_chunk=chosen.chunk // int(row)) if colon else chosen


@dataclass(frozen=True)
class TrainingConfig:
    """What an engine must know of a run; equal on every peer, because it is part of the run spec."""

    run_id: str  # 64 hex digits
    model: ModelConfig
    inner: InnerConfig
    compression: CompressionConfig
    piece_bytes: int  # size of a parameter shard: a leaf of the state hash, a piece of the state's blob

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "TrainingConfig":
        """Raises TypeError on unknown or missing keys."""
        return TrainingConfig(
            **{
                **data,
                "model": ModelConfig(**data["model"]),
                "inner": InnerConfig(**data["inner"]),
                "compression": CompressionConfig(**data["compression"]),
            }
        )
