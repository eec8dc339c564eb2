"""`python -m model.genesis --preset nano --out DIR`: everything a new run starts from.

Writes the tokens of a text (see `model.dataset`), or takes those that are in a directory of its making, and theta.bin
(θ_0: raw little-endian fp32 in layout order), and measures an inner step. Progress goes to stderr; the last line of
stdout is one JSON object. The same text, preset and seed give the same files.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from model import dataset, inner, transformer
from model.config import PRESETS, InnerConfig, ModelConfig
from model.data import TokenPool
from model.dataset import EXIT_CONFIG, EXIT_TRY_AGAIN, DatasetError

_WARM_STEPS = 2
_TIMED_STEPS = 5


def check_lengths(train_tokens: int, heldout_tokens: int, config: InnerConfig) -> None:
    """Raises DatasetError unless one batch fits into the training split and one sequence into the held-out one."""
    for name, found, sequences in (
        ("training", train_tokens, config.batch_sequences),
        ("held-out", heldout_tokens, 1),
    ):
        wanted = sequences * config.sequence_tokens + 1
        if found < wanted:
            raise DatasetError(f"the text is too short: its {name} part has {found} tokens of at least {wanted}")


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


def make(out: Path, preset: str, seed: int, source: str | Path, config: InnerConfig) -> dict[str, Any]:
    """Write all files into `out` and return the summary. Raises DatasetError, OSError.

    `source`: a text, or the directory in which `model.dataset` has left its tokens.
    """
    model_config: ModelConfig = PRESETS[preset]
    files = _tokens_of(source, out, model_config.vocabulary_size, config)
    _say(f"{files.train_tokens} training and {files.heldout_tokens} held-out tokens; building {preset}")
    model = transformer.build(model_config, seed)
    dataset.write_array(out / "theta.bin", transformer.flatten(model).numpy())
    _say("measuring an inner step")
    pool = TokenPool([out / shard for shard in files.train_shards], config.sequence_tokens)
    return {
        "preset": preset,
        "model": asdict(model_config),
        "parameters": transformer.parameter_count(model_config),
        "tokenizer": files.tokenizer,
        "train_shards": list(files.train_shards),
        "train_tokens": files.train_tokens,
        "heldout_shard": files.heldout_shard,
        "heldout_tokens": files.heldout_tokens,
        "theta": "theta.bin",
        "inner_step_seconds": inner_step_seconds(model, pool, config),
    }


def _tokens_of(source: str | Path, out: Path, vocabulary_size: int, config: InnerConfig) -> dataset.Files:
    if isinstance(source, Path):
        files = dataset.described(source, vocabulary_size)
        check_lengths(files.train_tokens, files.heldout_tokens, config)
        out.mkdir(parents=True, exist_ok=True)
        dataset.copy(source, files, out)
        return files
    _say(f"tokenising {len(source)} characters with a vocabulary of {vocabulary_size}")
    tokens = dataset.tokenise(source, vocabulary_size)
    check_lengths(len(tokens.train), len(tokens.heldout), config)
    out.mkdir(parents=True, exist_ok=True)
    return dataset.write(out, tokens)


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
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--text", type=Path, help="a UTF-8 file to train on; default: bundled Shakespeare")
    what.add_argument("--data", type=Path, help="a directory that model.dataset has made")
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
        source = arguments.data or dataset.read_text(arguments.text)
        summary = make(arguments.out, arguments.preset, arguments.seed, source, config)
    except DatasetError as error:
        _say(str(error))
        return EXIT_CONFIG
    except OSError as error:
        _say(f"cannot write into {arguments.out}: {error}")
        return EXIT_TRY_AGAIN
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
