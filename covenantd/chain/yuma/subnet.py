"""A subnet around one epoch: its rules, what goes in, what comes out."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Mode = Literal["classic", "yuma3", "yuma3+liquid"]
MODES: tuple[Mode, ...] = ("classic", "yuma3", "yuma3+liquid")


@dataclass(frozen=True)
class EpochRules:
    """The subnet's parameters, in the units the chain stores them in; the defaults are the chain's."""

    mode: Mode = "classic"
    kappa: int = 32767  # u16 share of stake that a weight needs behind it
    bonds_penalty: int = 65535  # u16; 1: bonds follow clipped weights, 0: weights as they were set
    bonds_moving_average: int = 900_000  # millionths of the old bonds that stay
    alpha_low: int = 45_875  # u16, of liquid alpha
    alpha_high: int = 58_982
    alpha_steepness: int = 1_000  # hundredths, 0 to 4000: beyond, the chain's own exponential overflows


class Cells(Protocol):
    """A sparse row: `values[k]` belongs to `uids[k]`, no uid twice."""

    @property
    def uids(self) -> Sequence[int]: ...

    @property
    def values(self) -> Sequence[int]: ...  # u16


@dataclass(frozen=True)
class Row:
    """Implements `Cells`."""

    uids: tuple[int, ...] = ()
    values: tuple[int, ...] = ()

    @classmethod
    def of(cls, cells: Mapping[int, int]) -> "Row":
        return cls(tuple(cells), tuple(cells.values()))

    def cells(self) -> dict[int, int]:
        return dict(zip(self.uids, self.values, strict=True))


@dataclass(frozen=True)
class PackedRow:
    """Implements `Cells` as text: a subnet may have a million bonds, all of them new in every epoch."""

    packed: str = ""  # hex of big-endian u16: the uids, then as many values, 0 being none of them

    @classmethod
    def of(cls, cells: Mapping[int, int]) -> "PackedRow":
        numbers = [*cells, *cells.values()]
        return cls(struct.pack(f">{len(numbers)}H", *numbers).hex())

    @property
    def uids(self) -> tuple[int, ...]:
        return self._numbers()[: len(self.packed) // 8]

    @property
    def values(self) -> tuple[int, ...]:
        return self._numbers()[len(self.packed) // 8 :]

    def _numbers(self) -> tuple[int, ...]:
        return struct.unpack(f">{len(self.packed) // 4}H", bytes.fromhex(self.packed))

    def cells(self) -> dict[int, int]:
        return dict(zip(self.uids, self.values, strict=True))


@dataclass(frozen=True)
class EpochInputs:
    """One subnet before an epoch. Every sequence is indexed by uid and has the same length."""

    stakes: Sequence[int]  # rao
    permits: Sequence[bool]
    active: Sequence[bool]  # set weights within the activity cutoff
    voted: Sequence[int]  # block a row's weights are from
    registered: Sequence[int]  # block
    weights: Sequence[Cells]  # an absent cell is not the same as 0, see `bonds`
    bonds: Sequence[Cells]  # as the last epoch left them
    last_epoch_block: int


@dataclass(frozen=True)
class EpochResult:
    """Indexed by uid; shares are floored u16."""

    incentive: tuple[int, ...]
    dividends: tuple[int, ...]
    consensus: tuple[int, ...]
    vtrust: tuple[int, ...]
    bonds: tuple[PackedRow, ...]  # by uid, zeros left out
    emission_parts: tuple[int, ...]  # proportional to the emission due, in no unit; all zero if nobody has stake
