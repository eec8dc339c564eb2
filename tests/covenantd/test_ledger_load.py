"""A crowd of daemons at one ledger. Slow: what it measures, a busy machine takes away."""

from pathlib import Path

import pytest

from tests.bench._pollers import crowd
from tests.bench._writers import writes_per_second


@pytest.mark.slow
async def test_two_hundred_daemons_leave_blocks_on_time(tmp_path: Path) -> None:
    measured = await crowd(tmp_path / "ledger", 200, 40.0)
    assert measured["mean_block_seconds"] == pytest.approx(1.0, abs=0.05)
    assert measured["ledger_cpu_share"] < 0.5 and measured["longest_block_seconds"] < 1.5
    assert measured["weights_in_a_metagraph"] == 64 * 256 and measured["metagraphs"] >= 200


async def test_the_loads_of_the_benchmark_run(tmp_path: Path) -> None:
    """Small, for the code's sake."""
    written = await writes_per_second(tmp_path / "writes", 3, 0.5)
    assert written["writes_per_second"] > 0
    followed = await crowd(tmp_path / "crowd", 3, 4.0)
    assert followed["blocks"] > 0 and followed["pollers"] == 3
