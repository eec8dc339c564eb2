"""A drain before the first round: nothing is in work, so nothing is waited for, least of all a chain that is silent."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from run_fixture import SPEC

from covenantd.coordinator import Coordinator
from covenantd.errors import ConfigError
from covenantd.heads import Heads
from covenantd.journal import Memory
from covenantd.node import Node


class Silent:
    """A chain that no block comes from."""

    def __init__(self) -> None:
        self.left = False

    async def heads(self) -> AsyncIterator[Any]:
        try:
            await trio.sleep_forever()
            yield
        finally:
            self.left = True


@pytest.fixture
def chain() -> Silent:
    return Silent()


@pytest.fixture
async def coordinator(chain: Silent) -> Coordinator:
    journal = SimpleNamespace(memory=Memory(SPEC.run_id, 0, SPEC.genesis_state))
    node = SimpleNamespace(spec=SPEC, validates=False, journal=journal, heads=Heads(), chain=chain)
    return Coordinator(cast(Node, node), None)


async def test_it_ends_while_no_block_has_come(
    coordinator: Coordinator, chain: Silent, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(coordinator.run)
        await trio.sleep(100)
        await coordinator.drain()
        with trio.move_on_after(1) as patience:
            while nursery.child_tasks:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert not patience.cancelled_caught
    assert chain.left


async def test_it_ends_what_comes_before_the_rounds(
    coordinator: Coordinator, autojump_clock: trio.testing.MockClock
) -> None:
    done: list[bool] = []

    async def ask() -> None:
        done.append(await coordinator.unless_draining(trio.sleep_forever))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(100)
        await coordinator.drain()
    assert done == [False]
    with trio.fail_after(1):
        assert not await coordinator.unless_draining(trio.sleep_forever), "drained before it was asked"


async def test_otherwise_it_is_done_and_its_errors_are_told(coordinator: Coordinator) -> None:
    assert await coordinator.unless_draining(trio.lowlevel.checkpoint)

    async def wrong_chain() -> None:
        raise ConfigError("another chain")

    with pytest.raises(ExceptionGroup) as caught:
        await coordinator.unless_draining(wrong_chain)
    assert caught.group_contains(ConfigError)
