"""The journal through crashes, full disks and strange files."""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_fixture import h

from covenantd.errors import ConfigError
from covenantd.journal import (
    FORMAT,
    KEPT_ROUNDS,
    Journal,
    Memory,
    PastRound,
    SealedContribution,
    Voted,
    write_atomically,
)
from covenantd.roster import NO_DIGEST

RUN, GENESIS = h("run"), h("genesis")
FULL: dict[str, Any] = {
    "round": 3,
    "state_hash": h("state"),
    "previous": h("digest"),
    "past": (PastRound(1, None, h(1), ()), PastRound(2, h("digest"), h(2), (h(3), h(4)))),
    "sealed": SealedContribution(3, h("blob"), 1000, 30, h("state")),
    "voted": Voted(3, h("vote"), 1, "05"),
}


class Killed(BaseException):
    """kill -9: nothing of ours runs any more."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.json"


def opened(path: Path) -> Journal:
    return Journal(path, RUN, GENESIS)


def test_a_new_journal_begins_at_the_genesis_and_writes_nothing(path: Path) -> None:
    assert opened(path).memory == Memory(RUN, 0, GENESIS)
    assert not path.exists()


def test_everything_is_remembered(path: Path) -> None:
    journal = opened(path)
    journal.update(**FULL)
    assert opened(path).memory == journal.memory == Memory(run_id=RUN, **FULL)


def test_a_void_round_keeps_the_last_roster_and_a_certified_one_replaces_it(path: Path) -> None:
    journal = opened(path)
    journal.finish_round(PastRound(0, h("one"), h(1), (h("one"),)))
    journal.finish_round(PastRound(1, None, h(1), ()))
    memory = opened(path).memory
    assert (memory.round, memory.state_hash, memory.previous) == (2, h(1), h("one"))
    assert [past.round for past in memory.past] == [0, 1]


def test_only_the_last_rounds_are_kept(path: Path) -> None:
    journal = opened(path)
    journal.update(past=tuple(PastRound(number, None, GENESIS, ()) for number in range(KEPT_ROUNDS)))
    journal.finish_round(PastRound(KEPT_ROUNDS, None, GENESIS, ()))
    assert [past.round for past in journal.memory.past] == list(range(1, KEPT_ROUNDS + 1))


# Crashes and failing disks


@contextlib.contextmanager
def failing_at(step: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The `step`-th call to the disk raises; which calls there were is in the list."""
    calls: list[str] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == step:
                raise error
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", watched("fsync", os.fsync))
        patch.setattr(os, "replace", watched("replace", os.replace))
        patch.setattr(Path, "open", watched("open", Path.open))
        patch.setattr(os, "open", watched("open", os.open))
        yield calls


ERRORS = [Killed(), OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")]


@pytest.mark.parametrize("error", ERRORS, ids=["kill", "full", "broken"])
def test_an_update_happens_whole_or_not_at_all(path: Path, error: BaseException, monkeypatch: Any) -> None:
    outcomes = set()
    for step in range(1, 20):
        path.unlink(missing_ok=True)
        journal = opened(path)
        journal.update(voted=Voted(1, h("old")))
        before, after = journal.memory, replace(journal.memory, **FULL)
        with failing_at(step, error, monkeypatch) as calls:
            try:
                journal.update(**FULL)
            except (OSError, Killed):
                assert journal.memory == opened(path).memory, "memory is what the file says"
                outcomes.add("after" if journal.memory == after else "before")
                assert journal.memory in (before, after)
            else:
                assert calls == ["open", "fsync", "replace", "open", "fsync"], "the data, its name, the directory"
                break
        assert opened(path).update(round=9) == opened(path).memory, "what was left behind is in nobody's way"
    assert outcomes == {"before", "after"}


def test_a_file_cut_short_while_it_was_written_is_never_read(path: Path) -> None:
    opened(path).update(**FULL)
    path.with_suffix(".tmp").write_text('{"format": 1, "run')
    assert opened(path).memory == Memory(run_id=RUN, **FULL)


def test_other_small_files_are_written_alike(tmp_path: Path, monkeypatch: Any) -> None:
    target = tmp_path / "scores.json"
    write_atomically(target, b"old")
    for step in range(1, 20):
        with failing_at(step, Killed(), monkeypatch) as calls, contextlib.suppress(Killed):
            write_atomically(target, b"new")
        assert target.read_bytes() in (b"old", b"new")
        if len(calls) < step:
            break
    assert calls == ["open", "fsync", "replace", "open", "fsync"] and target.read_bytes() == b"new"


# Strange files


def stored(path: Path, **changes: Any) -> None:
    opened(path).update(**FULL)
    data = {**json.loads(path.read_bytes()), **changes}
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not ...}))


def test_a_journal_of_another_run_is_refused_by_name(path: Path) -> None:
    stored(path, run_id=h("another"))
    with pytest.raises(ConfigError, match=rf"journal\.json: belongs to run {h('another')[:16]}.*state_directory"):
        opened(path)


def test_a_journal_of_a_newer_format_is_refused(path: Path) -> None:
    stored(path, format=FORMAT + 1, novelty=1)
    with pytest.raises(ConfigError, match="newer covenantd"):
        opened(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": ...},
        {"format": "1"},
        {"format": True},
        {"format": 0},
        {"round": "3"},
        {"round": -1},
        {"round": 1.5},
        {"round": ...},
        {"state_hash": "no hash"},
        {"state_hash": None},
        {"state_hash": "../" * 20 + "abcd"},
        {"previous": 7},
        {"past": None},
        {"past": [7]},
        {"past": [{"round": 1}]},
        {"past": [{"round": 1, "digest": 5, "state_hash": NO_DIGEST, "blobs": []}]},
        {"past": [{"round": 1, "digest": None, "state_hash": NO_DIGEST, "blobs": ["x"]}]},
        {"sealed": ...},
        {"sealed": {"round": 1}},
        {"sealed": [1]},
        {"voted": {"round": None, "digest": NO_DIGEST}},
        {"voted": {"round": 1, "digest": "x"}},
        {"voted": {"round": 1, "digest": NO_DIGEST, "lacked": "0"}},
        {"voted": {"round": 1, "digest": NO_DIGEST, "lacked": "01" * 33}},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_damaged_journal_is_refused_with_its_name_and_a_way_out(path: Path, changes: dict[str, Any]) -> None:
    stored(path, **changes)
    with pytest.raises(ConfigError, match=r"journal\.json: damaged journal .*move it away"):
        opened(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"7", b"\xff", b"{", b"[" * 100_000, b'"x"'])
def test_what_is_no_journal_at_all_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged journal"):
        opened(path)


def test_a_journal_that_cannot_be_read_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match=r"journal\.json: cannot read"):
        opened(path)
