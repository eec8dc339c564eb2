"""`python -m model.genesis --preset nano --out DIR`: everything a new run starts from.

Writes tokenizer.json, train-000.tok (and more, of at most 8 MiB), heldout.tok (the last twentieth of the text),
theta.bin (θ_0: raw little-endian fp32 in layout order), and measures an inner step. Progress goes to stderr; the
last line of stdout is one JSON object. The same text, preset and seed give the same files.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model import corpus, inner, tokenizer, transformer
from model.atomicfile import replacing
from model.config import PRESETS, InnerConfig, ModelConfig
from model.data import TokenPool

EXIT_TRY_AGAIN = 75
EXIT_CONFIG = 78
SHARD_BYTES = 8 << 20
TOKENIZER_CHARACTERS = 2 << 20  # on all of the bundled text: 0.6% fewer tokens, three times the time
HELDOUT_FRACTION = 0.05
_WARM_STEPS = 2
_TIMED_STEPS = 5


class GenesisError(Exception):
    """The text or the preset cannot start a run; the message says which and why."""


@dataclass(frozen=True)
class Tokens:
    """A text, tokenised and split."""

    tokenizer_json: bytes
    train: NDArray[np.uint16]
    heldout: NDArray[np.uint16]


def read_text(path: Path | None) -> str:
    """The file as UTF-8, or the bundled corpus. Raises GenesisError."""
    if path is None:
        return corpus.text()
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GenesisError(f"cannot read the text {path}: {error}") from error


def tokenise(text: str, vocabulary_size: int) -> Tokens:
    """Train a tokenizer on all but the held-out end of the text, and apply it to both. Raises GenesisError."""
    cut = text.find("\n", int(len(text) * (1 - HELDOUT_FRACTION))) + 1
    if not cut:
        raise GenesisError("the text is too short: no line ends in its last twentieth")
    try:
        trained = tokenizer.train(text[: min(cut, TOKENIZER_CHARACTERS)], vocabulary_size)
    except tokenizer.TokenizerError as error:
        raise GenesisError(str(error)) from error
    encode = tokenizer.load(trained).encode
    return Tokens(trained, encode(text[:cut]), encode(text[cut:]))


def check_lengths(tokens: Tokens, config: InnerConfig) -> None:
    """Raises GenesisError unless one batch fits into the training split and one sequence into the held-out one."""
    for name, found, sequences in (
        ("training", len(tokens.train), config.batch_sequences),
        ("held-out", len(tokens.heldout), 1),
    ):
        wanted = sequences * config.sequence_tokens + 1
        if found < wanted:
            raise GenesisError(f"the text is too short: its {name} part has {found} tokens of at least {wanted}")


def write_tokens(out: Path, tokens: Tokens) -> tuple[list[str], str]:
    """Write the token files; returns the names of the training shards and of the held-out one. Raises OSError."""
    per_shard = SHARD_BYTES // tokens.train.itemsize
    shards = []
    for number, start in enumerate(range(0, len(tokens.train), per_shard)):
        shards.append(f"train-{number:03}.tok")
        _write(out / shards[-1], tokens.train[start : start + per_shard])
    _write(out / "heldout.tok", tokens.heldout)
    return shards, "heldout.tok"


def _write(path: Path, array: NDArray[Any]) -> None:
    with replacing(path) as file:
        file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


def inner_step_seconds(model: transformer.Transformer, pool: TokenPool, config: InnerConfig) -> float:
    """The median of a few warm inner steps on the first sequences. Trains the model."""
    optimizer = inner.make_optimizer(model, config)
    batch = pool.batch([index % pool.sequences for index in range(config.batch_sequences)])
    seconds = []
    for step in range(_WARM_STEPS + _TIMED_STEPS):
        started = time.perf_counter()
        inner.inner_step(model, optimizer, batch, inner.learning_rate(config, step), config.gradient_clip)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[_WARM_STEPS:])


def make(out: Path, preset: str, seed: int, text: str, config: InnerConfig) -> dict[str, Any]:
    """Write all files into `out` and return the summary. Raises GenesisError, OSError."""
    model_config: ModelConfig = PRESETS[preset]
    _say(f"tokenising {len(text)} characters with a vocabulary of {model_config.vocabulary_size}")
    tokens = tokenise(text, model_config.vocabulary_size)
    check_lengths(tokens, config)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "tokenizer.json") as file:
        file.write(tokens.tokenizer_json)
    shards, heldout = write_tokens(out, tokens)
    _say(f"{len(tokens.train)} training and {len(tokens.heldout)} held-out tokens; building {preset}")
    model = transformer.build(model_config, seed)
    _write(out / "theta.bin", transformer.flatten(model).numpy())
    _say("measuring an inner step")
    pool = TokenPool([out / shard for shard in shards], config.sequence_tokens)
    return {
        "preset": preset,
        "model": asdict(model_config),
        "parameters": transformer.parameter_count(model_config),
        "tokenizer": "tokenizer.json",
        "train_shards": shards,
        "train_tokens": len(tokens.train),
        "heldout_shard": heldout,
        "heldout_tokens": len(tokens.heldout),
        "theta": "theta.bin",
        "inner_step_seconds": inner_step_seconds(model, pool, config),
    }


def _say(line: str) -> None:
    print(f"genesis: {line}", file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    defaults = InnerConfig()
    parser = argparse.ArgumentParser(prog="python -m model.genesis", description="Make what a new run starts from.")
    parser.add_argument("--preset", choices=sorted(PRESETS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory for the files")
    parser.add_argument("--seed", type=int, default=0, help="of θ_0")
    parser.add_argument("--text", type=Path, help="a UTF-8 file to train on; default: bundled Shakespeare")
    parser.add_argument("--sequence-tokens", type=_positive, default=defaults.sequence_tokens)
    parser.add_argument("--batch-sequences", type=_positive, default=defaults.batch_sequences)
    parser.add_argument("--threads", type=_positive, default=1)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 78 for a text or preset that cannot do, 75 where files cannot be written."""
    arguments = _arguments(argv)
    torch.set_num_threads(arguments.threads)
    config = replace(
        InnerConfig(), sequence_tokens=arguments.sequence_tokens, batch_sequences=arguments.batch_sequences
    )
    try:
        summary = make(arguments.out, arguments.preset, arguments.seed, read_text(arguments.text), config)
    except GenesisError as error:
        _say(str(error))
        return EXIT_CONFIG
    except OSError as error:
        _say(f"cannot write into {arguments.out}: {error}")
        return EXIT_TRY_AGAIN
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
