"""The clock of blocks."""

import trio
import trio.testing

from covenantd.chain.protocol import Block
from covenantd.heads import Heads


def block(number: int) -> Block:
    return Block(number, "0" * 64, 0.0)


async def test_numbers_never_go_back() -> None:
    heads = Heads()
    for number in (3, 2, 7, 7, 1):
        heads.see(block(number))
    assert heads.number == 7


async def test_everybody_who_waits_for_a_block_is_woken_by_it_or_a_later_one() -> None:
    heads, woken = Heads(), []

    async def wait(number: int) -> None:
        await heads.reached(number)
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in (0, 2, 5, 9):
            nursery.start_soon(wait, number)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == [0]
        heads.see(block(6))
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == [0, 2, 5]
        heads.see(block(9))


async def test_a_deadline_in_blocks_cancels_its_scope_and_only_then(autojump_clock: trio.testing.MockClock) -> None:
    heads = Heads()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(heads.cancel_at, 5, scope)
            heads.see(block(4))
            await trio.sleep(10)
            heads.see(block(5))
            await trio.sleep_forever()
        assert scope.cancelled_caught and trio.current_time() >= 10


async def test_when_a_block_was_seen_is_kept_until_a_newer_one(autojump_clock: trio.testing.MockClock) -> None:
    heads = Heads()
    assert heads.seen_at is None
    heads.see(block(1))
    seen = heads.seen_at
    await trio.sleep(3)
    heads.see(block(1))
    assert heads.seen_at == seen
