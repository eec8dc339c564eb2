"""Token files and who trains on which part of them.

A token file ("shard") is raw little-endian uint16. A *sequence* is sequence_tokens + 1 consecutive tokens of one
shard; sequences start every sequence_tokens, so the last token of one is the first of the next: each token is
predicted once.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray

from model.errors import InputError
from model.regularfile import Unreadable, opened

_TOKEN_BYTES = 2
_ROUNDS = 8
_ROUND_CONTEXT = b"covenantd sequences 1\0"


class DataError(InputError):
    """A token file is missing or not what it should be."""


class TokenPool:
    """The sequences of some shards, in the order of the shards. The files are mapped, not read."""

    def __init__(self, paths: Sequence[str | Path], sequence_tokens: int, *, vocabulary_size: int = 1 << 16) -> None:
        """Raises DataError if a shard cannot be mapped or is torn, or if all of them hold no sequence."""
        if sequence_tokens < 1:
            raise ValueError(f"sequence_tokens must be positive, not {sequence_tokens}")
        self._paths = tuple(Path(path) for path in paths)
        self._shards = tuple(_map_shard(path) for path in self._paths)
        counts = (max(0, len(shard) - 1) // sequence_tokens for shard in self._shards)
        self._firsts = (0, *accumulate(counts))
        self._sequence_tokens = sequence_tokens
        self._vocabulary_size = vocabulary_size
        if not self.sequences:
            raise DataError(f"no sequence of {sequence_tokens} + 1 tokens in {[str(p) for p in self._paths]}")

    @property
    def sequences(self) -> int:
        return self._firsts[-1]

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """int64 [len(indices), sequence_tokens + 1].

        Raises IndexError outside 0..sequences-1, DataError on a token outside the vocabulary.
        """
        rows = np.empty((len(indices), self._sequence_tokens + 1), np.int64)
        for row, index in zip(rows, indices, strict=True):
            row[:] = self._sequence(index)
        return torch.from_numpy(rows)

    def _sequence(self, index: int) -> NDArray[np.uint16]:
        if not 0 <= index < self.sequences:
            raise IndexError(f"sequence {index} of {self.sequences}")
        number = bisect_right(self._firsts, index) - 1
        start = (index - self._firsts[number]) * self._sequence_tokens
        tokens = self._shards[number][start : start + self._sequence_tokens + 1]
        if int(tokens.max()) >= self._vocabulary_size:
            found = f"token {int(tokens.max())} after position {start}"
            raise DataError(f"{found} is outside the vocabulary of {self._vocabulary_size}", str(self._paths[number]))
        return tokens


def _map_shard(path: Path) -> NDArray[np.uint16]:
    try:
        with opened(str(path)) as (file, size):
            if size % _TOKEN_BYTES or not size:
                raise DataError(f"{size} bytes are no whole number of uint16 tokens", str(path))
            return np.memmap(file, dtype="<u2", mode="r", shape=(size // _TOKEN_BYTES,))
    except Unreadable as error:
        raise DataError(str(error), str(path)) from error


class Permutation:
    """A keyed permutation of range(total), entry by entry: nothing of size `total` is ever built.

    A balanced Feistel network of 8 rounds over the next power of four, its round function keyed BLAKE3; values
    beyond `total` walk on until they fall inside (Black and Rogaway, "Ciphers with arbitrary finite domains",
    2002): fewer than 4 walks on average. The same on every machine: part of the protocol.
    """

    def __init__(self, key_hex: str, total: int) -> None:
        """`key_hex`: 64 hex digits. Raises ValueError."""
        self._key = bytes.fromhex(key_hex)
        if len(self._key) != 32 or not 0 < total < 1 << 62:
            raise ValueError(f"want a key of 32 bytes and a positive total, got {len(self._key)} and {total}")
        self._total = total
        self._half_bits = max(1, ((total - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half_bits) - 1
        self._rounds: dict[tuple[int, int], int] = {}  # small domains ask the same again and again

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._total:
            raise IndexError(f"{index} of {self._total}")
        value = self._encipher(index)
        while value >= self._total:
            value = self._encipher(value)
        return value

    def _encipher(self, value: int) -> int:
        left, right = value >> self._half_bits, value & self._mask
        for number in range(_ROUNDS):
            left, right = right, left ^ self._round(number, right)
        return left << self._half_bits | right

    def _round(self, number: int, half: int) -> int:
        known = self._rounds.get((number, half))
        if known is None:
            message = _ROUND_CONTEXT + number.to_bytes(1, "little") + half.to_bytes(8, "little")
            known = int.from_bytes(blake3(message, key=self._key).digest(8), "little") & self._mask
            self._rounds[number, half] = known
        return known


def assigned_sequences(key_hex: str, total_sequences: int, count: int) -> list[int]:
    """The first `count` entries of the permutation of range(total_sequences) under the key, starting over when
    it is exhausted. Work is proportional to `count`. Raises ValueError."""
    if count < 0:
        raise ValueError(f"count must not be negative: {count}")
    permutation = Permutation(key_hex, total_sequences)
    return [permutation[index % total_sequences] for index in range(count)]


def unassigned_sequences(key_hex: str, total: int, count: int, excluded: set[int]) -> list[int]:
    """The first `count` entries of the permutation under the key that are not in `excluded`: distinct, and fewer
    than `count` only where fewer are left. Raises ValueError."""
    if count < 0:
        raise ValueError(f"count must not be negative: {count}")
    permutation = Permutation(key_hex, total)
    remainder = (value for value in map(permutation.__getitem__, range(total)) if value not in excluded)
    return list(_take(remainder, count))


def _take(values: Iterator[int], count: int) -> Iterator[int]:
    for _, value in zip(range(count), values, strict=False):
        yield value
