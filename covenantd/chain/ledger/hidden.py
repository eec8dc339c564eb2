"""Weights committed to and not shown yet, on disk: who forgets the salt can never show them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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


class HiddenWeights:
    """In the order of their commits, each with its block, as far as that is known. Without a path only in memory."""

    def __init__(self, path: Path | None) -> None:
        """Raises ConfigError for a damaged file."""
        self._path = path
        self._blocks: dict[SealedWeights, int | None] = {} if path is None else _read(path)

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def items(self) -> Sequence[tuple[SealedWeights, int | None]]:
        return list(self._blocks.items())

    def add(self, sealed: SealedWeights) -> None:
        self._blocks[sealed] = None
        self._keep()

    def committed(self, sealed: SealedWeights, block: int) -> None:
        self._blocks[sealed] = block
        self._keep()

    def remove(self, sealed: SealedWeights) -> None:
        del self._blocks[sealed]
        self._keep()

    def _keep(self) -> None:
        if self._path is not None:
            rows = [{**asdict(sealed), "block": block} for sealed, block in self._blocks.items()]
            write_atomically(self._path, json.dumps(rows).encode())


def _read(path: Path) -> dict[SealedWeights, int | None]:
    try:
        rows = json.loads(path.read_bytes())
        return {_sealed(row): None if row["block"] is None else int(row["block"]) for row in rows}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: damaged hidden weights ({error!r}); move the file away to give them up") from error


def _sealed(row: Any) -> SealedWeights:
    uids, values = (tuple(map(int, row[name])) for name in ("uids", "values"))
    return SealedWeights(uids, values, int(row["version_key"]), str(row["salt"]))
