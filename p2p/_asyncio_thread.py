"""One asyncio event loop in one thread, called from trio: the cage for libraries that know only asyncio."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import trio

from p2p.errors import TransportError, TransportTimeout

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_STOP_SECONDS = 5.0


class _Call(Generic[_Result]):
    """One awaitable on its way through the thread; `done` is set in trio."""

    def __init__(self, start: Callable[[], Awaitable[_Result]], token: trio.lowlevel.TrioToken) -> None:
        self.done = trio.Event()
        self.task: asyncio.Task[_Result] | None = None
        self._start = start
        self._token = token
        self._given_up = False

    def begin(self) -> None:
        """Runs in the loop."""
        if not self._given_up:
            self.task = asyncio.ensure_future(self._run())
            self.task.add_done_callback(lambda task: _run_in_trio(self._token, self.done.set))

    def give_up(self) -> None:
        """Runs in the loop."""
        self._given_up = True
        if self.task is not None:
            self.task.cancel()

    async def _run(self) -> _Result:
        return await self._start()


class AsyncioThread:
    """Made by `asyncio_thread`."""

    def __init__(self, name: str) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._started = trio.Event()
        self._ended = trio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        # a daemon thread: whatever a library does in there, it cannot keep the interpreter from exiting
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    async def call(self, start: Callable[[], Awaitable[_Result]], timeout_seconds: float) -> _Result:
        """What `start()` returns, awaited in the loop. Raises what it raises, or TransportTimeout.

        Cancelled or late, the task in the loop is cancelled, and not waited for.
        """
        if self._loop is None or self._ended.is_set():
            raise TransportError("the asyncio thread has ended")
        call = _Call(start, self._token)
        self._in_loop(call.begin)
        try:
            with trio.move_on_after(timeout_seconds):
                await call.done.wait()
        finally:
            if not call.done.is_set():
                self._in_loop(call.give_up)
        if call.task is None or not call.done.is_set():
            raise TransportTimeout(f"no result within {timeout_seconds:g} s")
        if call.task.cancelled():
            raise TransportError("the asyncio thread is ending")
        return call.task.result()

    async def start(self) -> None:
        self._thread.start()
        await self._started.wait()

    async def stop(self) -> None:
        """Cancels all that runs in the loop and waits for the thread; works under cancellation."""
        if self._stop is not None:
            self._in_loop(self._stop.set)
        with trio.move_on_after(_STOP_SECONDS, shield=True):
            await self._ended.wait()
            self._thread.join(_STOP_SECONDS)  # that was its last act: this does not block
            return
        _log.warning("thread %s does not end; left behind", self._thread.name)

    def _in_loop(self, function: Callable[[], Any]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing left to run or cancel
                self._loop.call_soon_threadsafe(function)

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            _run_in_trio(self._token, self._ended.set)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_log_unhandled)
        self._stop = asyncio.Event()
        _run_in_trio(self._token, self._started.set)
        await self._stop.wait()


@asynccontextmanager
async def asyncio_thread(name: str) -> AsyncIterator[AsyncioThread]:
    """A running loop in a thread of its own, which ends with the context."""
    thread = AsyncioThread(name)
    await thread.start()
    try:
        yield thread
    finally:
        await thread.stop()


def _run_in_trio(token: trio.lowlevel.TrioToken, function: Callable[[], Any]) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(function)


def _log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tasks that a library started and forgot; it has no caller to tell."""
    _log.debug("asyncio: %s", context.get("message"), exc_info=context.get("exception"))
