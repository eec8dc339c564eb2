"""The benchmark harness; the benchmarks themselves are run by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "tests" / "bench").glob("[!_]*.py"))


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_it_lists_the_benchmarks() -> None:
    assert [line.split()[0] for line in bench().splitlines()] == NAMES
    assert "swarm" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_what_it_takes(name: str) -> None:
    assert "--json" in bench(name, "--help")
