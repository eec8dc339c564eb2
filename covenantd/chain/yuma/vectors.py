"""Recorded epochs as test vectors: {"about", "cases": [{"mode", "stakes", "weights", "bonds", the rules, "out"}]}.

Stakes in rao; weights and bonds as n rows of n u16 (or a row absent: []), kappa, bonds_penalty, alpha as u16,
bonds_ma in millionths, steepness in hundredths. Everybody with stake has a permit, all are active, all weights are
newer than every registration, and every column of a row is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from covenantd.chain.yuma.epoch import run_epoch
from covenantd.chain.yuma.subnet import MODES, EpochInputs, EpochResult, EpochRules, PackedRow, Row

OUTPUTS = ("incentive", "dividends", "consensus", "vtrust", "bonds")
MAX_NEURONS = 4096
_U16_MAX = 65535
_U64_MAX = (1 << 64) - 1
_MAX_STEEPNESS = 4000
_REGISTERED, _LAST_EPOCH, _VOTED = 1, 2, 3


class BadVectors(ValueError):
    """Not a file of vectors; the message says where."""


@dataclass(frozen=True)
class Case:
    inputs: EpochInputs
    rules: EpochRules
    expected: dict[str, Any]  # by OUTPUTS: n u16, of bonds n rows of n

    def deviations(self) -> dict[str, int]:
        """The largest difference in units of u16, by output."""
        result = run_epoch(self.inputs, self.rules)
        return {name: _largest_difference(result, name, self.expected[name]) for name in OUTPUTS}


def parse_vectors(value: Any) -> list[Case]:
    """Raises BadVectors."""
    if not isinstance(value, dict) or not isinstance(cases := value.get("cases"), list):
        raise BadVectors('not an object with "cases"')
    return [_case(case, f"cases[{index}]") for index, case in enumerate(cases)]


def _case(value: Any, where: str) -> Case:
    if not isinstance(value, dict):
        raise BadVectors(f"{where}: not an object")
    stakes = _numbers(value.get("stakes"), f"{where}.stakes", _U64_MAX)
    size = len(stakes)
    if not 1 <= size <= MAX_NEURONS:
        raise BadVectors(f"{where}.stakes: between 1 and {MAX_NEURONS} neurons")
    out = value.get("out")
    if not isinstance(out, dict):
        raise BadVectors(f"{where}.out: not an object")
    permits = [stake > 0 for stake in stakes]
    inputs = EpochInputs(
        stakes=stakes,
        permits=permits,
        active=[True] * size,
        voted=[_VOTED] * size,
        registered=[_REGISTERED] * size,
        # The recorder writes a row of zeros for who has no stake; on the chain there was none.
        weights=[
            _full(row) if ok else Row() for row, ok in zip(_rows(value, "weights", size, where), permits, strict=True)
        ],
        bonds=[
            _full(row) if ok else Row() for row, ok in zip(_rows(value, "bonds", size, where), permits, strict=True)
        ],
        last_epoch_block=_LAST_EPOCH,
    )
    expected: dict[str, Any] = {name: _line(out, name, size, f"{where}.out") for name in OUTPUTS[:-1]}
    expected["bonds"] = [row or [0] * size for row in _rows(out, "bonds", size, f"{where}.out")]
    return Case(inputs, _rules(value, where), expected)


def _rules(value: dict[str, Any], where: str) -> EpochRules:
    if value.get("mode") not in MODES:
        raise BadVectors(f"{where}.mode: one of {', '.join(MODES)}")
    low, high = _line(value, "alpha", 2, where)
    return EpochRules(
        mode=value["mode"],
        kappa=_number(value, "kappa", _U16_MAX, where),
        bonds_penalty=_number(value, "bonds_penalty", _U16_MAX, where),
        bonds_moving_average=_number(value, "bonds_ma", 1_000_000, where),
        alpha_low=low,
        alpha_high=high,
        alpha_steepness=_number(value, "steepness", _MAX_STEEPNESS, where),
    )


def _full(row: Sequence[int]) -> Row:
    return Row(tuple(range(len(row))), tuple(row))


def _rows(value: dict[str, Any], name: str, size: int, where: str) -> list[list[int]]:
    rows = value.get(name)
    if not isinstance(rows, list) or len(rows) != size:
        raise BadVectors(f"{where}.{name}: not {size} rows")
    parsed = [_numbers(row, f"{where}.{name}[{index}]", _U16_MAX) for index, row in enumerate(rows)]
    for index, row in enumerate(parsed):
        if len(row) not in (0, size):
            raise BadVectors(f"{where}.{name}[{index}]: neither empty nor {size} numbers")
    return parsed


def _line(value: dict[str, Any], name: str, length: int, where: str) -> list[int]:
    line = _numbers(value.get(name), f"{where}.{name}", _U16_MAX)
    if len(line) != length:
        raise BadVectors(f"{where}.{name}: not {length} numbers")
    return line


def _number(value: dict[str, Any], name: str, limit: int, where: str) -> int:
    return _numbers([value.get(name)], f"{where}.{name}", limit)[0]


def _numbers(value: Any, where: str, limit: int) -> list[int]:
    if not isinstance(value, list):
        raise BadVectors(f"{where}: not a list")
    if not all(type(number) is int and 0 <= number <= limit for number in value):
        raise BadVectors(f"{where}: not integers between 0 and {limit}")
    return value


def _largest_difference(result: EpochResult, name: str, expected: Any) -> int:
    if name == "bonds":
        rows = [_dense(row, len(expected)) for row in result.bonds]
        return max(_distance(row, line) for row, line in zip(rows, expected, strict=True))
    return _distance(getattr(result, name), expected)


def _dense(row: PackedRow, size: int) -> list[int]:
    cells = row.cells()
    return [cells.get(column, 0) for column in range(size)]


def _distance(ours: Sequence[int], theirs: Sequence[int]) -> int:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
