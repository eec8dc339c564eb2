"""Weights committed to and not shown yet, on disk: who forgets the salt can never show them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from covenantd.chain.ledger.sealing import SealedWeights
from covenantd.errors import ConfigError
from covenantd.journal import write_atomically


@dataclass(frozen=True)
class RevealClock:
    """The ledger's epochs, to tell which of them a commit is shown in."""

    epochs: int
    next_epoch_block: int
    tempo_blocks: int
    reveal_period_epochs: int

    def reveal_epoch(self, commit_block: int) -> int:
        """The only value of `epochs` at which a commit of that block can be revealed."""
        began = self.next_epoch_block - self.tempo_blocks
        epochs_ago = -(-max(0, began - commit_block) // self.tempo_blocks)
        return self.epochs - epochs_ago + self.reveal_period_epochs


def parse_reveal_clock(value: Any) -> RevealClock:
    """Of the ledger's answer to `epoch`. Raises ValueError, KeyError, TypeError for what is none."""
    clock = RevealClock(**{name: value[name] for name in RevealClock.__annotations__})
    if any(type(number) is not int for number in vars(clock).values()) or clock.tempo_blocks < 1:
        raise ValueError("not a ledger's epoch")
    return clock


@dataclass(frozen=True)
class Commitment:
    """`block`: the one it came into; None: its fate is not known, it may come into one yet. `unfound_epoch`: the
    ledger's count of epochs when it was first looked for in vain."""

    block: int | None = None
    unfound_epoch: int | None = None


class HiddenWeights:
    """In the order of their commits, with what is known of these. Without a path only in memory."""

    def __init__(self, path: Path | None) -> None:
        """Raises ConfigError for a damaged file."""
        self._path = path
        self._commits: dict[SealedWeights, Commitment] = {} if path is None else _read(path)

    def __bool__(self) -> bool:
        return bool(self._commits)

    def items(self) -> Sequence[tuple[SealedWeights, Commitment]]:
        return list(self._commits.items())

    def add(self, sealed: SealedWeights) -> None:
        self._put(sealed, Commitment())

    def committed(self, sealed: SealedWeights, block: int) -> None:
        self._put(sealed, Commitment(block))

    def unfound(self, sealed: SealedWeights, epochs: int) -> bool:
        """The ledger knows of no such commit now. Whether it may still come: it is pending at most until the epoch
        after the first look."""
        known = self._commits[sealed]
        if known.block is not None or (known.unfound_epoch is not None and known.unfound_epoch < epochs):
            return False
        self._put(sealed, replace(known, unfound_epoch=epochs))
        return True

    def remove(self, sealed: SealedWeights) -> None:
        del self._commits[sealed]
        self._keep()

    def _put(self, sealed: SealedWeights, commitment: Commitment) -> None:
        if self._commits.get(sealed) != commitment:
            self._commits[sealed] = commitment
            self._keep()

    def _keep(self) -> None:
        if self._path is not None:
            rows = [{**asdict(sealed), **asdict(commitment)} for sealed, commitment in self._commits.items()]
            write_atomically(self._path, json.dumps(rows).encode())


def _read(path: Path) -> dict[SealedWeights, Commitment]:
    try:
        rows = json.loads(path.read_bytes())
        return {_sealed(row): Commitment(_number(row["block"]), _number(row.get("unfound_epoch"))) for row in rows}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: damaged hidden weights ({error!r}); move the file away to give them up") from error


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _sealed(row: Any) -> SealedWeights:
    uids, values = (tuple(map(int, row[name])) for name in ("uids", "values"))
    return SealedWeights(uids, values, int(row["version_key"]), str(row["salt"]))
