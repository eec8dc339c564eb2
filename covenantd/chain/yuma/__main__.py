"""`python -m covenantd.chain.yuma check FILE`: compares our epochs with recorded ones."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from covenantd.chain.yuma.vectors import OUTPUTS, BadVectors, Case, parse_vectors
from covenantd.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE

MAX_FILE_BYTES = 64 << 20
TOLERANCE = 1  # of 65535


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m covenantd.chain.yuma", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="run every case of FILE; exit 1 if one is off by more than 1 of u16")
    check.add_argument("file", type=Path, metavar="FILE")
    try:
        cases = parse_vectors(_read(parser.parse_args(argv).file))
    except (OSError, ValueError, RecursionError) as error:
        print(f"yuma: {error}", file=sys.stderr)
        return EXIT_USAGE
    return report(cases)


def report(cases: Sequence[Case]) -> int:
    """A line a case with the largest deviation of each output, then the largest of all."""
    worst = 0
    for index, case in enumerate(cases):
        found = case.deviations()
        worst = max(worst, *found.values())
        details = "  ".join(f"{name} {found[name]}" for name in OUTPUTS)
        verdict = "ok " if max(found.values()) <= TOLERANCE else "OFF"
        print(f"{verdict} case {index:3}  {case.rules.mode:12}  {len(case.inputs.stakes):4} neurons  {details}")
    print(f"{len(cases)} cases, largest deviation {worst} of 65535, allowed {TOLERANCE}")
    return EXIT_OK if worst <= TOLERANCE else EXIT_FAILED


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BadVectors(f"{path}: more than {MAX_FILE_BYTES} bytes")
    return json.loads(data)


if __name__ == "__main__":
    sys.exit(main())
