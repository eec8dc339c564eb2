"""A torch profiler trace of a few inner steps, taken when somebody asks, also in the middle of a round.

The file is JSON in Chrome's trace event format: chrome://tracing, https://ui.perfetto.dev.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from model.messages import Profile, Traced

Wanted = Callable[[], Profile | None]
"""The next request for a trace, which is then taken; None if there is none."""


class Tracer:
    """Call `begin_step` and `end_step` around each inner step, on one thread."""

    def __init__(self, wanted: Wanted, device: torch.device) -> None:
        self._wanted = wanted
        self._activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._request: Profile | None = None
        self._profiler: profile | None = None
        self._steps = 0

    def begin_step(self) -> None:
        if self._request is None and (request := self._wanted()) is not None:
            self._request, self._steps = request, 0
            self._profiler = profile(activities=self._activities)
            self._profiler.start()

    def end_step(self, last: bool) -> Traced | None:
        """A trace that ends with this step: all that were asked for are in it, or it was the training's `last`."""
        if self._request is None or self._profiler is None:
            return None
        self._steps += 1
        if self._steps < self._request.steps and not last:
            return None
        request, profiler = self._request, self._profiler
        self.drop()
        return _write(profiler, request.path, self._steps)

    def drop(self) -> None:
        """End a trace under way, without a file."""
        if self._profiler is not None:
            self._profiler.stop()
        self._request = self._profiler = None


def _write(profiler: profile, path: str, steps: int) -> Traced:
    """The profiler says nothing of a write that failed, so we look."""
    part = Path(path + ".part")
    try:
        profiler.export_chrome_trace(str(part))
        with part.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) not in b"}\n":
                raise OSError(0, "the trace was not written whole; is the disk full?", str(part))
        part.replace(path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        return Traced(path, steps, f"{path}: {getattr(error, 'strerror', None) or error}")
    return Traced(path, steps)
