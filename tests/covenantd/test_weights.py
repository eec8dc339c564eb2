"""Weights on chain: in every epoch that brought new scores, once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from run_fixture import HOTKEYS
from weighing_chain import NOT_NOW, WeighingChain

from covenantd.chain.protocol import EpochInfo, Neuron
from covenantd.errors import ChainRefused
from covenantd.gauntlet.standing import Standing
from covenantd.heads import Heads
from covenantd.node import Node
from covenantd.scores import Scores
from covenantd.weights import WeightSetter, first_head

US, MINER, OTHER = HOTKEYS[:3]


class Validator:
    """A daemon's weights and all they look at."""

    def __init__(self, tmp_path: Path, **chain: Any) -> None:
        self.chain = WeighingChain([US, MINER, OTHER], **chain)
        self.heads = Heads()
        spec = SimpleNamespace(scoring=SimpleNamespace(decay=0.5))

        async def registered(round: int) -> frozenset[str]:
            return frozenset(self.chain.hotkeys)

        node = SimpleNamespace(
            chain=self.chain,
            heads=self.heads,
            hotkey=SimpleNamespace(hotkey=US),
            spec=spec,
            agreement=SimpleNamespace(registered=registered),
        )
        self.node = cast(Node, node)
        self.scores = Scores(self.node, tmp_path / "scores.json")

    async def judge(self, round: int, **gains: float) -> None:
        """A round's scores, by name of the miner."""
        named = {"miner": MINER, "other": OTHER}
        self.scores._keep(self.scores.standings | {named[n]: Standing(g, 1) for n, g in gains.items()})
        await self.scores.age(round, [named[n] for n in gains])

    async def advance(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.chain.advance(self.heads)
            await trio.testing.wait_all_tasks_blocked()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(WeightSetter(self.node, self.scores).run)
            yield
            nursery.cancel_scope.cancel()

    @property
    def blocks(self) -> list[int]:
        return [block for block, _ in self.chain.taken]


@pytest.fixture
def validator(tmp_path: Path) -> Validator:
    return Validator(tmp_path)


@pytest.mark.parametrize("blocks_per_round", [5, 20, 45])
async def test_every_epoch_with_new_scores_has_weights_once(tmp_path: Path, blocks_per_round: int) -> None:
    """Also where a round is as long as the tempo, wherever in an epoch its scores come."""
    validator = Validator(tmp_path)
    async with validator.running():
        for number in range(400 // blocks_per_round):
            # now early in its round, now late
            await validator.advance(3 if number % 2 else blocks_per_round - 2)
            await validator.judge(number, miner=0.1, other=0.1)
            await validator.advance(blocks_per_round - 2 if number % 2 else 3)
    epochs = [block // 20 for block in validator.blocks]
    assert len(set(epochs)) == len(epochs)
    scored = min(20, 400 // blocks_per_round)
    assert len(epochs) >= scored - 1


async def test_what_is_set_are_shares_by_uid(validator: Validator) -> None:
    await validator.judge(0, miner=0.3, other=0.1)
    async with validator.running():
        await validator.advance()
    assert validator.chain.taken == [(2, {1: pytest.approx(0.75), 2: pytest.approx(0.25)})]


async def test_old_scores_are_not_said_again_and_cost_no_question(validator: Validator) -> None:
    await validator.judge(0, miner=0.3)
    async with validator.running():
        await validator.advance(3)
        asked = validator.chain.asked
        await validator.advance(200)
    assert len(validator.blocks) == 1 and validator.chain.asked == asked


async def test_a_restart_does_not_set_weights_twice_in_an_epoch(validator: Validator) -> None:
    await validator.judge(0, miner=0.3)
    for _ in range(3):
        async with validator.running():
            await validator.advance(3)
    assert validator.blocks == [2]
    async with validator.running():
        await validator.advance(20)
    assert validator.blocks == [2, 21]  # what it had said is not known any more


async def test_registration_is_no_weight_but_starts_the_rate_limit(tmp_path: Path) -> None:
    validator = Validator(tmp_path, rate_limit_blocks=12, registered_block=3, last_update_block=3)
    await validator.judge(0, miner=0.3)
    async with validator.running():
        await validator.advance(19)
    assert validator.blocks == [15]


async def test_a_rate_limit_longer_than_the_tempo_is_waited_out(tmp_path: Path) -> None:
    validator = Validator(tmp_path, rate_limit_blocks=50)
    async with validator.running():
        for number in range(30):
            await validator.judge(number, miner=0.3)
            await validator.advance(5)
    assert validator.blocks == [2, 52, 102]


async def test_a_refusal_waits_for_the_next_epoch_and_an_error_for_the_next_block(validator: Validator) -> None:
    validator.chain.answers += [NOT_NOW, NOT_NOW, ChainRefused("NeuronNoValidatorPermit")]
    await validator.judge(0, miner=0.3)
    async with validator.running():
        await validator.advance(40)
    assert not validator.chain.answers and validator.blocks == [21]


async def test_nobody_gains_nobody_is_weighed(validator: Validator) -> None:
    await validator.judge(0, miner=-0.3)
    async with validator.running():
        await validator.advance(40)
    assert validator.blocks == []


async def test_without_a_uid_it_waits_for_one(validator: Validator) -> None:
    validator.chain.hotkeys = [HOTKEYS[5], MINER, OTHER]
    await validator.judge(0, miner=0.3)
    async with validator.running():
        await validator.advance(5)
        assert validator.blocks == [] and validator.chain.asked == 1
        validator.chain.hotkeys = [US, MINER, OTHER]
        await validator.advance(10)
    assert len(validator.blocks) == 1


async def test_hidden_weights_are_shown_when_their_block_comes_scores_or_not(validator: Validator) -> None:
    validator.chain.hidden_until = [7, 30]
    async with validator.running():
        await validator.advance(40)
    assert validator.chain.revealed == [7, 30]


def test_the_first_head_after_which_weights_may_be_set() -> None:
    def after(last: int, limit: int, registered: int = 0) -> int:
        return first_head(EpochInfo(20, 100, limit), Neuron(0, US, 1, True, registered, last, 0, 0, 0))

    assert after(0, 100) == 0  # nothing was ever set
    assert after(80, 1) == after(99, 1) == 100  # this epoch has them: it began with block 80
    assert after(79, 1) == 79 and after(79, 15) == 93
    assert after(85, 5, registered=85) == 89
