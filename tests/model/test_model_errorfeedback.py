"""Error feedback, to the bit."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model import sparse as sparse_module
from model.compress import compress
from model.config import CompressionConfig
from model.errorfeedback import MAX_CLAIMS, ErrorFeedback
from model.errors import StateError
from model.layout import Layout
from model.sparse import Sparse

RUN = "ab" * 32
LAYOUT = Layout.of((("w", (70, 130)), ("n", (9,))), CompressionConfig())
BETA = np.float32(0.95)


def delta(seed: int) -> torch.Tensor:
    return torch.randn(LAYOUT.parameters, generator=torch.Generator().manual_seed(seed)) * 1e-2


def dense(sparse: Sparse) -> torch.Tensor:
    return sparse_module.dense(LAYOUT, sparse)


def fresh() -> ErrorFeedback:
    return ErrorFeedback(RUN, LAYOUT, 0.95)


def unclaimed(feedback: ErrorFeedback) -> torch.Tensor:
    return feedback.unclaimed(torch.empty(LAYOUT.parameters))


def seal(feedback: ErrorFeedback, round_: int) -> Sparse:
    feedback.absorb(round_, delta(round_))
    sparse = compress(LAYOUT, unclaimed(feedback))
    feedback.claim(round_, sparse)
    return sparse


def assert_same(one: ErrorFeedback, other: ErrorFeedback) -> None:
    assert torch.equal(one.gross.view(torch.int32), other.gross.view(torch.int32))
    assert one.pending_rounds == other.pending_rounds
    assert one.trained_round == other.trained_round
    assert torch.equal(unclaimed(one), unclaimed(other))


def test_included_at_once_is_the_papers_rule_to_the_bit() -> None:
    feedback, paper = fresh(), torch.zeros(LAYOUT.parameters)
    for round_ in range(5):
        sparse = seal(feedback, round_)
        paper = paper * torch.tensor(BETA) + delta(round_)
        assert torch.equal(dense(sparse), dense(compress(LAYOUT, paper)))
        paper = paper - dense(sparse)
        assert feedback.settle(round_, included=True)
        assert torch.equal(feedback.gross, paper)
        assert torch.equal(unclaimed(feedback), paper)


def test_left_out_is_as_if_never_sent_to_the_bit() -> None:
    feedback, without = fresh(), fresh()
    for round_ in range(4):
        seal(feedback, round_)
        feedback.settle(round_, included=False)
        without.absorb(round_, delta(round_))
        assert_same(feedback, without)


def test_left_out_rounds_later_is_still_whole() -> None:
    feedback, without = fresh(), fresh()
    for round_ in range(4):
        seal(feedback, round_)
        without.absorb(round_, delta(round_))
    for round_ in (2, 0, 3, 1):
        feedback.settle(round_, included=False)
    assert_same(feedback, without)


def test_included_rounds_later_takes_what_is_left_of_it() -> None:
    feedback, expected = fresh(), fresh()
    sent = seal(feedback, 0)
    expected.absorb(0, delta(0))
    for round_ in (1, 2):
        feedback.absorb(round_, delta(round_))
        expected.absorb(round_, delta(round_))
    feedback.settle(0, included=True)
    faded = dense(sent) * torch.tensor(BETA * BETA)
    assert torch.equal(feedback.gross, expected.gross - faded)


def test_what_is_claimed_is_not_selected_again() -> None:
    feedback = fresh()
    first = dense(seal(feedback, 0))
    feedback.absorb(1, delta(1))
    gross = delta(0) * torch.tensor(BETA) + delta(1)
    assert torch.equal(feedback.gross, gross)
    assert torch.equal(unclaimed(feedback), gross - first * torch.tensor(BETA))
    second = dense(compress(LAYOUT, unclaimed(feedback)))
    feedback.claim(1, compress(LAYOUT, unclaimed(feedback)))
    feedback.absorb(2, torch.zeros(LAYOUT.parameters))
    left = gross * torch.tensor(BETA) - first * torch.tensor(BETA * BETA) - second * torch.tensor(BETA)
    assert torch.equal(unclaimed(feedback), left)


def test_settling_is_idempotent_and_unknown_rounds_are_nothing() -> None:
    feedback = fresh()
    seal(feedback, 3)
    assert not feedback.settle(2, included=True)
    assert feedback.settle(3, included=True)
    before = feedback.gross.clone()
    assert not feedback.settle(3, included=True)
    assert not feedback.settle(3, included=False)
    assert torch.equal(feedback.gross, before)


def test_rounds_go_forward_only() -> None:
    feedback = fresh()
    sparse = seal(feedback, 3)
    for round_ in (3, 2, -1):
        with pytest.raises(ValueError, match="round"):
            feedback.absorb(round_, delta(0))
    for round_ in (3, 4):
        with pytest.raises(ValueError, match="cannot claim"):
            feedback.claim(round_, sparse)


def test_save_and_load_to_the_bit(tmp_path: Path) -> None:
    feedback = fresh()
    path = tmp_path / "ef.bin"
    for round_ in range(4):
        feedback.save(path)
        assert_same(ErrorFeedback.load(path, RUN, LAYOUT, 0.95), feedback)
        seal(feedback, round_)
        if round_ == 1:
            feedback.settle(0, included=True)
    feedback.save(path)
    loaded = ErrorFeedback.load(path, RUN, LAYOUT, 0.95)
    assert loaded.pending_rounds == (1, 2, 3)
    for round_, included in ((2, True), (1, False), (3, True)):
        for each in (feedback, loaded):
            each.settle(round_, included)
    assert_same(feedback, loaded)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ef.bin"]


def cut(data: bytearray) -> bytes:
    return bytes(data[:-1])


def grown(data: bytearray) -> bytes:
    return bytes(data) + b"\0"


def emptied(_: bytearray) -> bytes:
    return b""


def changed(offset: int) -> Callable[[bytearray], bytes]:
    def change(data: bytearray) -> bytes:
        data[offset] ^= 1
        return bytes(data)

    return change


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "torn"),
        (grown, "torn"),
        (emptied, "not an error feedback file"),
        (changed(0), "not an error feedback file"),
        (changed(8), "of run"),
        (changed(40), "of layout"),
        (changed(72), "checksum"),  # the trained round
        (changed(88), "torn"),  # the number of claims
        (changed(91), "at most"),
        (changed(92), "checksum"),  # a claim's round
        (changed(-40), "checksum"),  # e
        (changed(-1), "checksum"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[bytearray], bytes], reason: str) -> None:
    path = tmp_path / "ef.bin"
    feedback = fresh()
    seal(feedback, 0)
    feedback.save(path)
    path.write_bytes(damage(bytearray(path.read_bytes())))
    with pytest.raises(StateError, match=reason) as caught:
        ErrorFeedback.load(path, RUN, LAYOUT, 0.95)
    assert caught.value.path == str(path)


def test_foreign_and_absent_files(tmp_path: Path) -> None:
    path = tmp_path / "ef.bin"
    with pytest.raises(StateError, match="No such file"):
        ErrorFeedback.load(path, RUN, LAYOUT, 0.95)
    fresh().save(path)
    with pytest.raises(StateError, match="of run"):
        ErrorFeedback.load(path, "cd" * 32, LAYOUT, 0.95)
    other = Layout.of((("w", (130, 70)), ("n", (9,))), CompressionConfig())
    with pytest.raises(StateError, match="of layout"):
        ErrorFeedback.load(path, RUN, other, 0.95)


def test_a_save_that_fails_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ef.bin"
    feedback = fresh()
    feedback.save(path)
    before = path.read_bytes()
    seal(feedback, 0)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        feedback.save(path)
    assert path.read_bytes() == before


def test_its_norm_is_that_of_what_is_not_claimed_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    feedback = fresh()
    for round_ in range(3):
        wanted = float(torch.linalg.vector_norm(unclaimed(feedback).double()))
        assert feedback.norm() == pytest.approx(wanted, rel=1e-6)
        seal(feedback, round_)
    wanted = float(torch.linalg.vector_norm(unclaimed(feedback).double()))
    before = feedback.gross.clone()
    monkeypatch.delattr(ErrorFeedback, "unclaimed")
    assert feedback.norm() == pytest.approx(wanted, rel=1e-6)
    assert torch.equal(feedback.gross, before)


def test_claims_are_bounded() -> None:
    feedback = fresh()
    sparse = compress(LAYOUT, delta(0))
    for round_ in range(MAX_CLAIMS):
        feedback.trained_round = round_
        feedback.claim(round_, sparse)
    feedback.trained_round = MAX_CLAIMS
    with pytest.raises(ValueError, match="await"):
        feedback.claim(MAX_CLAIMS, sparse)
