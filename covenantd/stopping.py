"""SIGTERM and Ctrl-C stop us in order, however often they come: a second one must not cut the cleaning up short."""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
import trio

log = structlog.get_logger("covenantd.stopping")


@asynccontextmanager
async def stop_signals(nursery: trio.Nursery, on_stop: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Cancel `nursery` at a signal, and when the block ends. Enter inside of it.

    Signals are taken here until the block has ended, its cleaning up included; before it, Python's defaults hold.
    """
    listening = trio.CancelScope(shield=True)

    async def listen(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with listening:
            task_status.started()
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                on_stop()
                nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await nursery.start(listen)
        try:
            yield
        finally:
            listening.cancel()
            nursery.cancel_scope.cancel()
