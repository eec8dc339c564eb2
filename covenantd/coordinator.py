"""The core loop: feeds events into the round machine and carries out the effects it asks for.

Every effect runs in its own task and answers with an event. Whatever goes wrong outside our code (engine, disk,
peers, chain) ends in `Lost`: the machine then orders a catch-up from the last committed state.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import structlog
import trio

from covenantd import catchup, gather, miner, round
from covenantd.certifier import Certifier
from covenantd.chronicle import Chronicle
from covenantd.engine import EngineRefused
from covenantd.errors import ChainError, ChainRefused, EngineError
from covenantd.gather import Certified
from covenantd.node import Desynced, Node
from covenantd.roster import BadRoster, Vote
from covenantd.round import Effect, Event, Phase, State
from p2p.errors import P2pError

log = structlog.get_logger("covenantd.coordinator")
BESIDE = (round.Commit, round.Open, round.StopTraining)
"""Effects the round machine waits for no answer to."""

OUTSIDE_ERRORS = (EngineError, EngineRefused, Desynced, BadRoster, ChainError, ChainRefused, P2pError, OSError)
_STOP_AGAIN_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0


def outside_cause(error: Exception) -> Exception:
    """The first cause, if everything that went wrong lies outside our code; our own bugs are raised again."""
    leaves = list(_leaves(error))
    if all(isinstance(leaf, OUTSIDE_ERRORS) for leaf in leaves):
        return leaves[0]
    raise error


def _leaves(error: BaseException) -> Iterator[Exception]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield cast(Exception, error)


def _retry_seconds(failures: int) -> float:
    return min(0.5 * 2.0**failures, _LONGEST_RETRY_SECONDS)


class Coordinator:
    """Owns the round state. `run` returns when draining is done."""

    def __init__(self, node: Node, certifier: Certifier | None) -> None:
        self._node = node
        self._certifier = certifier
        self._state = State(node.spec.timing, trains=not node.validates, round=node.journal.memory.round)
        self._send, self._events = trio.open_memory_channel[Event](64)
        self._vote: Vote | None = None
        self._gathered: tuple[Certified, tuple[Any, ...]] | None = None
        self._drain_ordered = trio.Event()
        self._failures, self._failing_round = 0, -1
        self._backing_off = False  # `Lost` is on its way, but not yet
        self._under_way: set[trio.CancelScope] = set()
        self._chronicle = Chronicle(node)

    @property
    def state(self) -> State:
        return self._state

    async def unless_draining(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Whether `work`, which waits for the chain before any round, was done. A drain ends it: nothing is lost."""
        done = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancelled_by_drain, nursery.cancel_scope)
            await work()
            done = True
            nursery.cancel_scope.cancel()
        return done

    async def _cancelled_by_drain(self, scope: trio.CancelScope) -> None:
        await self._drain_ordered.wait()
        scope.cancel()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_chain)
            if not await self.unless_draining(lambda: self._node.heads.reached(1)):
                nursery.cancel_scope.cancel()
                return
            nursery.start_soon(self._follow_engine)
            self._begin(nursery, (round.CatchUp(self._state.timing.last_decided(self._node.heads.number)),))
            async for event in self._events:
                if self._drain_ordered.is_set() and isinstance(event, round.Advanced):
                    break  # on a slow machine the next round begins in this very transition
                self._transition(nursery, event)
                if self._drain_ordered.is_set() and self._state.phase in (Phase.WAITING, Phase.SYNCING):
                    break  # no round is in work here; what keeps a catch-up from ending must not keep us
            nursery.cancel_scope.cancel()

    async def pause(self, paused: bool) -> None:
        await self._send.send(round.Pause(paused))

    async def drain(self) -> None:
        """Finish the round in work, start no other, then let `run` return."""
        self._drain_ordered.set()
        await self._send.send(round.Pause(True))

    async def lost(self) -> None:
        await self._send.send(round.Lost())

    async def _follow_chain(self) -> None:
        async for block in self._node.chain.heads():
            self._node.heads.see(block)
            self._node.metrics.chain_block.set(block.number)
            await self._send.send(round.Head(block.number))

    async def _follow_engine(self) -> None:
        """An engine that was started anew holds nothing, whatever the one before died of, and whether or not anybody
        was waiting for it. (Before the first one, and while a catch-up is under way, there is nothing to lose.)"""
        generation = 0
        while True:
            generation = await self._node.engine.successor(generation)
            if not self._backing_off:
                await self.lost()

    def _transition(self, nursery: trio.Nursery, event: Event) -> None:
        before = replace(self._state, timing=self._node.spec.timing)  # a change of the run spec may have moved it
        self._state, effects = round.step(before, event)
        if self._state.phase is not before.phase:
            self._chronicle.phase_ended(before.phase)
        self._chronicle.show(self._state, self._drain_ordered.is_set())
        self._begin(nursery, effects)

    def _begin(self, nursery: trio.Nursery, effects: tuple[Effect, ...]) -> None:
        if any(isinstance(effect, round.CatchUp) for effect in effects):
            for scope in self._under_way:  # of an attempt that is over: its events would be taken for the next one's
                scope.cancel()
        for effect in effects:
            nursery.start_soon(self._execute, effect)

    async def _execute(self, effect: Effect) -> None:
        structlog.contextvars.bind_contextvars(round=self._state.round, phase=str(self._state.phase))  # of this task
        with trio.CancelScope() as scope:
            self._under_way.add(scope)
            try:
                event = await self._carry_out(effect)
            except (*OUTSIDE_ERRORS, ExceptionGroup) as error:
                event = await self._failed(effect, outside_cause(error))
            finally:
                self._under_way.discard(scope)
            if event is not None:
                await self._send.send(event)

    async def _failed(self, effect: Effect, error: Exception) -> Event | None:
        """Begin anew from the last committed state: at once, then ever later while the same round goes on failing."""
        what = type(effect).__name__
        log.error("round work failed", effect=what, round=self._state.round, error=str(error))
        self._node.board.update(last_error=f"{what}: {error}")
        if isinstance(effect, BESIDE) and not isinstance(error, EngineError | Desynced):
            return None  # the round itself goes on without it
        if self._failing_round != self._state.round:
            self._failing_round, self._failures = self._state.round, 0
        self._backing_off = True
        try:
            await trio.sleep(_retry_seconds(self._failures) if self._failures else 0)
        finally:
            self._backing_off = False
        self._failures += 1
        return round.Lost()

    async def _carry_out(self, effect: Effect) -> Event | None:
        handler: Callable[[Any], Awaitable[Event | None]] = self._handlers[type(effect)].__get__(self)
        return await handler(effect)

    # Effects

    async def _train(self, effect: round.Train) -> Event:
        steps = await miner.train(self._node, effect.round)
        self._chronicle.inner_steps = steps
        return round.Trained(effect.round, steps)

    async def _stop_training(self, effect: round.StopTraining) -> None:
        """Repeated until it has worked: a Stop that overtakes its Train (whose data a slow chain decides) is lost."""
        while self._state.phase is Phase.TRAIN and self._state.round == effect.round:
            await self._node.engine.stop_training()
            await trio.sleep(_STOP_AGAIN_SECONDS)

    async def _seal(self, effect: round.Seal) -> Event:
        sealed = await miner.seal(self._node, effect.round, effect.inner_steps, effect.in_time)
        return round.Sealed(effect.round, sealed)

    async def _commit(self, effect: round.Commit) -> None:
        await miner.commit(self._node, effect.round)

    async def _open(self, effect: round.Open) -> None:
        sealed = self._node.journal.memory.sealed
        if sealed is not None:
            self._node.exchange.release(sealed.blob_id)
        if self._certifier is not None:
            await self._node.check_state()
            await self._certifier.certify(effect.round)
        else:
            await gather.prefetch(self._node, effect.round)

    async def _read_votes(self, effect: round.ReadVotes) -> Event:
        self._vote = await self._node.agreement.decision(effect.round)
        memory = self._node.journal.memory
        if self._vote is not None and self._vote.state_hash != memory.state_hash:
            raise Desynced(f"our θ is {memory.state_hash[:16]}, the certified one {self._vote.state_hash[:16]}")
        return round.Decided(effect.round, self._vote is not None)

    async def _gather(self, effect: round.Gather) -> Event | None:
        """Until the next round is decided too: then a replay or a newer state is the way forward."""
        assert self._vote is not None
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                next_vote = self._state.timing.vote(effect.round + 1)
                nursery.start_soon(self._node.heads.cancel_at, next_vote, scope)
                certified = await gather.certified_roster(self._node, self._vote.digest, effect.round)
                paths = await gather.contributions(self._node, certified.body)
                self._gathered = certified, paths
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            log.warning("round not complete before the next was decided", round=effect.round)
            return round.Lost()
        return round.Gathered(effect.round)

    async def _outer_step(self, effect: round.OuterStep) -> Event:
        certified, paths = None, ()
        if effect.certified:
            assert self._gathered is not None  # a certified round is never taken for a void one
            certified, paths = self._gathered
        advanced = await catchup.advance(self._node, certified, paths)
        self._node.metrics.error_feedback_norm.set(advanced.error_feedback_norm)
        if self._certifier is not None:
            if certified is not None and self._vote is not None:
                await self._certifier.settle(self._vote, certified.body)
            await self._chronicle.evaluate()
        await self._chronicle.look_up_standing(effect.round)
        self._chronicle.round_finished(effect.round, certified, advanced.state_hash)
        return round.Advanced(effect.round + 1)

    async def _catch_up(self, effect: round.CatchUp) -> Event:
        node, failures = self._node, 0
        while True:
            try:
                through = max(effect.through, node.spec.timing.last_decided(node.heads.number))
                loaded = await catchup.catch_up(node, through)
                if self._certifier is not None:
                    await self._chronicle.evaluate()
                await self._node.check_state()  # still that engine, not an empty successor
                break
            except (*OUTSIDE_ERRORS, ExceptionGroup) as error:
                failures += 1
                await self._wait_after(outside_cause(error), failures)
        self._release_settled()
        self._chronicle.past_rounds()
        return round.Ready(self._node.journal.memory.round, loaded.trained_round)

    def _release_settled(self) -> None:
        """A contribution whose round is over has nothing to hide any more."""
        memory = self._node.journal.memory
        if memory.sealed is not None and memory.sealed.round < memory.round:
            self._node.exchange.release(memory.sealed.blob_id)

    _handlers: dict[type[Any], Any] = {
        round.Train: _train,
        round.StopTraining: _stop_training,
        round.Seal: _seal,
        round.Commit: _commit,
        round.Open: _open,
        round.ReadVotes: _read_votes,
        round.Gather: _gather,
        round.OuterStep: _outer_step,
        round.CatchUp: _catch_up,
    }

    async def _wait_after(self, error: Exception, failures: int) -> None:
        seconds = _retry_seconds(failures)
        log.error("catch-up failed, trying again", error=str(error), retry_seconds=seconds)
        self._node.board.update(last_error=str(error))
        await trio.sleep(seconds)
