"""The round as a pure state machine: (state, event) -> (state, effects). No I/O, no clock.

Finalized blocks are the only clock. A peer holds θ_r and works on round r; what it may do follows from its phase and
the newest finalized block it has seen. Effects are orders to the coordinator, which answers each with an event.

    WAITING -> TRAIN -> SEAL -> COMMIT -> EXCHANGE -> CERTIFY -> AGGREGATE -> OUTER_STEP -> WAITING (round + 1)
    any    -> SYNCING (behind, or desynced) -> WAITING

A validator goes from WAITING straight to EXCHANGE, where it certifies. A peer that missed a round's training deadline
waits in EXCHANGE too: it misses that round's reward and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from covenantd.timing import Timing


class Phase(StrEnum):
    SYNCING = "syncing"
    WAITING = "waiting"
    TRAIN = "train"
    SEAL = "seal"
    COMMIT = "commit"
    EXCHANGE = "exchange"
    CERTIFY = "certify"
    AGGREGATE = "aggregate"
    OUTER_STEP = "outer_step"


@dataclass(frozen=True)
class State:
    timing: Timing
    trains: bool  # a miner; a validator does not
    phase: Phase = Phase.SYNCING
    round: int = 0  # θ held is θ_round
    head: int = 0
    trained_round: int = -1  # newest round whose Δ is in the error feedback
    paused: bool = False
    stopping: bool = False  # training was told to stop


# Events


@dataclass(frozen=True)
class Head:
    block: int


@dataclass(frozen=True)
class Ready:
    """The engine holds θ_round: after start-up, catch-up, repair or an engine restart."""

    round: int
    trained_round: int


@dataclass(frozen=True)
class Trained:
    round: int
    inner_steps: int


@dataclass(frozen=True)
class Sealed:
    """`contribution` is false when the round's Δ only went into the error feedback."""

    round: int
    contribution: bool


@dataclass(frozen=True)
class Decided:
    round: int
    certified: bool


@dataclass(frozen=True)
class Gathered:
    round: int


@dataclass(frozen=True)
class Advanced:
    round: int  # θ is θ_round now


@dataclass(frozen=True)
class Lost:
    """The engine died, or θ is not what it should be: whatever was under way is void."""


@dataclass(frozen=True)
class Pause:
    paused: bool


Event = Head | Ready | Trained | Sealed | Decided | Gathered | Advanced | Lost | Pause


# Effects


@dataclass(frozen=True)
class Train:
    round: int


@dataclass(frozen=True)
class StopTraining:
    round: int


@dataclass(frozen=True)
class Seal:
    round: int
    inner_steps: int
    in_time: bool  # a contribution can still be committed


@dataclass(frozen=True)
class Commit:
    round: int


@dataclass(frozen=True)
class Open:
    """Commits are closed: serve our contribution, fetch the others'; a validator certifies."""

    round: int


@dataclass(frozen=True)
class ReadVotes:
    round: int


@dataclass(frozen=True)
class Gather:
    round: int


@dataclass(frozen=True)
class OuterStep:
    round: int
    certified: bool


@dataclass(frozen=True)
class CatchUp:
    """Replay or fetch until θ is θ_{through + 1}."""

    through: int


Effect = Train | StopTraining | Seal | Commit | Open | ReadVotes | Gather | OuterStep | CatchUp
Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: Event) -> Step:
    """One transition. Events about another round than the one in work are stale and change nothing."""
    match event:
        case Head(block):
            return _on_block(replace(state, head=max(state.head, block)))
        case Pause(paused):
            return _on_block(replace(state, paused=paused))
        case Lost() if state.phase is not Phase.SYNCING:  # while syncing, the catch-up itself begins anew
            return replace(state, phase=Phase.SYNCING, stopping=False), (CatchUp(_last_decided(state)),)
        case Ready(round, trained_round) if state.phase is Phase.SYNCING:
            ready = replace(state, phase=Phase.WAITING, round=round, trained_round=trained_round, stopping=False)
            return _on_block(ready)
        case Advanced(round) if state.phase is Phase.OUTER_STEP and round == state.round + 1:
            return _on_block(replace(state, phase=Phase.WAITING, round=round))
        case Trained() | Sealed() | Decided() | Gathered() if event.round == state.round:
            return _on_progress(state, event)
    return state, ()


def _on_progress(state: State, event: Trained | Sealed | Decided | Gathered) -> Step:
    match state.phase, event:
        case Phase.TRAIN, Trained(round, inner_steps):
            in_time = state.head < state.timing.commit(round)
            sealing = replace(state, phase=Phase.SEAL, stopping=False)
            return sealing, (Seal(round, inner_steps, in_time),)
        case Phase.SEAL, Sealed(round, contribution):
            sealed = replace(state, phase=Phase.COMMIT, trained_round=round)
            return _committing(sealed) if contribution else _committed(sealed)
        case Phase.CERTIFY, Decided(round, True):
            return replace(state, phase=Phase.AGGREGATE), (Gather(round),)
        case Phase.CERTIFY, Decided(round, False):
            return replace(state, phase=Phase.OUTER_STEP), (OuterStep(round, False),)
        case Phase.AGGREGATE, Gathered(round):
            return replace(state, phase=Phase.OUTER_STEP), (OuterStep(round, True),)
    return state, ()


def _on_block(state: State) -> Step:
    """What the newest block allows in this phase."""
    rule = _BLOCK_RULES.get(state.phase)
    return rule(state) if rule else (state, ())


def _waiting(state: State) -> Step:
    timing, r = state.timing, state.round
    if _last_decided(state) > r:
        return _behind(state)
    if state.head < timing.start(r):
        return state, ()
    if state.trained_round >= r and state.trains:  # restarted after sealing: the commit is repeated, not the training
        return _committing(replace(state, phase=Phase.COMMIT))
    if state.trains and state.head < timing.seal(r):
        return (state, ()) if state.paused else (replace(state, phase=Phase.TRAIN), (Train(r),))
    return _committed(replace(state, phase=Phase.COMMIT))


def _training(state: State) -> Step:
    if state.head >= state.timing.seal(state.round) and not state.stopping:
        return replace(state, stopping=True), (StopTraining(state.round),)
    return state, ()


def _committing(state: State) -> Step:
    """A commit after C_r is worth nothing, and it hides the blob that `Open` is to serve."""
    if state.head <= state.timing.commit(state.round):
        return state, (Commit(state.round),)
    return _committed(state)


def _committed(state: State) -> Step:
    if _last_decided(state) > state.round:
        return _behind(state)
    if state.head < state.timing.serve(state.round):
        return state, ()
    after, effects = _exchanging(replace(state, phase=Phase.EXCHANGE))
    return after, (Open(state.round), *effects)


def _exchanging(state: State) -> Step:
    if _last_decided(state) > state.round:
        return _behind(state)
    if state.head < state.timing.vote(state.round):
        return state, ()
    return replace(state, phase=Phase.CERTIFY), (ReadVotes(state.round),)


_BLOCK_RULES: dict[Phase, Callable[[State], Step]] = {
    Phase.WAITING: _waiting,
    Phase.TRAIN: _training,
    Phase.COMMIT: _committed,
    Phase.EXCHANGE: _exchanging,
}


def _behind(state: State) -> Step:
    return replace(state, phase=Phase.SYNCING), (CatchUp(_last_decided(state)),)


def _last_decided(state: State) -> int:
    return state.timing.last_decided(state.head)
