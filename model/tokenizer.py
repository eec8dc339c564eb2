"""Byte-level BPE: every text has tokens and comes back whole. The work is the `tokenizers` library's."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as _Tokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

MAX_VOCABULARY = 1 << 16  # tokens are stored as uint16
_SMALLEST_VOCABULARY = 256  # every byte
_PIECE_CHARACTERS = 1 << 16


class TokenizerError(ValueError):
    """A tokenizer file that is none of ours, or a vocabulary no token file can hold."""


@dataclass(frozen=True)
class Tokenizer:
    """Text to tokens and back."""

    _inner: _Tokenizer

    @property
    def vocabulary_size(self) -> int:
        return int(self._inner.get_vocab_size())

    def encode(self, text: str) -> NDArray[np.uint16]:
        """uint16 [n]. Long texts are cut at line ends into pieces that are encoded side by side: the same
        pieces everywhere, and a token never crosses them. Raises UnicodeEncodeError on lone surrogates."""
        encodings = self._inner.encode_batch_fast(list(_pieces(text)), add_special_tokens=False)
        return np.concatenate([np.empty(0, np.uint16), *(np.asarray(e.ids, np.uint16) for e in encodings)])

    def decode(self, tokens: NDArray[np.uint16]) -> str:
        """Bytes that are no UTF-8 become U+FFFD. Raises TokenizerError on a token outside the vocabulary."""
        if len(tokens) and int(tokens.max()) >= self.vocabulary_size:
            raise TokenizerError(f"token {int(tokens.max())} is outside the vocabulary of {self.vocabulary_size}")
        return str(self._inner.decode(tokens.tolist(), skip_special_tokens=False))


def train(text: str, vocabulary_size: int) -> bytes:
    """A tokenizer.json, the same bytes for the same text whatever the thread count.

    A short text yields fewer than `vocabulary_size` tokens. Raises TokenizerError.
    """
    if not _SMALLEST_VOCABULARY <= vocabulary_size <= MAX_VOCABULARY:
        raise TokenizerError(
            f"vocabulary of {vocabulary_size}: must be {_SMALLEST_VOCABULARY} to {MAX_VOCABULARY} (tokens are uint16)"
        )
    inner = _Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    inner.train_from_iterator(_pieces(text), trainer)
    return str(inner.to_str()).encode()


def load(data: bytes) -> Tokenizer:
    """Take up a tokenizer.json. Raises TokenizerError."""
    try:
        inner = _Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exception on anything it cannot parse
        raise TokenizerError(f"not a tokenizer.json: {error}") from error
    if not isinstance(inner.model, models.BPE) or inner.get_vocab_size() > MAX_VOCABULARY:
        raise TokenizerError(f"not a BPE of at most {MAX_VOCABULARY} tokens")
    return Tokenizer(inner)


def _pieces(text: str) -> Iterator[str]:
    """Cuts of the text after the first line end past each _PIECE_CHARACTERS, so that memory stays bounded."""
    line_end = re.compile("\n")
    start = 0
    while start < len(text):
        found = line_end.search(text, start + _PIECE_CHARACTERS)
        end = found.end() if found else len(text)
        yield text[start:end]
        start = end
