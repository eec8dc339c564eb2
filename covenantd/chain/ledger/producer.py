"""Blocks at a fixed period, or on demand. The only task that produces, so an error on disk ends the process."""

from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import trio


class Producing(Protocol):
    def produce(self) -> None: ...


@dataclass
class AdvanceRequest:
    """Ask for `blocks` now; `done` is set after the last."""

    blocks: int
    done: trio.Event = field(default_factory=trio.Event)


async def produce_blocks(
    node: Producing, block_seconds: float, requests: trio.MemoryReceiveChannel[AdvanceRequest]
) -> None:
    """Produce at start + k · block_seconds by the monotonic clock, never drifting; on request too. 0: only on request.

    Periods that went by while the process was stopped are not made up: rounds count blocks, and a burst would take
    their time away.
    """
    start = trio.current_time()
    tick = 1
    while True:
        with trio.move_on_at(start + tick * block_seconds if block_seconds else inf):
            request = await requests.receive()
            for _ in range(request.blocks):
                node.produce()
            request.done.set()
            continue
        node.produce()
        tick = max(tick, int((trio.current_time() - start) / block_seconds)) + 1
