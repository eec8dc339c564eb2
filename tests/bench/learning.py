"""What the rules of compression cost, or gain, in loss at equal tokens."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.bench._learning_cells import Cell
    from tests.bench._learning_run import Text

HELP = "the learning study: loss at equal tokens of rules, α, β, k, N, H and model sizes; resumable, hours in all"
_DIRECTORY = Path(__file__).parent / "results"
_CELLS = "learning-cells.jsonl"  # a line a cell, appended as soon as it is done
_PLOT = "learning.svg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="deciding, screening, ideas, 'α with N', …")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after that time; 0: only report")
    parser.add_argument("--cell-minutes", type=float, default=15.0, help="of a core; a longer cell is cut off (15)")
    parser.add_argument("--results", type=Path, default=_DIRECTORY, help="where cells are kept and found again")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tests.bench._learning_cells import grid
    from tests.bench._learning_report import curves, report
    from tests.bench._learning_run import with_text

    cells, store = grid(), args.results / _CELLS
    args.results.mkdir(parents=True, exist_ok=True)
    known = _read(store)
    over = {key for key, one in known.items() if one["loss"] is not None or one["seconds"] > 60 * args.cell_minutes}
    wanted = [cell for cell in cells if cell.key not in over and (args.only is None or cell.group in args.only)]
    if wanted and args.minutes > 0:
        with_text(lambda text: _run_all(wanted, text, store, args))
    results = _read(store)
    (args.results / _PLOT).write_text(curves(cells, results))
    return report(cells, results)


def _run_all(wanted: "list[Cell]", text: "Text", store: Path, args: argparse.Namespace) -> None:
    from tests.bench._learning_run import run_cell

    deadline = time.monotonic() + 60 * args.minutes
    for number, cell in enumerate(wanted):
        if time.monotonic() > deadline:
            _tell(f"time is up; {len(wanted) - number} cells are left for another run")
            return
        result = run_cell(cell, text, 60 * args.cell_minutes, _tell)
        _append(store, {"key": cell.key, **result})
        _tell(f"{number + 1} of {len(wanted)}: {cell.key}: loss {result['loss']} in {result['seconds']:.0f} s")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _append(store: Path, record: dict[str, Any]) -> None:
    """One write: several processes may share the file."""
    line = json.dumps(record, ensure_ascii=False) + "\n"
    descriptor = os.open(store, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _read(store: Path) -> dict[str, dict[str, Any]]:
    if not store.exists():
        return {}
    records = [json.loads(line) for line in store.read_text().splitlines()]
    return {record["key"]: record for record in records}
