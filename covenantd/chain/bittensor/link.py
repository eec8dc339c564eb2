"""The connection to the chain, on the asyncio side: made when first needed, watched, replaced when it stalls.

Every coroutine here runs in one asyncio loop; only `BittensorChain` hands them to it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from covenantd.errors import ChainError

_log = logging.getLogger(__name__)
T = TypeVar("T")
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0  # less than a block takes
_CLOSE_SECONDS = 2.0


class Unreachable(ChainError):
    """No connection, or it was lost: the next try dials again."""


@dataclass(frozen=True)
class Connection:
    """The SDK's client and the `bittensor.Substrate` beneath it."""

    client: Any
    substrate: Any


Dial = Callable[[], Any]
"""Makes an unconnected `bittensor.Substrate`; called in the asyncio loop, where the SDK may be imported."""
Question = Callable[[Connection], Awaitable[T]]


class Link:
    """`silence_seconds`: without a new head for so long, the subscription is taken for dead and made anew."""

    def __init__(self, dial: Dial, connect_seconds: float, silence_seconds: float) -> None:
        self._dial = dial
        self._connect_seconds = connect_seconds
        self._silence_seconds = silence_seconds
        self._dialling: asyncio.Task[Connection] | None = None
        self._pause_seconds = 0.0
        self._answered_at = float("-inf")
        self._newest_head = -1
        self._head_came = asyncio.Event()
        self._answer_came = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def ask(self, question: Question[T]) -> T:
        """What the question comes to. Raises `ChainError` (`Unreachable` when there is no connection) or
        `ChainRefused`."""
        from covenantd.chain.bittensor.failures import SDK_FAILURES, translated

        try:
            answer = await question(await self._connection())
        except SDK_FAILURES as error:
            raise translated(error) from None
        except Exception as error:
            if not _is_transport(error):
                raise
            raise translated(OSError(str(error))) from None
        self._answered_at = asyncio.get_running_loop().time()
        self._pause_seconds = 0.0
        self._answer_came.set()
        return answer

    async def give_up_if_stalled(self, since_seconds: float) -> None:
        """Drop a connection that has answered nobody for `since_seconds`: whatever is asked next dials again. One in
        the making has a deadline of its own."""
        is_made = self._dialling is not None and self._dialling.done()
        if is_made and asyncio.get_running_loop().time() - self._answered_at >= since_seconds:
            self._drop()

    async def head_after(self, number: int) -> int:
        """Wait until a finalized head above `number` is announced; returns it."""
        if self._follower is None or self._follower.done():
            self._follower = asyncio.create_task(self._follow(), name="bittensor heads")
        while self._newest_head <= number:
            self._head_came.clear()
            await self._head_came.wait()
        return self._newest_head

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
        self._drop()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_SECONDS)

    async def _connection(self) -> Connection:
        task = self._dialling
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._dialling = asyncio.create_task(self._connect(), name="bittensor dial")
        # Shielded: the metadata that a connection begins with may take longer than one caller has.
        return await asyncio.shield(task)

    async def _connect(self) -> Connection:
        import bittensor

        await asyncio.sleep(self._pause_seconds)
        self._pause_seconds = min(max(2 * self._pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        substrate = self._dial()
        try:
            await asyncio.wait_for(substrate.connect(), self._connect_seconds)
        except BaseException:
            self._close_later(substrate)
            raise
        self._answered_at = asyncio.get_running_loop().time()
        # `Client.connect` would also scan the symbols of every subnet's token, and write them to the home directory.
        return Connection(bittensor.Client("local", substrate=substrate), substrate)

    def _drop(self) -> None:
        task, self._dialling = self._dialling, None
        if task is None:
            return
        if not task.done():
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            self._close_later(task.result().substrate)

    def _close_later(self, substrate: Any) -> None:
        task = asyncio.create_task(_close(substrate), name="bittensor close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _follow(self) -> None:
        """Announce finalized heads for ever. A subscription never outlives its connection, so each gets a new one."""
        from covenantd.chain.bittensor.failures import SDK_FAILURES

        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            before = self._newest_head
            try:
                await self._follow_one(await self._connection())
            except SDK_FAILURES as error:
                _log.info("no heads: %s", error)
            except Exception as error:
                if not _is_transport(error):
                    raise
                _log.info("heads ended: %s", error)
            has_worked = self._newest_head > before
            pause_seconds = _FIRST_PAUSE_SECONDS if has_worked else min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            # An answer to somebody else shows that the chain is back.
            self._answer_came.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._answer_came.wait(), pause_seconds)

    async def _follow_one(self, connection: Connection) -> None:
        heads = connection.client.blocks(finalized=True)
        while True:
            coming = asyncio.ensure_future(anext(heads))
            try:
                done, _ = await asyncio.wait({coming}, timeout=self._silence_seconds)
            finally:
                coming.cancel()  # of no effect on one that is done
            if not done:
                # Not awaited: the SDK would first ask the dead connection to end the subscription.
                self._drop()
                raise TimeoutError(f"no head within {self._silence_seconds:g} s")
            self._newest_head = max(self._newest_head, coming.result().number)
            self._head_came.set()


async def _close(substrate: Any) -> None:
    with contextlib.suppress(asyncio.TimeoutError, OSError, RuntimeError):
        await asyncio.wait_for(substrate.close(), _CLOSE_SECONDS)


def _is_transport(error: Exception) -> bool:
    """Whether it is of the SDK's private transport or the websocket library; some of theirs come through as such."""
    return type(error).__module__.partition(".")[0] in ("bittensor", "websockets") or isinstance(
        error, StopAsyncIteration
    )
