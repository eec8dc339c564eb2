"""The engine, always one: whoever orders something finds it started, or started again."""

import structlog
import trio

from covenantd.engine import Engine, EngineRefused, EngineSettings, OnProgress, Reply, open_engine
from covenantd.errors import EngineError
from model import messages

log = structlog.get_logger("covenantd.engine")


class EngineSlot:
    """The engine, restarted whenever it is lost. `generation` tells its users to load their state again."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._ready = trio.Event()
        self._replaced = trio.Event()
        self.generation = 0
        self.starts = 0  # those that failed, too
        self.last_error: str | None = None

    @property
    def state(self) -> str:
        if self._engine is not None:
            return "ready"
        return "restarting" if self.generation else "starting"

    @property
    def pid(self) -> int | None:
        return self._engine.pid if self._engine else None

    @property
    def silent_seconds(self) -> float | None:
        """Since the engine at work was last heard; None while none is at work."""
        return self._engine.silent_seconds if self._engine else None

    async def run(self) -> None:
        """Keep an engine running; one that cannot even start is tried again, ever more slowly."""
        delay_seconds = 0.5
        while True:
            self.starts += 1
            try:
                async with open_engine(self._settings) as engine:
                    delay_seconds = 0.5
                    self._install(engine)
                    await engine.ended.wait()
                    self._remove(engine)
            except EngineError as error:
                self._note(error)
                await trio.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, 60.0)
            finally:
                if self._engine is not None:
                    self._remove(self._engine)

    def _install(self, engine: Engine) -> None:
        self._engine = engine
        self.generation += 1
        self._ready.set()
        self._replaced.set()
        self._replaced = trio.Event()

    async def successor(self, generation: int) -> int:
        """The generation of the first engine started after that one."""
        while self.generation <= generation:
            await self._replaced.wait()
        return self.generation

    def _remove(self, engine: Engine) -> None:
        """From now on orders wait for the next engine."""
        if self._engine is engine:
            self._engine = None
            self._ready = trio.Event()

    async def order(
        self, message: messages.Message, expect: type[Reply], on_progress: OnProgress | None = None
    ) -> Reply:
        """As Engine.order, with whichever engine runs; EngineError means that its state is gone."""
        while self._engine is None:
            await self._ready.wait()
        engine = self._engine
        try:
            return await engine.order(message, expect, on_progress)
        except EngineRefused:
            raise
        except Exception as error:
            self._note(error)
            self._remove(engine)
            raise

    async def stop_training(self) -> None:
        if self._engine is not None:
            await self._engine.stop_training()

    async def trace(self, request: messages.Profile) -> messages.Traced:
        """As Engine.trace; a trace does not outlive the engine it was asked of."""
        if self._engine is None:
            raise EngineError("no engine runs at the moment; ask again")
        return await self._engine.trace(request)

    def _note(self, error: Exception) -> None:
        self.last_error = str(error) or repr(error)
        log.warning("engine lost", error=self.last_error)
