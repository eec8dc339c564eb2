"""The engine as the daemon sees it: a child process that takes orders over a unix socket. `EngineSlot` keeps one."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
import trio
from outcome import Error, Outcome, Value

from covenantd.errors import EngineError
from model import messages
from p2p.child import Child

log = structlog.get_logger("covenantd.engine")
_SHARED_MACHINE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that spin while they wait take the cores from the other engines of this machine."""

_MAX_LOG_BYTES = 8 << 20

Reply = TypeVar("Reply", bound=messages.Message)
OnProgress = Callable[[messages.Progress], None]


class EngineRefused(Exception):
    """The engine is well, but a file or field it was given is bad. `path`: the file, empty if it was none."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class EngineSettings:
    socket: Path
    allow_faults: bool = False
    start_seconds: float = 120.0
    stall_seconds: float = 120.0  # without any message while an order runs
    log_file: Path | None = None


class _Order(Generic[Reply]):
    """One order under way. It runs to its end even if whoever gave it stops waiting: a half-read reply would leave
    the stream out of step."""

    def __init__(self, message: messages.Message, expect: type[Reply], on_progress: OnProgress | None) -> None:
        self.message = message
        self.expect = expect
        self.on_progress = on_progress
        self.done = trio.Event()
        self.outcome: Outcome[Reply] = Error(EngineError("the engine ended before it answered"))


class Engine:
    """One order at a time; `Stop` and `Profile` alone may be sent while another runs. Get one from `open_engine`."""

    def __init__(self, stream: trio.SocketStream, pid: int, stall_seconds: float) -> None:
        self.pid = pid
        self._stream = stream
        self._stall_seconds = stall_seconds
        self._send_order, self._orders = trio.open_memory_channel[_Order[Any]](16)
        self._sending = trio.Lock()
        self._buffer = bytearray()
        self._traces: dict[str, trio.MemorySendChannel[messages.Traced]] = {}
        self._heard_at: float | None = None  # while an order runs
        self.ended = trio.Event()  # no order will be answered any more

    async def order(
        self, message: messages.Message, expect: type[Reply], on_progress: OnProgress | None = None
    ) -> Reply:
        """Send an order and wait for its reply. Raises EngineRefused (bad input), EngineError (it is gone)."""
        order = _Order(message, expect, on_progress)
        try:
            await self._send_order.send(order)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise EngineError("the engine is gone") from error
        await order.done.wait()
        return order.outcome.unwrap()

    async def work(self) -> None:
        """Carry out orders until cancelled or until the engine fails; then whoever waits is told."""
        order: _Order[Any] | None = None
        try:
            async for order in self._orders:
                order.outcome = await self._outcome(order)
                order.done.set()
                if isinstance(order.outcome, Error) and not isinstance(order.outcome.error, EngineRefused):
                    return
        finally:
            self._abandon(order)

    async def _outcome(self, order: _Order[Reply]) -> Outcome[Reply]:
        """Whatever is raised here is the business of whoever gave the order, but for being cancelled: that is ours.
        Only after a refusal the stream is in step for sure."""
        try:
            return Value(await self._carry_out(order))
        except Exception as error:  # noqa: BLE001 - handed on
            return Error(error)

    def _abandon(self, order: _Order[Any] | None) -> None:
        if order is not None:
            order.done.set()
        while True:
            try:
                self._orders.receive_nowait().done.set()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        self._orders.close()
        for waiting in self._traces.values():
            waiting.close()
        self.ended.set()

    @property
    def silent_seconds(self) -> float | None:
        """Since the engine was last heard; None while it has nothing to do."""
        return None if self._heard_at is None else trio.current_time() - self._heard_at

    async def _carry_out(self, order: _Order[Reply]) -> Reply:
        if self._buffer:
            raise EngineError("the engine spoke unasked")
        self._heard_at = trio.current_time()
        try:
            await self._send(order.message)
            while True:
                reply = await self._receive()
                self._heard_at = trio.current_time()
                if isinstance(reply, messages.Traced):
                    self._tell(reply)
                elif isinstance(reply, messages.Progress):
                    if order.on_progress:
                        order.on_progress(reply)
                elif not isinstance(reply, messages.Alive):
                    return _expected(reply, order.expect)
        finally:
            self._heard_at = None

    async def stop_training(self) -> None:
        await self._send(messages.Stop())

    async def trace(self, request: messages.Profile) -> messages.Traced:
        """Sent at once, also while an order runs; returns when the steps are traced. Raises EngineError."""
        telling, told = trio.open_memory_channel[messages.Traced](1)
        self._traces[request.path] = telling
        try:
            await self._send(request)
            return await told.receive()
        except trio.EndOfChannel as error:
            raise EngineError("the engine ended before the trace was done; ask again") from error
        finally:
            self._traces.pop(request.path, None)

    def _tell(self, traced: messages.Traced) -> None:
        """Nobody hears it who has stopped waiting."""
        if (waiting := self._traces.pop(traced.path, None)) is not None:
            waiting.send_nowait(traced)

    async def _send(self, message: messages.Message) -> None:
        try:
            async with self._sending:
                with trio.fail_after(self._stall_seconds):
                    await self._stream.send_all(messages.encode(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise EngineError("the engine does not take orders any more") from error

    async def _receive(self) -> messages.Message:
        try:
            with trio.fail_after(self._stall_seconds):
                length = messages.frame_length(await self._exactly(4))
                return messages.decode(await self._exactly(length))
        except trio.TooSlowError as error:
            raise EngineError(f"the engine said nothing for {self._stall_seconds:.0f} s") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError, messages.BadMessage) as error:
            raise EngineError(f"the engine's socket broke: {error}") from error

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            chunk = await self._stream.receive_some(1 << 16)
            if not chunk:
                raise EngineError("the engine died")
            self._buffer += chunk
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _expected(reply: messages.Message, expect: type[Reply]) -> Reply:
    if isinstance(reply, expect):
        return reply
    if isinstance(reply, messages.Failed) and reply.kind == "input":
        raise EngineRefused(reply.message, reply.path)
    if isinstance(reply, messages.Failed) and reply.kind == "memory":
        raise EngineError(reply.message)
    if isinstance(reply, messages.Failed):
        raise EngineError(f"the engine has a bug: {reply.message}")
    raise EngineError(f"the engine answered {type(reply).__name__} instead of {expect.__name__}")


@asynccontextmanager
async def open_engine(settings: EngineSettings) -> AsyncIterator[Engine]:
    """Start the engine process; kill and reap it on the way out, also when cancelled. Raises EngineError."""
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        process = await _launch(listener, settings)
        try:
            stream = await _accept(listener, process, settings)
            engine = Engine(stream, process.pid, settings.stall_seconds)
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(engine.work)
                nursery.start_soon(_notice_end, engine, process)
                yield engine
                nursery.cancel_scope.cancel()
        finally:
            returncode = await process.stop(grace_seconds=0)  # what it must keep is on disk before it answers
            log.debug("engine ended", returncode=returncode)
            settings.socket.unlink(missing_ok=True)


async def _notice_end(engine: Engine, process: Child) -> None:
    """An idle engine that is killed is missed at once, not at the next order."""
    await process.wait()
    engine.ended.set()


async def _launch(listener: trio.socket.SocketType, settings: EngineSettings) -> Child:
    try:
        settings.socket.unlink(missing_ok=True)
        await listener.bind(str(settings.socket))
        settings.socket.chmod(0o600)
        listener.listen(1)
        return _start(settings)
    except OSError as error:
        with suppress(OSError):
            settings.socket.unlink()
        raise EngineError(f"the engine cannot be started: {error}") from error


def _start(settings: EngineSettings) -> Child:
    command = [sys.executable, "-m", "model.worker", "--socket", str(settings.socket)]
    command += ["--allow-faults"] if settings.allow_faults else []
    if settings.log_file is not None:
        _rotate(settings.log_file)
    with settings.log_file.open("ab") if settings.log_file else nullcontext() as output:
        return Child(command, output=output, environment={**_SHARED_MACHINE, **os.environ})


def _rotate(log_file: Path) -> None:
    """One log of before is kept: an engine that fails and fails again must not fill the disk."""
    if log_file.exists() and log_file.stat().st_size > _MAX_LOG_BYTES:
        log_file.replace(log_file.with_name(f"{log_file.name}.1"))


async def _accept(listener: trio.socket.SocketType, process: Child, settings: EngineSettings) -> trio.SocketStream:
    connected: list[trio.SocketStream] = []

    async def accept() -> None:
        socket, _ = await listener.accept()
        connected.append(trio.SocketStream(socket))
        nursery.cancel_scope.cancel()

    async def watch() -> None:
        await process.wait()
        nursery.cancel_scope.cancel()

    with trio.move_on_after(settings.start_seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            nursery.start_soon(watch)
    if connected:
        return connected[0]
    why = f"exited with {process.returncode}" if process.returncode is not None else "did not connect in time"
    raise EngineError(f"the engine {why}; its log: {settings.log_file or 'stderr'}")
