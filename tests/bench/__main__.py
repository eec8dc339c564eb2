"""`python -m tests.bench` lists the benchmarks; with a name it runs one, shows and saves what came of it.

A benchmark is a module beside this one, without a leading underscore: HELP (a line), add_arguments(parser) and
run(args) -> a dict that JSON can hold. Lists of flat dicts in it are shown as tables; "bounds", rows of {what, value,
bound, met}, decides the exit code; "kept": False, not shown, leaves the kept result as it is.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def main() -> int:
    names = sorted(path.stem for path in HERE.glob("[!_]*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Lists the benchmarks, or runs one.")
    parser.set_defaults(name=None)
    benchmarks = parser.add_subparsers(metavar="NAME")
    for name in names:
        module = importlib.import_module(f"tests.bench.{name}")
        sub = benchmarks.add_parser(name, help=module.HELP, description=module.HELP)
        sub.add_argument("--json", action="store_true", help="print the result as one line, the last on stdout")
        sub.set_defaults(name=name, run=module.run)
        module.add_arguments(sub)
    args = parser.parse_args()
    if args.name is None:
        print("\n".join(f"{name:<10} {sys.modules[f'tests.bench.{name}'].HELP}" for name in names))
        return 0
    return _finish(args.name, args.run(args), args.json)


def _finish(name: str, measured: dict[str, Any], as_json: bool) -> int:
    kept = measured.pop("kept", True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    result = {"schema": 1, "benchmark": name, "machine": machine, **measured}
    print("\n".join(_lines(measured)))
    if kept:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        print(json.dumps(result), flush=True)
    return 0 if all(row["met"] for row in result.get("bounds", [])) else 1


def _lines(measured: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in measured.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            flat = not any(isinstance(cell, dict) for row in value for cell in row.values())
            lines += ["", key, *_table(value)] if flat else []
        elif isinstance(value, dict):
            lines += ["", key, *(f"  {inner:<24} {_cell(one)}" for inner, one in value.items())]
        else:
            lines.append(f"{key:<26} {_cell(value)}")
    return lines


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
