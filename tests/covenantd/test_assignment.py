"""Which data a miner gets: drawn from a block that nobody knew, recomputable by everybody."""

from types import SimpleNamespace
from typing import cast

from run_fixture import HOTKEYS, SPEC, TIMING, WrittenChain

from covenantd.agreement import Agreement
from covenantd.node import Node


def node(chain: WrittenChain) -> Node:
    """What `assignment_key` looks at."""
    return cast(Node, SimpleNamespace(agreement=Agreement(chain, SPEC), spec=SPEC))


async def key(hotkey: str, round: int) -> str:
    return await Node.assignment_key(node(WrittenChain([1])), hotkey, round)


async def test_an_assignment_is_named_by_this_key() -> None:
    assert await key(HOTKEYS[0], 3) == "8965c020fd253c851909277c835145f2f57a9596bac82424676c953e8fa90b05"


async def test_it_is_another_for_each_miner_and_each_round() -> None:
    assert len({await key(hotkey, round) for hotkey in HOTKEYS for round in range(4)}) == 4 * len(HOTKEYS)


async def test_it_is_drawn_with_the_last_block_before_the_round() -> None:
    chain = WrittenChain([1])
    await Node.assignment_key(node(chain), HOTKEYS[0], 5)
    assert chain.read == [TIMING.start(5) - 1]
