"""Which data a miner gets: drawn from a block that nobody knew, recomputable by everybody."""

from types import SimpleNamespace
from typing import cast

from run_fixture import HOTKEYS, SPEC, TIMING, WrittenChain

from covenantd.agreement import Agreement
from covenantd.node import Node


def node(chain: WrittenChain) -> Node:
    """What `assignment_key` looks at."""
    return cast(
        Node, SimpleNamespace(agreement=Agreement(chain, SPEC), spec=SimpleNamespace(run_id="ab" * 32, timing=TIMING))
    )


async def key(hotkey: str, round: int) -> str:
    return await Node.assignment_key(node(WrittenChain([1])), hotkey, round)


async def test_an_assignment_is_named_by_this_key() -> None:
    assert await key(HOTKEYS[0], 3) == "969c4834ca567bee6031b120dd1af74fe1bdc6a2c0daa2b3ec6dcb523d5cf0c3"


async def test_it_is_another_for_each_miner_and_each_round() -> None:
    assert len({await key(hotkey, round) for hotkey in HOTKEYS for round in range(4)}) == 4 * len(HOTKEYS)


async def test_it_is_drawn_with_the_last_block_before_the_round() -> None:
    chain = WrittenChain([1])
    await Node.assignment_key(node(chain), HOTKEYS[0], 5)
    assert chain.read == [TIMING.start(5) - 1]
