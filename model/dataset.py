"""`python -m model.dataset --vocabulary N --out DIR [--text FILE]`: a text as the tokens that a run trains on.

Writes tokenizer.json, train-000.tok (and more, of at most 8 MiB), heldout.tok (the last twentieth of the text), and
data.json, which names and counts them: `model.genesis --data DIR` starts from it. Progress goes to stderr; the last
line of stdout is data.json. The same text and vocabulary give the same files.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import corpus, tokenizer
from model.atomicfile import replacing

EXIT_TRY_AGAIN = 75
EXIT_CONFIG = 78
MANIFEST = "data.json"
SHARD_BYTES = 8 << 20
TOKENIZER_CHARACTERS = 2 << 20  # on all of the bundled text: 0.6% fewer tokens, three times the time
HELDOUT_FRACTION = 0.05
_MAX_MANIFEST_BYTES = 1 << 20


class DatasetError(Exception):
    """The text, the tokens or the model's sizes cannot start a run; the message says which and why."""


@dataclass(frozen=True)
class Tokens:
    """A text, tokenised and split."""

    tokenizer_json: bytes
    train: NDArray[np.uint16]
    heldout: NDArray[np.uint16]


@dataclass(frozen=True)
class Files:
    """Names in one directory, and what is in them. No token is `vocabulary_size` or more."""

    vocabulary_size: int
    tokenizer: str
    train_shards: tuple[str, ...]
    train_tokens: int
    heldout_shard: str
    heldout_tokens: int

    @property
    def names(self) -> tuple[str, ...]:
        return (self.tokenizer, *self.train_shards, self.heldout_shard)


def read_text(path: Path | None) -> str:
    """The file as UTF-8, or the bundled corpus. Raises DatasetError."""
    if path is None:
        return corpus.text()
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the text {path}: {error}") from error


def tokenise(text: str, vocabulary_size: int) -> Tokens:
    """Train a tokenizer on all but the held-out end of the text, and apply it to both. Raises DatasetError."""
    cut = text.find("\n", int(len(text) * (1 - HELDOUT_FRACTION))) + 1
    if not cut:
        raise DatasetError("the text is too short: no line ends in its last twentieth")
    try:
        trained = tokenizer.train(text[: min(cut, TOKENIZER_CHARACTERS)], vocabulary_size)
    except tokenizer.TokenizerError as error:
        raise DatasetError(str(error)) from error
    encode = tokenizer.load(trained).encode
    return Tokens(trained, encode(text[:cut]), encode(text[cut:]))


def write(out: Path, tokens: Tokens) -> Files:
    """Tokenizer and token files. Raises OSError."""
    with replacing(out / "tokenizer.json") as file:
        file.write(tokens.tokenizer_json)
    size = tokenizer.load(tokens.tokenizer_json).vocabulary_size
    shards, heldout = write_tokens(out, tokens)
    return Files(size, "tokenizer.json", tuple(shards), len(tokens.train), heldout, len(tokens.heldout))


def write_tokens(out: Path, tokens: Tokens) -> tuple[list[str], str]:
    """Write the token files; returns the names of the training shards and of the held-out one. Raises OSError."""
    per_shard = SHARD_BYTES // tokens.train.itemsize
    shards = []
    for number, start in enumerate(range(0, len(tokens.train), per_shard)):
        shards.append(f"train-{number:03}.tok")
        write_array(out / shards[-1], tokens.train[start : start + per_shard])
    write_array(out / "heldout.tok", tokens.heldout)
    return shards, "heldout.tok"


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Raw little-endian values, whole or not at all. Raises OSError."""
    with replacing(path) as file:
        file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


def described(directory: Path, vocabulary_size: int) -> Files:
    """What `directory` says it holds, its sizes checked. Raises DatasetError, also where a model of that vocabulary
    could not read the tokens."""
    path = directory / MANIFEST
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_MANIFEST_BYTES))
        files = Files(**{**found, "train_shards": tuple(found["train_shards"])})
        if any(Path(name).name != name for name in files.names):
            raise ValueError("a name in it is a path")
        sizes = [(directory / name).stat().st_size for name in files.names]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{path} is not what `covenantd data` writes: {error}") from error
    if sum(sizes[1:]) != 2 * (files.train_tokens + files.heldout_tokens):
        raise DatasetError(f"{directory}: the token files are not as long as {MANIFEST} says; make them anew")
    if files.vocabulary_size > vocabulary_size:
        raise DatasetError(
            f"{directory} has a vocabulary of {files.vocabulary_size}, the model only one of {vocabulary_size}"
        )
    return files


def copy(directory: Path, files: Files, out: Path) -> None:
    """Raises OSError."""
    for name in files.names:
        shutil.copyfile(directory / name, out / name)


def make(out: Path, text: str, vocabulary_size: int) -> Files:
    """Write all files into `out`, data.json last. Raises DatasetError, OSError."""
    say(f"tokenising {len(text)} characters with a vocabulary of {vocabulary_size}")
    tokens = tokenise(text, vocabulary_size)
    out.mkdir(parents=True, exist_ok=True)
    files = write(out, tokens)
    with replacing(out / MANIFEST) as file:
        file.write(json.dumps(asdict(files)).encode() + b"\n")
    say(f"{files.train_tokens} training and {files.heldout_tokens} held-out tokens in {out}")
    return files


def say(line: str) -> None:
    print(f"data: {line}", file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.dataset", description="Make a run's tokens of a text.")
    parser.add_argument("--vocabulary", type=int, required=True, help="tokens of the tokenizer that is trained")
    parser.add_argument("--out", type=Path, required=True, help="directory for the files")
    parser.add_argument("--text", type=Path, help="a UTF-8 file; default: bundled Shakespeare")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 78 for a text or vocabulary that cannot do, 75 where files cannot be written."""
    arguments = _arguments(argv)
    try:
        files = make(arguments.out, read_text(arguments.text), arguments.vocabulary)
    except DatasetError as error:
        say(str(error))
        return EXIT_CONFIG
    except OSError as error:
        say(f"cannot write into {arguments.out}: {error}")
        return EXIT_TRY_AGAIN
    print(json.dumps(asdict(files)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
