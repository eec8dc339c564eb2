"""What a daemon must not forget: one small JSON file, replaced atomically at every change.

θ itself is a blob whose id is `state_hash`; the error feedback and optimiser state belong to the engine.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from covenantd.errors import ConfigError
from covenantd.roster import MAX_LACKED_BYTES, NO_DIGEST, Vote, is_hash

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
    turn: int = 0  # in whose turn: one vote a turn
    lacked: str = ""  # see `covenantd.missing`: hex

    def __post_init__(self) -> None:
        """Raises ValueError, TypeError for what no vote can carry."""
        if len(bytes.fromhex(self.lacked)) > MAX_LACKED_BYTES:
            raise ValueError("reports of more than a vote has room for")

    def on_chain(self, run_tag: bytes, state_hash: str) -> Vote:
        """As it is published, by one whose θ of that round has this hash."""
        return Vote(run_tag, self.round, self.digest, state_hash, bytes.fromhex(self.lacked))


@dataclass(frozen=True)
class Memory:
    run_id: str
    round: int  # θ in the blob store is θ_round
    state_hash: str
    previous: str = NO_DIGEST  # digest of the last certified roster
    past: tuple[PastRound, ...] = ()
    sealed: SealedContribution | None = None
    voted: Voted | None = None
    changes: tuple[str, ...] = ()  # blob ids of the certified changes of the run spec
    offered: str | None = None  # a change that this certifier is to propose
    format: int = FORMAT


class Journal:
    """`memory` is what the file says; `update` changes both or neither."""

    def __init__(self, path: Path, run_id: str, genesis_state: str) -> None:
        """Raises ConfigError for a journal of another run or a newer format, a damaged or an unreadable one."""
        self._path = path
        self.memory = self._read(run_id) or Memory(run_id, 0, genesis_state)

    def update(self, **changes: Any) -> Memory:
        memory = replace(self.memory, **changes)
        _stage(self._path, json.dumps(asdict(memory)).encode()).replace(self._path)
        self.memory = memory  # from here on the file says so too, even if the disk fails us below
        _sync_directory(self._path.parent)
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
        except (ValueError, RecursionError) as error:
            raise self._damaged(error) from error
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot read the journal: {error.strerror}") from error
        form = data.get("format") if isinstance(data, dict) else None
        if type(form) is not int or form < 1:
            raise self._damaged("it has no format")
        if form > FORMAT:
            raise ConfigError(f"{self._path}: written by a newer covenantd (format {form}); upgrade")
        if data.get("run_id") != run_id:
            raise ConfigError(
                f"{self._path}: belongs to run {str(data.get('run_id'))[:16]}, the run spec is {run_id[:16]}; "
                "use another state_directory for another run"
            )
        try:
            return _memory(data)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(repr(error)) from error

    def _damaged(self, why: object) -> ConfigError:
        return ConfigError(f"{self._path}: damaged journal ({why}); move it away to join afresh")


def _memory(data: dict[str, Any]) -> Memory:
    """Raises KeyError, TypeError or ValueError for what no journal of ours holds."""
    sealed, voted = data["sealed"], data["voted"]
    memory = Memory(
        **{
            **data,
            "past": tuple(PastRound(**{**p, "blobs": tuple(p["blobs"])}) for p in data["past"]),
            "sealed": SealedContribution(**sealed) if sealed else None,
            "voted": Voted(**voted) if voted else None,
            "changes": tuple(data["changes"]),
        }
    )
    _check(memory)
    return memory


def _check(memory: Memory) -> None:
    rounds, hashes = [memory.round], [memory.state_hash, memory.previous, *memory.changes]
    hashes += [memory.offered] if memory.offered is not None else []
    for past in memory.past:
        rounds.append(past.round)
        hashes += [past.state_hash, *past.blobs, *([past.digest] if past.digest is not None else [])]
    if memory.sealed is not None:
        rounds += [memory.sealed.round, memory.sealed.size, memory.sealed.inner_steps]
        hashes += [memory.sealed.blob_id, memory.sealed.base_state_hash]
    if memory.voted is not None:
        rounds += [memory.voted.round, memory.voted.turn]
        hashes.append(memory.voted.digest)
    if not all(type(number) is int and number >= 0 for number in rounds):
        raise ValueError("a number that is none")
    if not all(is_hash(text) for text in hashes):
        raise ValueError("a hash that is none")


def write_atomically(path: Path, data: bytes) -> None:
    """Either all of `data` is in the file, durably, or the file is as it was. Raises OSError."""
    _stage(path, data).replace(path)
    _sync_directory(path.parent)


def _stage(path: Path, data: bytes) -> Path:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
