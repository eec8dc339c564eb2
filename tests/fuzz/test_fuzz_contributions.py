"""Hostile contribution files: 20,000 in the normal suite, a million with -m slow."""

import subprocess
import sys
from pathlib import Path

import pytest

from model.config import CODECS

ROOT = Path(__file__).parents[2]


def run(count: int, seed: int, timeout_seconds: float, *codecs: str) -> dict[str, int]:
    """How many of each codec were accepted; what breaks a rule is in the assertion's message."""
    command = [sys.executable, "-m", "tests.fuzz.contributions", str(count), str(seed), *codecs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    assert done.returncode == 0, done.stderr
    return {codec: int(accepted) for codec, accepted in (line.split() for line in done.stdout.splitlines())}


def test_hostile_files_give_clean_errors() -> None:
    accepted = run(5_000, 0, 290)
    assert set(accepted) == set(CODECS)
    assert all(500 < count < 4_500 for count in accepted.values()), accepted  # both ways out are walked


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("codec", CODECS)
def test_a_million_hostile_files_give_clean_errors(codec: str) -> None:
    run(250_000, 1, 7000, codec)
