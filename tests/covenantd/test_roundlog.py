"""rounds.jsonl: what is written down is read back, whatever happened to the file meanwhile."""

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covenantd import roundlog
from covenantd.board import KEPT_ROUNDS, StatusBoard
from covenantd.roundlog import RoundLog, keep_rounds
from covenantd.status import ContributionStatus, RoundSummary, Status


def summary(number: int, result: str = "certified") -> RoundSummary:
    sent = (ContributionStatus("5Own", "included", 10),)
    return RoundSummary(number, result, 2, True, "ab" * 32, 3.5, float("nan"), 20, 10, {"train": 1.5}, 1e9, sent)


def test_a_board_begins_where_the_last_one_ended(tmp_path: Path) -> None:
    first = StatusBoard(Status("miner"))
    keep_rounds(first, tmp_path)
    for number in range(5):
        first.add_round(summary(number, "unknown"))
    first.add_round(summary(2))  # a later word
    second = StatusBoard(Status("miner"))
    keep_rounds(second, tmp_path)
    assert [(one.round, one.result) for one in second.rounds] == [
        (0, "unknown"),
        (1, "unknown"),
        (2, "certified"),
        (3, "unknown"),
        (4, "unknown"),
    ]
    assert second.rounds[2].contributions == summary(2).contributions and second.rounds[2].heldout_loss is None


def test_a_line_cut_off_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    record = RoundLog(path)
    record.append(summary(1))
    record.append(summary(2))
    path.write_bytes(path.read_bytes()[:-20])
    again = RoundLog(path)
    assert [one.round for one in again.read()] == [1]
    again.append(summary(3))
    assert [one.round for one in RoundLog(path).read()] == [1, 3]


def test_the_file_is_bounded_by_rounds(tmp_path: Path) -> None:
    record = RoundLog(tmp_path / "rounds.jsonl")
    for number in range(3 * KEPT_ROUNDS):
        record.append(summary(number))
    lines = (tmp_path / "rounds.jsonl").read_bytes().count(b"\n")
    assert lines <= 2 * KEPT_ROUNDS
    kept = RoundLog(tmp_path / "rounds.jsonl").read()
    assert kept[-1].round == 3 * KEPT_ROUNDS - 1 and len(kept) >= KEPT_ROUNDS // 2
    assert all(json.loads(line)["schema"] == 1 for line in (tmp_path / "rounds.jsonl").read_text().splitlines())


def test_the_file_is_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roundlog, "MAX_BYTES", 20_000)
    path = tmp_path / "rounds.jsonl"
    record = RoundLog(path)
    for number in range(200):
        record.append(summary(number))
        assert path.stat().st_size <= 20_000
    assert RoundLog(path).read()[-1].round == 199


@given(st.binary(max_size=2000))
def test_any_file_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("log") / "rounds.jsonl"
    path.write_bytes(content)
    record = RoundLog(path)
    before = len(record.read())
    record.append(summary(7))
    assert RoundLog(path).read()[-1].round >= 7 and len(RoundLog(path).read()) <= before + 1


def test_a_full_disk_stops_no_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = RoundLog(tmp_path / "rounds.jsonl")

    def full(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        record.append(summary(1))
    record.append(summary(2))
    assert [one.round for one in record.read()] == [2]
