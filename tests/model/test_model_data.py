"""Text, tokens, token files and the drawing of sequences."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from model import corpus, tokenizer
from model.data import DataError, TokenPool, assigned_sequences, unassigned_sequences

KEY = bytes(range(32)).hex()
keys = st.binary(min_size=32, max_size=32).map(bytes.hex)


@pytest.fixture(scope="module")
def sample() -> str:
    return corpus.text()[: 1 << 18]


@pytest.fixture(scope="module")
def trained(sample: str) -> bytes:
    return tokenizer.train(sample, 600)


def test_bundled_text_is_what_the_notice_says() -> None:
    text = corpus.text()
    assert len(text) == 4_955_629 and text.isascii()
    assert blake3(text.encode()).hexdigest() == "545a0db73a8997691ddcbeb3b140ff3786c77e3e89da4438303d5e07bf3870e7"
    assert text.startswith("A Midsummer Night's Dream\n\nACT I\n") and "To be, or not to be" in text
    assert not set("\\*_#\r") & set(text)


def test_any_text_comes_back_whole(trained: bytes) -> None:
    loaded = tokenizer.load(trained)

    @given(st.text() | st.text(alphabet="a \n\t'é🦜", max_size=200))
    @settings(max_examples=300)
    def round_trip(text: str) -> None:
        tokens = loaded.encode(text)
        assert tokens.dtype == np.uint16 and (not len(tokens) or tokens.max() < 600)
        assert loaded.decode(tokens) == text

    round_trip()


def test_long_text_is_cut_and_comes_back_whole(trained: bytes, sample: str) -> None:
    loaded = tokenizer.load(trained)
    for text in (sample, sample.replace("\n", " "), "\n" * 200_000):
        assert loaded.decode(loaded.encode(text)) == text


def test_tokens_compress(trained: bytes, sample: str) -> None:
    assert tokenizer.load(trained).vocabulary_size == 600
    assert len(tokenizer.load(trained).encode(sample)) < len(sample) / 2


def test_training_is_the_same_whatever_the_threads(trained: bytes) -> None:
    program = (
        "import sys; from model import corpus, tokenizer;"
        "sys.stdout.buffer.write(tokenizer.train(corpus.text()[: 1 << 18], 600))"
    )
    for threads in ("1", "3"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        again = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, check=True)
        assert again.stdout == trained


@pytest.mark.parametrize("size", [0, 255, 65_537])
def test_vocabularies_that_cannot_be_stored_are_refused(size: int) -> None:
    with pytest.raises(tokenizer.TokenizerError, match="uint16"):
        tokenizer.train("text", size)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\x00", b'{"model": {"type": "BPE"}}', b"null"])
def test_foreign_tokenizers_are_refused(data: bytes) -> None:
    with pytest.raises(tokenizer.TokenizerError):
        tokenizer.load(data)


def test_decoding_a_foreign_token_is_refused(trained: bytes) -> None:
    with pytest.raises(tokenizer.TokenizerError, match="outside"):
        tokenizer.load(trained).decode(np.array([65_535], np.uint16))


def shard(path: Path, first: int, count: int) -> Path:
    np.arange(first, first + count).astype("<u2").tofile(path)
    return path


def test_pool_cuts_sequences_within_shards(tmp_path: Path) -> None:
    # 11 tokens hold two sequences of 4 + 1 (a third would need 13); 4 tokens none; 5 tokens one
    paths = [shard(tmp_path / name, first, n) for name, first, n in (("a", 0, 11), ("b", 100, 4), ("c", 200, 5))]
    pool = TokenPool(paths, 4)
    assert pool.sequences == 3
    batch = pool.batch([2, 0, 1, 0])
    assert batch.dtype == torch.int64
    assert batch.tolist() == [[200, 201, 202, 203, 204], [0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [0, 1, 2, 3, 4]]
    assert pool.batch([]).shape == (0, 5)


def test_shards_are_little_endian(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(bytes([1, 0, 2, 1]))
    assert TokenPool([tmp_path / "s"], 1).batch([0]).tolist() == [[1, 258]]


@pytest.mark.parametrize("index", [-1, 3, 1 << 70])
def test_pool_bounds(tmp_path: Path, index: int) -> None:
    pool = TokenPool([shard(tmp_path / "s", 0, 13)], 4)
    with pytest.raises(IndexError):
        pool.batch([0, index])


def test_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    pool = TokenPool([shard(tmp_path / "s", 0, 100)], 4, vocabulary_size=50)
    assert pool.batch([11]).max() == 48
    with pytest.raises(DataError, match=r"/s: token 52 .* vocabulary of 50"):
        pool.batch([12])


@pytest.mark.parametrize("content", [b"", b"123", b"12", b"12345678"])
def test_torn_and_empty_shards_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(DataError, match="/s"):
        TokenPool([tmp_path / "s"], 4)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "fifo"):
        with pytest.raises(DataError, match=str(path)):
            TokenPool([path], 4)
    with pytest.raises(DataError):
        TokenPool([], 4)


def test_assignment_is_part_of_the_protocol() -> None:
    """Golden: a miner and the validator that checks it must draw the same, on every machine, for ever."""
    drawn = assigned_sequences(KEY, 15_000, 8)
    assert drawn == [2848, 4109, 9759, 13590, 1316, 11207, 4848, 13240]
    assert assigned_sequences(KEY, 10**12, 3) == [812843036397, 17434234451, 308198132037]
    assert unassigned_sequences(KEY, 15_000, 4, set(drawn[:6])) == [4848, 13240, 8400, 647]


@given(keys, st.integers(1, 400))
def test_assignment_is_a_permutation(key: str, total: int) -> None:
    drawn = assigned_sequences(key, total, total)
    assert sorted(drawn) == list(range(total))
    assert assigned_sequences(key, total, 2 * total + 1) == [*drawn, *drawn, drawn[0]]


@given(keys, st.integers(1, 1 << 61), st.integers(0, 20))
def test_assignment_stays_inside_and_repeats_only_when_exhausted(key: str, total: int, count: int) -> None:
    drawn = assigned_sequences(key, total, count)
    assert len(drawn) == count and all(0 <= index < total for index in drawn)
    assert len(set(drawn)) == min(count, total)


def test_assignment_spreads_and_differs_by_key() -> None:
    drawn = assigned_sequences(KEY, 10_000, 2_000)
    quarters = np.bincount(np.array(drawn) // 2_500, minlength=4)
    assert quarters.min() > 400 and quarters.max() < 600
    other = assigned_sequences("00" * 32, 10_000, 2_000)
    assert 300 < len(set(drawn) & set(other)) < 500  # as chance would have it: 400


@given(keys, st.integers(1, 200), st.integers(0, 250), st.sets(st.integers(0, 250)))
def test_unassigned_avoids_the_assigned(key: str, total: int, count: int, excluded: set[int]) -> None:
    drawn = unassigned_sequences(key, total, count, excluded)
    assert len(drawn) == len(set(drawn)) == min(count, len(set(range(total)) - excluded))
    assert not set(drawn) & excluded and all(0 <= index < total for index in drawn)


@pytest.mark.parametrize(
    ("key", "total", "count"), [("00", 10, 1), ("zz" * 32, 10, 1), (KEY, 0, 1), (KEY, -5, 1), (KEY, 10, -1)]
)
def test_bad_draws_are_refused(key: str, total: int, count: int) -> None:
    for draw in (assigned_sequences, lambda k, t, c: unassigned_sequences(k, t, c, set())):
        with pytest.raises(ValueError):
            draw(key, total, count)
