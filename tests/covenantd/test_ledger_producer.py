import trio
from trio.testing import MockClock

from covenantd.chain.ledger.producer import AdvanceRequest, produce_blocks


class Times:
    """Notes when blocks were made; making one may take long."""

    def __init__(self, clock: MockClock | None = None) -> None:
        self.times: list[float] = []
        self.stalls: list[float] = []
        self._clock = clock

    def produce(self) -> None:
        self.times.append(round(trio.current_time() - self.start, 6))
        if self.stalls and self._clock:
            self._clock.jump(self.stalls.pop(0))

    start = 0.0


async def run(node: Times, block_seconds: float, until_seconds: float) -> None:
    node.start = trio.current_time()
    _send, receive = trio.open_memory_channel[AdvanceRequest](0)
    with trio.move_on_after(until_seconds):
        await produce_blocks(node, block_seconds, receive)


async def test_blocks_do_not_drift(autojump_clock: MockClock) -> None:
    node = Times(autojump_clock)
    node.stalls = [0.3] * 1000
    await run(node, 1.0, 1000.5)
    assert node.times == [float(n) for n in range(1, 1001)]


async def test_a_slow_block_is_not_followed_by_a_burst(autojump_clock: MockClock) -> None:
    node = Times(autojump_clock)
    node.stalls = [0.0, 5.5]
    await run(node, 1.0, 10.5)
    assert node.times == [1, 2, 8, 9, 10]


async def test_nor_is_a_stopped_process(autojump_clock: MockClock) -> None:
    async def stop() -> None:
        await trio.sleep(2.5)
        autojump_clock.jump(5.2)

    node = Times()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        nursery.start_soon(run, node, 1.0, 10.5)
    assert node.times == [1, 2, 7.7, 8, 9, 10]


async def test_requests_are_served_between_and_do_not_move_the_clock(autojump_clock: MockClock) -> None:
    node = Times()
    node.start = trio.current_time()
    send, receive = trio.open_memory_channel[AdvanceRequest](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce_blocks, node, 2.0, receive)
        await trio.sleep(2.5)
        request = AdvanceRequest(3)
        await send.send(request)
        await request.done.wait()
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert node.times == [2, 2.5, 2.5, 2.5, 4]


async def test_without_a_period_only_on_request(autojump_clock: MockClock) -> None:
    node = Times()
    await run(node, 0, 1e6)
    assert node.times == []
