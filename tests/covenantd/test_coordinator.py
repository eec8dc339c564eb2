"""What the core loop makes of an engine or a state that is lost while the round machine knows nothing of it."""

import math
from pathlib import Path

import pytest
import trio
from node_fixture import ScriptedEngine, make_node

from covenantd import round
from covenantd.coordinator import Coordinator
from covenantd.engine import EngineRefused
from covenantd.errors import EngineError
from covenantd.node import Desynced
from p2p.errors import BlobUnavailable


class ReplacedEngine(ScriptedEngine):
    """Started anew whenever `replace` is called."""

    def __init__(self) -> None:
        super().__init__()
        self._generations = trio.open_memory_channel[int](math.inf)

    def replace(self, generation: int) -> None:
        self._generations[0].send_nowait(generation)

    async def successor(self, generation: int) -> int:
        return await self._generations[1].receive()


@pytest.fixture
def engine() -> ReplacedEngine:
    return ReplacedEngine()


@pytest.fixture
async def coordinator(tmp_path: Path, engine: ReplacedEngine) -> Coordinator:
    return Coordinator(make_node(tmp_path, engine=engine), None)


async def test_a_new_engine_is_empty_whatever_the_one_before_died_of(
    coordinator: Coordinator, engine: ReplacedEngine, nursery: trio.Nursery
) -> None:
    nursery.start_soon(coordinator._follow_engine)
    for generation in (1, 2):
        engine.replace(generation)
        with trio.fail_after(5):
            assert await coordinator._events.receive() == round.Lost()


async def test_an_engine_that_dies_of_every_order_is_given_one_ever_more_slowly(
    coordinator: Coordinator,
    engine: ReplacedEngine,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A new engine comes up at once; that alone must not hasten the next try."""
    nursery.start_soon(coordinator._follow_engine)
    died = EngineError("it died")
    assert await coordinator._failed(round.Train(0), died) == round.Lost()
    waited = []
    for _ in range(3):
        began = trio.current_time()
        engine.replace(1)
        assert await coordinator._failed(round.Train(0), died) == round.Lost()
        waited.append(trio.current_time() - began)
        with pytest.raises(trio.WouldBlock):
            coordinator._events.receive_nowait()
    assert waited == [1, 2, 4]


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (EngineError("it died"), round.Lost()),
        (Desynced("θ in memory hashes to another"), round.Lost()),
        (EngineRefused("a bad file"), None),
        (BlobUnavailable("gone"), None),
    ],
)
async def test_beside_the_round_only_what_takes_our_state_away_counts(
    coordinator: Coordinator, error: Exception, event: round.Event | None
) -> None:
    assert await coordinator._failed(round.Open(0), error) == event
