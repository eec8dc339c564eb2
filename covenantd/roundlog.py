"""The rounds on disk: one JSON line each, appended, bounded, read back at the start."""

import json
import os
from pathlib import Path

import structlog

from covenantd.board import KEPT_ROUNDS, StatusBoard
from covenantd.status import RoundSummary

log = structlog.get_logger("covenantd.roundlog")
NAME = "rounds.jsonl"
MAX_BYTES = 16 << 20  # of the file; KEPT_ROUNDS lines of the longest kind fit
_MAX_LINE_BYTES = 64 << 10


class RoundLog:
    """A line more for every summary; a later line on the same round replaces the earlier when read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._failed = False

    def read(self) -> list[RoundSummary]:
        """The last KEPT_ROUNDS rounds, oldest first; lines cut off, damaged or of another schema are left out."""
        found: dict[int, RoundSummary] = {}
        for line in self._tail():
            self._lines += 1
            try:
                summary = RoundSummary.from_dict(json.loads(line))
                found[summary.round] = summary
            except (ValueError, RecursionError, TypeError):  # BadStatus is a ValueError
                continue  # the rest still counts; the file is for people
        return [found[number] for number in sorted(found)][-KEPT_ROUNDS:]

    def append(self, summary: RoundSummary) -> None:
        """Never raises for a disk that is full: rounds go on without being written down."""
        line = json.dumps(summary.as_dict(), allow_nan=False).encode() + b"\n"
        try:
            if self._lines >= 2 * KEPT_ROUNDS or self._size() + len(line) > MAX_BYTES:
                self._shorten()
            with self._path.open("ab", buffering=0) as file:
                # a line that was cut off by a crash must not swallow this one
                file.write(line if self._ends_whole() else b"\n" + line)
            self._lines += 1
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("round not written down", path=str(self._path), error=error.strerror)
            self._failed = True

    def _shorten(self) -> None:
        """Half of what there may be, so that it is long until the next time."""
        lines = self._tail()[-(KEPT_ROUNDS // 2) :]
        while lines and sum(map(len, lines)) + len(lines) > MAX_BYTES // 2:
            del lines[: len(lines) // 2 + 1]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(b"".join(line + b"\n" for line in lines))
        temporary.replace(self._path)
        self._lines = len(lines)

    def _tail(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, self._size() - MAX_BYTES))
                lines = file.read(MAX_BYTES).split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("past rounds cannot be read", path=str(self._path), error=error.strerror)
            return []
        return [line for line in lines if line and len(line) <= _MAX_LINE_BYTES]

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _ends_whole(self) -> bool:
        if self._size() == 0:
            return True
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def keep_rounds(board: StatusBoard, state_directory: Path) -> None:
    """The board begins with what is on disk, and every round it learns is written down."""
    record = RoundLog(state_directory / NAME)
    for summary in record.read():
        board.add_round(summary)
    board.on_round = record.append
