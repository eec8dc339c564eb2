"""Processes that several test modules need."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from arena import OpenArena, open_arena
from hypothesis import HealthCheck, settings
from ledger_fixture import LedgerProcess, StartLedger

from covenantd import plan

# how long an example takes says more of the machine than of us; CI's own profile says the same
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def start_ledger(tmp_path: Path) -> Iterator[StartLedger]:
    """start_ledger(genesis, *arguments, block_seconds=0) -> a serving `LedgerProcess`, killed after the test."""
    started: list[LedgerProcess] = []

    def start(genesis: dict[str, object] | None = None, *arguments: str, **options: float) -> LedgerProcess:
        ledger = LedgerProcess(tmp_path / f"ledger-{len(started)}", genesis, *arguments, **options)
        started.append(ledger)
        return ledger.start()

    yield start
    for ledger in started:
        ledger.kill()


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> plan.Genesis:
    """The nano model and its data, made once a session."""
    directory = tmp_path_factory.mktemp("genesis")
    command = [sys.executable, "-m", "model.genesis", "--preset", "nano", "--out", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return plan.Genesis(directory, json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def new_arena(tmp_path: Path, made_run: plan.Genesis) -> Iterator[OpenArena]:
    """new_arena(miners=2, ...) -> async context manager of an `Arena`."""
    with tempfile.TemporaryDirectory(prefix="arena-") as runtime:
        yield lambda **options: open_arena(tmp_path, Path(runtime), made_run, **options)
