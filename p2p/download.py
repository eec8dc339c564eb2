"""The fetching half of the exchange: one blob, from several holders at once.

Each holder is visited by a task of its own; `Schedule` says which piece is asked of whom. Every piece is verified
before it is written, and can be served on at once.
"""

import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import trio

from p2p.errors import BlobError, ProtocolViolation, TransportError, TransportTimeout
from p2p.filling import Filling, Surroundings
from p2p.protocols import PeerId
from p2p.visit import Visit

_log = logging.getLogger(__name__)


@dataclass
class Pause:
    """When a holder may be tried again."""

    failures: int = 0
    until: float = 0.0


class Download:
    """Runs once. `sources` name the holders and are asked again and again; all who want the blob add theirs."""

    def __init__(self, blob_id: str, max_bytes: int, seed: Path | None, around: Surroundings) -> None:
        self.sources: list[Callable[[], Iterable[PeerId]]] = []
        self.ended = trio.Event()
        self._filling = Filling(blob_id, max_bytes, seed, around)
        self._around = around
        self._settings = around.settings
        self._visits: dict[PeerId, Visit] = {}
        self._pauses: dict[PeerId, Pause] = {}
        self._liars: set[PeerId] = set()
        self._failure: BlobError | None = None

    def progress(self) -> tuple[int, int] | None:
        """(bytes here, bytes in all); None before the manifest is known."""
        work = self._filling.work
        return None if work is None else (work.partial.held_bytes, work.partial.manifest.size)

    async def run(self) -> Path:
        """Until the blob is whole. Raises DiskFull, BlobTooLarge, BlobError; waits for holders for ever."""
        try:
            await self._filling.resume()
            async with trio.open_nursery() as nursery:
                while self._failure is None and not self._filling.whole():
                    self._engage(nursery)
                    self._call_late()
                    await self._filling.wait_for_change(self._settings.poll_seconds)
                self._dismiss()
            if self._failure is not None:
                raise self._failure
            return await self._filling.complete()
        finally:
            self._filling.close()
            self.ended.set()

    def _engage(self, nursery: trio.Nursery) -> None:
        """Visit further holders, those of whom we think best first."""
        now, reputation = trio.current_time(), self._around.reputation
        known = {peer for source in self.sources for peer in source()}
        known -= self._liars | set(self._visits) | {self._around.transport.peer_id}
        ready = [p for p in known if now >= self._pauses.setdefault(p, Pause()).until]
        ready = [p for p in ready if not reputation.is_banned(p)]
        random.shuffle(ready)
        ready.sort(key=lambda p: (self._pauses[p].failures, reputation.penalty(p)))
        for holder in ready[: max(self._settings.max_holders - len(self._visits), 0)]:
            self._visits[holder] = Visit(holder, self._filling)
            nursery.start_soon(self._visit, self._visits[holder])

    def _call_late(self) -> None:
        for visit in self._visits.values():
            if visit.call_late():
                self._around.reputation.slow(visit.holder, 0.1)
                self._filling.wake()

    def _dismiss(self) -> None:
        """Nobody needs what is still on its way; those who only wait for us may take their leave."""
        for visit in self._visits.values():
            if not visit.leaving:
                visit.scope.cancel()

    async def _visit(self, visit: Visit) -> None:
        limit_seconds = self._settings.slow_retry_limit_seconds
        try:
            with visit.scope:
                await visit.run()
                limit_seconds = self._settings.retry_limit_seconds
        except ProtocolViolation as error:
            self._liars.add(visit.holder)
            self._around.on_violation(visit.holder, str(error))
        except TransportError as error:
            _log.debug("left %s: %s", visit.holder, error)
            if isinstance(error, TransportTimeout):
                self._around.reputation.slow(visit.holder)
        except BlobError as error:
            self._failure = error
        finally:
            del self._visits[visit.holder]
            if self._filling.work is not None:
                self._filling.work.schedule.gone(visit.holder)
            self._pause(visit, limit_seconds)
            self._filling.wake()

    def _pause(self, visit: Visit, limit_seconds: float) -> None:
        pause = self._pauses[visit.holder]
        pause.failures = 0 if visit.fruitful else pause.failures + 1
        seconds = min(self._settings.retry_seconds * 2.0 ** min(pause.failures, 16), limit_seconds)
        pause.until = trio.current_time() + seconds * random.uniform(0.75, 1.25)
