"""Hostile contribution files: 20,000 in the normal suite, a million with -m slow."""

import subprocess
import sys
from pathlib import Path

import pytest

from model.config import CODECS

ROOT = Path(__file__).parents[2]


def run(count: int, seed: int, timeout_seconds: float, *codecs: str) -> dict[str, tuple[int, int]]:
    """How many of each codec were accepted, of small and of full chunks; a broken rule is in the message."""
    command = [sys.executable, "-m", "tests.fuzz.contributions", str(count), str(seed), *codecs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    assert done.returncode == 0, done.stderr
    lines = (line.split() for line in done.stdout.splitlines())
    return {codec: (int(small), int(full)) for codec, small, full in lines}


def test_hostile_files_give_clean_errors() -> None:
    accepted = run(5_000, 0, 290)
    assert set(accepted) == set(CODECS)
    for small, full in accepted.values():  # both ways out are walked, of either
        assert 450 < small < 4_050 and 50 < full < 450, accepted


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("codec", CODECS)
def test_a_million_hostile_files_give_clean_errors(codec: str) -> None:
    run(250_000, 1, 7000, codec)
