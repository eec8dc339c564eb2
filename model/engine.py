"""The engine's answers, one method a kind of request; no sockets here."""

import errno
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from model import contribution, judging, statehash, training
from model import messages as m
from model.config import MAX_ALPHA
from model.contribution import Expected
from model.errors import InputError
from model.outer import OuterStep, outer_step
from model.pulse import Pulse
from model.session import Session, check_hex32, open_session
from model.sparse import Sparse
from model.tracing import Tracer, Wanted


class Engine:
    """Holds at most one session. All methods raise InputError or OSError on bad input and then changed nothing
    that a repeated request would not set right."""

    def __init__(
        self,
        *,
        allow_faults: bool,
        emit: Callable[[m.Progress | m.Traced | m.Alive], None],
        should_stop: training.ShouldStop,
        wanted_profile: Wanted = lambda: None,
        beat_seconds: float = 1.0,
    ) -> None:
        """`emit` sends an event while an order is carried out, at least every `beat_seconds` or, where a step of it
        takes longer, after that step; `wanted_profile` and `should_stop` are asked before and after each inner step."""
        self._allow_faults = allow_faults
        self._wanted_profile = wanted_profile
        self._emit, self._should_stop = emit, should_stop
        self._beat = Pulse(emit, beat_seconds)
        self._loaded: Session | None = None
        self._answers: dict[type[m.Message], Callable[..., m.Message]] = {
            m.Load: self._load,
            m.Hash: self._hash,
            m.Train: self._train,
            m.Seal: lambda request: training.seal(self._session, request),
            m.Check: lambda request: judging.check(self._session, request),
            m.Score: lambda request: judging.score(self._session, request),
            m.Evaluate: lambda request: judging.evaluate(self._session, request),
            m.Advance: self._advance,
            m.Settle: self._settle,
            m.Restore: self._restore,
            m.FlipBit: self._flip_bit,
        }

    def answer(self, request: m.Message) -> m.Message:
        """The reply; `Failed` of kind "input" for what is the input's fault. Anything else raises: a bug."""
        handler = self._answers.get(type(request))
        if handler is None:
            return m.Failed("input", f"{type(request).__name__} is not a request")
        try:
            return handler(request)
        except InputError as error:
            return m.Failed("input", str(error), error.path)
        except OSError as error:
            return m.Failed("input", _disk_trouble(error), str(error.filename or ""))

    @property
    def _session(self) -> Session:
        if self._loaded is None:
            raise InputError("nothing is loaded")
        return self._loaded

    def _load(self, request: m.Load) -> m.Loaded:
        session = self._loaded = open_session(request, self._beat)
        return m.Loaded(
            parameters=session.layout.parameters,
            layout_hash=session.layout.hash,
            state_hash=session.state_hash(),
            contribution_bytes=contribution.file_bytes(session.layout),
            train_sequences=session.train_pool.sequences,
            trained_round=session.feedback.trained_round,
            pending_rounds=session.feedback.pending_rounds,
        )

    def _hash(self, _: m.Hash) -> m.Hashed:
        return m.Hashed(self._session.state_hash())

    def _train(self, request: m.Train) -> m.Trained:
        tracer = Tracer(self._wanted_profile, self._session.device)
        return training.train(self._session, request, self._emit, self._should_stop, tracer)

    def _advance(self, request: m.Advance) -> m.Advanced:
        session = self._session
        _check_base(session, request)
        roster = _read_roster(session, request)
        session.feedback.settle(request.round, request.own_included)
        session.save_optimizer()
        session.save_feedback()  # before θ: a crash in between repeats the step, and settling again does nothing
        step = self._step(session, roster, request)
        session.round = request.round + 1
        if session.delta is not None and session.delta.round <= request.round:
            session.delta = None
        norm = session.feedback.norm()
        return m.Advanced(session.round, session.state_hash(), step.update_norm, step.clipped, norm)

    def _step(self, session: Session, roster: list[Sparse], request: m.Advance) -> OuterStep:
        """θ ← θ - α·G without a second θ in memory: into the file, from there once that is whole. Raises OSError."""
        layout, theta, alpha, beat = session.layout, session.theta, request.alpha, self._beat
        if request.theta_path is None:
            return outer_step(layout, theta, roster, alpha, out=theta, beat=beat)
        with statehash.theta_written(request.theta_path, layout.parameters) as new:
            step = outer_step(layout, theta, roster, alpha, out=new, beat=beat)
            if not roster:
                new.copy_(theta)
        theta.copy_(new)
        return replace(step, theta=theta)

    def _settle(self, request: m.Settle) -> m.Settled:
        feedback = self._session.feedback
        if feedback.settle(request.round, request.own_included):
            self._session.save_feedback()
        return m.Settled(request.round, feedback.pending_rounds)

    def _restore(self, request: m.Restore) -> m.Restored:
        session = self._session
        session.theta = statehash.read_theta(request.theta_path, session.layout.parameters)
        session.round = request.round
        session.delta = None  # it came from a θ that nobody shares
        return m.Restored(session.round, session.state_hash())

    def _flip_bit(self, request: m.FlipBit) -> m.Flipped:
        if not self._allow_faults:
            raise InputError("FlipBit refused: the engine was started without --allow-faults")
        bits = self._session.theta.numpy().view(np.uint32)
        if not 0 <= request.parameter < len(bits) or not 0 <= request.bit < 32:
            raise InputError(f"no bit {request.bit} of parameter {request.parameter}")
        bits[request.parameter] ^= np.uint32(1 << request.bit)
        return m.Flipped()


def _disk_trouble(error: OSError) -> str:
    where = error.filename or "file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no room on disk for {where}: {error.strerror}; free space there, then it goes on by itself"
    return f"{where}: {error.strerror}"


def _check_base(session: Session, request: m.Advance) -> None:
    """A flipped bit in θ would pass into every later θ. Raises InputError: load the right one first."""
    check_hex32("base state hash", request.base_state_hash)
    hashed = session.state_hash()
    if hashed != request.base_state_hash:
        raise InputError(f"θ in memory hashes to {hashed[:16]}, not {request.base_state_hash[:16]}")


def _read_roster(session: Session, request: m.Advance) -> list[Sparse]:
    if request.round != session.round:
        raise InputError(f"cannot advance round {request.round}: θ is that of round {session.round}")
    if len(request.contributions) != len(request.hotkeys) or not abs(request.alpha) <= MAX_ALPHA:
        raise InputError("an advance needs a hotkey for each contribution and an alpha within ±1e9")
    roster = []
    for path, hotkey in zip(request.contributions, request.hotkeys, strict=True):
        expected = Expected(session.config.run_id, request.round, request.base_state_hash, hotkey)
        roster.append(contribution.read(path, session.layout, expected))
        session.beat()
    return roster
