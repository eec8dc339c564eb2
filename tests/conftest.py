"""Processes that several test modules need."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger_fixture import LedgerProcess

StartLedger = Callable[..., LedgerProcess]


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
