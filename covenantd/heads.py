"""The newest finalized block this daemon has seen: the clock of everything that waits for a block."""

import trio

from covenantd.chain.protocol import Block


class Heads:
    """Written by the coordinator alone; anybody may wait on it. Numbers never go back."""

    def __init__(self) -> None:
        self.number = 0
        self.seen_at: float | None = None  # trio time
        self._changed = trio.Event()

    def see(self, block: Block) -> None:
        if block.number <= self.number:
            return
        self.number = block.number
        self.seen_at = trio.current_time()
        self._changed.set()
        self._changed = trio.Event()

    async def reached(self, number: int) -> None:
        while self.number < number:
            await self._changed.wait()

    async def cancel_at(self, number: int, scope: trio.CancelScope) -> None:
        """A task that cancels `scope` once the head is at `number`: a deadline in blocks."""
        await self.reached(number)
        scope.cancel()
