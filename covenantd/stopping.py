"""SIGTERM and Ctrl-C stop us in order, however often they come: a second one must not cut the cleaning up short."""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
import trio

log = structlog.get_logger("covenantd.stopping")
_LAST_SECONDS = 0.05


@asynccontextmanager
async def stop_signals(nursery: trio.Nursery, on_stop: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Cancel `nursery` at the first signal, and swallow the others until what is inside has ended; cancels it then
    too. Ours only once it is entered: until then Python's defaults hold."""

    async def listen() -> None:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            on_stop()
            nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        nursery.start_soon(listen)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
            with trio.move_on_after(_LAST_SECONDS, shield=True):
                async for _ in signals:  # else they would be raised anew as the receiver closes
                    pass
