"""A round of a miner: train, and seal what came of it."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from model import contribution, inner, transformer
from model.compress import compress
from model.config import SCHEDULE
from model.data import Permutation
from model.errors import InputError
from model.messages import Progress, Seal, Sealed, Traced, Train, Trained
from model.quantize import LARGEST_VALUE
from model.session import Delta, Session, check_hex32
from model.sparse import Sparse
from model.tracing import Tracer

PROGRESS_SECONDS = 0.2
MAX_INNER_STEPS = 1_000_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Emit = Callable[[Progress | Traced], None]
ShouldStop = Callable[[], bool]


def train(session: Session, request: Train, emit: Emit, should_stop: ShouldStop, tracer: Tracer) -> Trained:
    """At most `inner_steps` steps from θ; ends after the step during which `should_stop` turns true.

    Keeps Δ = θ - θ_end for `seal`; θ itself is untouched. Raises InputError.
    """
    _check_train(session, request)
    session.delta = None
    session.fill_model(session.theta)
    session.model.train()
    steps = _Steps(session, request, emit, tracer)
    started = time.monotonic()
    try:
        steps.run(should_stop)
    finally:
        tracer.drop()
    seconds = time.monotonic() - started
    delta = session.theta - transformer.flatten(session.model)
    if session.behavior == "noise":
        delta = _noise_like(delta, request.assignment_key)
    session.delta = Delta(request.round, delta)
    losses = [loss for loss in steps.losses if math.isfinite(loss)]
    return Trained(
        round=request.round,
        inner_steps=steps.done,
        tokens=steps.done * steps.tokens_per_step,
        loss=math.fsum(losses) / len(losses) if losses else math.nan,
        seconds=seconds,
        nonfinite_steps=steps.nonfinite,
    )


def _check_train(session: Session, request: Train) -> None:
    check_hex32("assignment key", request.assignment_key)
    if request.round <= session.feedback.trained_round:
        raise InputError(f"round {request.round} cannot be trained after round {session.feedback.trained_round}")
    if not 0 <= request.inner_steps <= MAX_INNER_STEPS:
        raise InputError(f"{request.inner_steps} inner steps asked for, at most {MAX_INNER_STEPS} are possible")
    values = request.schedule.items()
    if not all(name in SCHEDULE and isinstance(v, int | float) and math.isfinite(v) and v >= 0 for name, v in values):
        raise InputError(f"a training schedule that makes no sense: {request.schedule!r:.200}")


class _Steps:
    """The inner loop and its counters."""

    def __init__(self, session: Session, request: Train, emit: Emit, tracer: Tracer) -> None:
        self.session, self.request, self.emit, self.tracer = session, request, emit, tracer
        self.config = replace(session.config.inner, **request.schedule)
        self.tokens_per_step = self.config.batch_sequences * self.config.sequence_tokens
        self._permutation = Permutation(request.assignment_key, session.train_pool.sequences)
        self.losses: list[float] = []
        self.nonfinite = 0
        self._reported_at, self._reported_steps = time.monotonic(), 0

    @property
    def done(self) -> int:
        return len(self.losses)

    def run(self, should_stop: ShouldStop) -> None:
        wanted = self.request.inner_steps
        last = should_stop()
        while not last and self.done < wanted:
            self.tracer.begin_step()
            self._step(self._assigned())
            last = should_stop() or self.done == wanted
            if (traced := self.tracer.end_step(last)) is not None:
                self.emit(traced)
            if last or self.done == 1 or time.monotonic() - self._reported_at >= PROGRESS_SECONDS:
                self._report()

    def _assigned(self) -> list[int]:
        """The next step's part of `data.assigned_sequences`, drawn as it is needed."""
        batch, total = self.config.batch_sequences, self.session.train_pool.sequences
        return [self._permutation[n % total] for n in range(self.done * batch, (self.done + 1) * batch)]

    def _step(self, sequences: list[int]) -> None:
        session = self.session
        self.rate = inner.learning_rate(self.config, session.optimizer_steps)
        batch = session.train_pool.batch(sequences).to(session.device)
        clip = self.config.gradient_clip
        result = inner.inner_step(session.model, session.optimizer, batch, self.rate, clip)
        session.optimizer_steps += 1
        session.optimizer_saved = False
        self.losses.append(result.loss)
        self.gradient_norm = result.gradient_norm
        self.nonfinite += not result.finite

    def _report(self) -> None:
        now = time.monotonic()
        tokens = (self.done - self._reported_steps) * self.tokens_per_step
        self.emit(
            Progress(
                round=self.request.round,
                inner_step=self.done,
                loss=self.losses[-1],
                tokens_per_second=tokens / max(now - self._reported_at, 1e-9),
                gradient_norm=self.gradient_norm,
                learning_rate=self.rate,
                memory_bytes=_memory_bytes(self.session.device),
                gpu_memory_bytes=_gpu_memory_bytes(self.session.device),
            )
        )
        self._reported_at, self._reported_steps = now, self.done


def _memory_bytes(device: torch.device) -> int:
    """Resident memory of this process, and what torch holds on its GPU."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a Path each time costs more than the read
        resident = int(file.read().split()[1]) * _PAGE_BYTES
    return resident + (torch.cuda.memory_allocated(device) if device.type == "cuda" else 0)


def _gpu_memory_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _noise_like(delta: Tensor, key_hex: str) -> Tensor:
    """Random values of the same norm, drawn by the key: a test-only dishonest miner."""
    generator = torch.Generator().manual_seed(int(key_hex[:15], 16))
    noise: Tensor = torch.randn(delta.shape, generator=generator)
    scaled: Tensor = noise * (torch.linalg.vector_norm(delta) / torch.linalg.vector_norm(noise))
    return scaled


def seal(session: Session, request: Seal) -> Sealed:
    """e ← β·e + Δ, and with a path the contribution; the error feedback on disk is the last thing written, so a
    crash before it leaves the round untrained. After an OSError (a full disk), it can be asked again."""
    check_hex32("hotkey", request.hotkey)
    check_hex32("base state hash", request.base_state_hash)
    delta = session.delta
    if delta is None or delta.round != request.round:
        raise InputError(f"round {request.round} has no training to seal")
    feedback = session.feedback
    if feedback.trained_round != request.round:  # equal if an earlier try failed on the way
        _check_sane(delta)
        feedback.absorb(request.round, delta.values)
        session.beat()
    feedback.settle(request.round, included=False)
    size = 0
    if request.path is not None:
        sparse = compress(session.layout, feedback.unclaimed(scratch=delta.values))
        session.beat()
        size = _write(session, request, request.path, sparse)
        feedback.claim(request.round, sparse)
        session.beat()
    session.save_optimizer()
    session.beat()
    session.save_feedback()
    session.delta = None
    return Sealed(request.round, request.path, size, feedback.norm())


def _check_sane(delta: Delta) -> None:
    """No weight changes by 32 in a round; such a value would stay in the error feedback for a thousand rounds."""
    low, high = (float(end) for end in torch.aminmax(delta.values))
    if not -LARGEST_VALUE <= low <= high <= LARGEST_VALUE:
        raise InputError(
            f"training of round {delta.round} diverged: its pseudo-gradient reaches from {low:.3g} to {high:.3g}, "
            f"beyond ±{LARGEST_VALUE}; nothing was sealed. Lower the learning rate if this comes again"
        )


def _write(session: Session, request: Seal, path: str, sparse: Sparse) -> int:
    header = contribution.Header(session.config.run_id, request.round, request.base_state_hash, request.hotkey)
    return contribution.write(path, session.layout, header, sparse)
