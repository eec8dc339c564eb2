"""The engine as the daemon sees it: a child process that takes orders over a unix socket."""

import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from covenantd.errors import EngineError
from model import messages

log = structlog.get_logger("covenantd.engine")
Reply = TypeVar("Reply", bound=messages.Message)
OnProgress = Callable[[messages.Progress], None]


class EngineRefused(Exception):
    """The engine is well, but a file or field it was given is bad."""


@dataclass(frozen=True)
class EngineSettings:
    socket: Path
    allow_faults: bool = False
    start_seconds: float = 120.0
    stall_seconds: float = 120.0  # without any message while an order runs
    log_file: Path | None = None


class Engine:
    """One order at a time; `Stop` alone may be sent while another runs. Get one from `open_engine`."""

    def __init__(self, stream: trio.SocketStream, process: trio.Process, stall_seconds: float) -> None:
        self._stream = stream
        self._process = process
        self._stall_seconds = stall_seconds
        self._order = trio.Lock()
        self._sending = trio.Lock()
        self._buffer = bytearray()
        self._broken = False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def order(
        self, message: messages.Message, expect: type[Reply], on_progress: OnProgress | None = None
    ) -> Reply:
        """Send an order and wait for its reply. Raises EngineRefused (bad input), EngineError (it is gone)."""
        async with self._order:
            if self._broken:
                raise EngineError("the engine was lost in the middle of an order")
            self._broken = True  # until the reply is in: a cancelled order leaves the stream out of step
            await self._send(message)
            while True:
                reply = await self._receive()
                if isinstance(reply, messages.Progress):
                    if on_progress:
                        on_progress(reply)
                    continue
                self._broken = False
                return _expected(reply, expect)

    async def stop_training(self) -> None:
        await self._send(messages.Stop())

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
        raise EngineRefused(reply.message)
    if isinstance(reply, messages.Failed):
        raise EngineError(f"the engine has a bug: {reply.message}")
    raise EngineError(f"the engine answered {type(reply).__name__} instead of {expect.__name__}")


@asynccontextmanager
async def open_engine(settings: EngineSettings) -> AsyncIterator[Engine]:
    """Start the engine process; kill and reap it on the way out, also when cancelled."""
    settings.socket.unlink(missing_ok=True)
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(settings.socket))
        settings.socket.chmod(0o600)
        listener.listen(1)
        with settings.log_file.open("ab") if settings.log_file else nullcontext() as output:
            process = await trio.lowlevel.open_process(_command(settings), stderr=output)
        try:
            stream = await _accept(listener, process, settings)
            async with stream:
                yield Engine(stream, process, settings.stall_seconds)
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
            settings.socket.unlink(missing_ok=True)


def _command(settings: EngineSettings) -> list[str]:
    command = [sys.executable, "-m", "model.worker", "--socket", str(settings.socket)]
    return [*command, "--allow-faults"] if settings.allow_faults else command


async def _accept(
    listener: trio.socket.SocketType, process: trio.Process, settings: EngineSettings
) -> trio.SocketStream:
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


async def _end(process: trio.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    await process.wait()
    log.debug("engine ended", returncode=process.returncode)


class EngineSlot:
    """The engine, restarted whenever it is lost. `generation` tells its users to load their state again."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._ready = trio.Event()
        self._lost = trio.Event()
        self.generation = 0
        self.last_error: str | None = None

    @property
    def state(self) -> str:
        if self._engine is not None:
            return "ready"
        return "restarting" if self.generation else "starting"

    @property
    def pid(self) -> int | None:
        return self._engine.pid if self._engine else None

    async def run(self) -> None:
        """Keep an engine running; one that cannot even start is tried again, ever more slowly."""
        delay_seconds = 0.5
        while True:
            try:
                async with open_engine(self._settings) as engine:
                    delay_seconds = 0.5
                    self._install(engine)
                    await self._lost.wait()
            except EngineError as error:
                self._note(error)
                await trio.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, 60.0)
            finally:
                self._engine = None
                self._ready = trio.Event()

    def _install(self, engine: Engine) -> None:
        self._engine = engine
        self._lost = trio.Event()
        self.generation += 1
        self._ready.set()

    async def order(
        self, message: messages.Message, expect: type[Reply], on_progress: OnProgress | None = None
    ) -> Reply:
        """As Engine.order, with whichever engine runs; EngineError means that its state is gone."""
        while self._engine is None:
            await self._ready.wait()
        try:
            return await self._engine.order(message, expect, on_progress)
        except EngineError as error:
            self._note(error)
            self._lost.set()
            raise

    async def stop_training(self) -> None:
        if self._engine is not None:
            await self._engine.stop_training()

    def _note(self, error: EngineError) -> None:
        self.last_error = str(error)
        log.warning("engine lost", error=str(error))
