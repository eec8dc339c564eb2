"""What a daemon must not forget: one small JSON file, replaced atomically at every change.

θ itself is a blob whose id is `state_hash`; the error feedback and optimiser state belong to the engine.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from covenantd.errors import ConfigError
from covenantd.roster import NO_DIGEST

FORMAT = 1
KEPT_ROUNDS = 256


@dataclass(frozen=True)
class PastRound:
    round: int
    digest: str | None  # None: void
    state_hash: str  # θ after it
    blobs: tuple[str, ...]  # the roster body and its contributions


@dataclass(frozen=True)
class SealedContribution:
    round: int
    blob_id: str
    size: int
    inner_steps: int
    base_state_hash: str


@dataclass(frozen=True)
class Voted:
    round: int
    digest: str


@dataclass(frozen=True)
class Memory:
    run_id: str
    round: int  # θ in the blob store is θ_round
    state_hash: str
    previous: str = NO_DIGEST  # digest of the last certified roster
    past: tuple[PastRound, ...] = ()
    sealed: SealedContribution | None = None
    voted: Voted | None = None
    format: int = FORMAT


class Journal:
    """`memory` is what the file says; `update` changes both or neither."""

    def __init__(self, path: Path, run_id: str, genesis_state: str) -> None:
        """Raises ConfigError for a journal of another run or of a newer format."""
        self._path = path
        self.memory = self._read(run_id) or Memory(run_id, 0, genesis_state)

    def update(self, **changes: Any) -> Memory:
        memory = replace(self.memory, **changes)
        write_atomically(self._path, json.dumps(asdict(memory)).encode())
        self.memory = memory
        return memory

    def finish_round(self, past: PastRound) -> None:
        """θ_{round + 1} is in the blob store: move on."""
        self.update(
            round=past.round + 1,
            state_hash=past.state_hash,
            previous=past.digest or self.memory.previous,
            past=(*self.memory.past, past)[-KEPT_ROUNDS:],
        )

    def _read(self, run_id: str) -> Memory | None:
        try:
            data = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(f"{self._path}: damaged journal ({error}); move it away to join afresh") from error
        if data.get("format", 0) > FORMAT:
            raise ConfigError(f"{self._path}: written by a newer covenantd (format {data['format']}); upgrade")
        if data.get("run_id") != run_id:
            raise ConfigError(
                f"{self._path}: belongs to run {str(data.get('run_id'))[:16]}, the run spec is {run_id[:16]}; "
                "use another state_directory for another run"
            )
        return _memory(data)


def _memory(data: dict[str, Any]) -> Memory:
    sealed, voted = data["sealed"], data["voted"]
    return Memory(
        **{
            **data,
            "past": tuple(PastRound(**{**p, "blobs": tuple(p["blobs"])}) for p in data["past"]),
            "sealed": SealedContribution(**sealed) if sealed else None,
            "voted": Voted(**voted) if voted else None,
        }
    )


def write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
