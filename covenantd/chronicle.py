"""What a daemon says of its rounds: status board, metrics, one summary a round."""

import time

import structlog
import trio

from covenantd.chain.protocol import Metagraph, Neuron
from covenantd.errors import ChainError, ChainRefused
from covenantd.gather import Certified
from covenantd.journal import SealedContribution
from covenantd.node import Node
from covenantd.roster import Roster
from covenantd.round import Phase, State
from covenantd.status import MAX_SHOWN, ContributionStatus, Rank, RoundSummary
from model import messages

log = structlog.get_logger("covenantd.chronicle")
_HELDOUT_SEQUENCES = 64
_RAO = 10**9
_STANDING_SECONDS = 20.0  # for reporting only: a slow chain must not keep the next round
_UNKNOWN_SHOWN = 100


class Chronicle:
    """Told by the coordinator what happened; tells everybody else."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._phases: dict[str, float] = {}
        self._phase_since = trio.current_time()
        self._heldout_loss: float | None = None
        self._next_epoch: int | None = None
        memory = node.journal.memory
        self._next_round = memory.round if memory.past else None  # to be counted; None: the run is new to us
        self._outer_step_told = False
        self.inner_steps = 0  # of the round in work

    async def evaluate(self) -> None:
        """The loss on the fixed held-out split, for reporting only: it is public, so it can be fitted."""
        order = messages.Evaluate(_HELDOUT_SEQUENCES)
        self._heldout_loss = (await self._node.engine.order(order, messages.Evaluated)).loss
        self._node.metrics.loss.labels(split="heldout").set(self._heldout_loss)
        self._node.board.update(heldout_loss=self._heldout_loss)

    def phase_ended(self, phase: Phase) -> None:
        if phase is Phase.OUTER_STEP and self._outer_step_told:
            self._outer_step_told = False  # with its round, a moment ago
        else:
            self._end(phase)

    def _end(self, phase: Phase) -> None:
        now = trio.current_time()
        seconds = now - self._phase_since
        self._phases[str(phase)] = self._phases.get(str(phase), 0.0) + seconds
        self._node.metrics.round_phase_duration.labels(phase=str(phase)).observe(seconds)
        self._phase_since = now

    def round_finished(self, number: int, certified: Certified | None, state_hash: str) -> None:
        node, body, own = self._node, certified.body if certified else None, self._sent(number)
        result = "certified" if body else "void"
        self._end(Phase.OUTER_STEP)
        self._outer_step_told = True
        self._count(number, result)
        self._count_fates(own, body)
        node.metrics.aggregated_contributions.set(len(body.contributions) if body else 0)
        contributions = _fates(body, own, node.hotkey.hotkey)
        node.board.update(contributions=contributions, contributions_round=number)
        node.board.add_round(
            RoundSummary(
                round=number,
                result=result,
                roster_size=len(body.contributions) if body else 0,
                own_included=None if own is None else body is not None and body.lists(node.hotkey.hotkey),
                state_hash=state_hash,
                loss=node.board.status.loss if self.inner_steps else None,
                heldout_loss=self._heldout_loss,
                inner_steps=self.inner_steps,
                contribution_bytes=sum(e.size for e in body.contributions) if body else 0,
                own_bytes=own.size if own else 0,
                phases=dict(self._phases),
                finished_at=time.time(),
                contributions=contributions,
            )
        )
        total = sum(self._phases.values())
        node.metrics.compute_utilization.set(self._phases.get(str(Phase.TRAIN), 0.0) / total if total else 0.0)
        self._phases, self.inner_steps = {}, 0
        log.info("round finished", round=number, result=result, state_hash=state_hash[:16])

    def past_rounds(self) -> None:
        """Rounds that were replayed or gone over rather than lived through: nothing but their outcome is known here,
        and of those before the state that was fetched not even that."""
        board, memory = self._node.board, self._node.journal.memory
        past, told = {one.round: one for one in memory.past}, {one.round for one in board.rounds}
        for one in memory.past:
            if one.round not in told:
                result, size = ("certified", len(one.blobs) - 1) if one.digest else ("void", 0)
                board.add_round(RoundSummary(one.round, result, roster_size=size, state_hash=one.state_hash))
        first = memory.round if self._next_round is None else self._next_round
        for number in range(first, memory.round):
            self._count(number, "unknown" if number not in past else "certified" if past[number].digest else "void")
        for number in range(max(first, memory.round - _UNKNOWN_SHOWN), memory.round):
            if number not in past and number not in told:
                board.add_round(RoundSummary(number, "unknown"))
        self._next_round = memory.round

    def _count(self, number: int, result: str) -> None:
        metrics = self._node.metrics
        metrics.rounds.labels(result=result).inc()
        self._next_round = number + 1
        metrics.checkpoint_timestamp.set_to_current_time()  # the outer step is on disk before it counts
        if result == "certified":
            metrics.last_commit_timestamp.set_to_current_time()

    def _sent(self, number: int) -> SealedContribution | None:
        sealed = self._node.journal.memory.sealed
        return sealed if sealed is not None and sealed.round == number else None

    def _count_fates(self, own: SealedContribution | None, body: Roster | None) -> None:
        """Ours, or for a validator all it put in; what it left out was counted when it was checked."""
        node = self._node
        if node.validates:
            node.metrics.count_contribution("included", len(body.contributions) if body else 0)
        elif own is not None:
            node.metrics.count_contribution(_fate_of(node.hotkey.hotkey, body))

    async def look_up_standing(self, number: int) -> None:
        """Where the chain saw us when the round began. What cannot be read now is left as it was."""
        try:
            with trio.move_on_after(_STANDING_SECONDS):
                await self._look_up_standing(number)
        except (ChainError, ChainRefused) as error:
            log.info("our standing is not readable now", error=str(error))

    async def _look_up_standing(self, number: int) -> None:
        node = self._node
        view = await node.agreement.view(node.spec.timing.start(number))
        neuron = view.neuron(node.hotkey.hotkey)
        node.board.update(ranking=_ranking(view))
        if neuron is not None:
            weight, best = neuron.incentive / 65535, max(n.incentive for n in view.neurons)
            score = neuron.incentive / best if best and not node.validates else None
            node.board.update(uid=neuron.uid, weight=weight, score=score)
            node.metrics.weight.set(weight)
            node.metrics.score.set(score or 0)
            await self._count_emission(neuron)

    async def _count_emission(self, neuron: Neuron) -> None:
        """The chain tells what the last epoch paid; those that ended since the last look are taken to be like it."""
        epoch = await self._node.chain.epoch()  # fails: the epochs are still missing from the count at the next look
        before, self._next_epoch = self._next_epoch, epoch.next_epoch_block
        if before is not None and epoch.next_epoch_block > before:
            ended = (epoch.next_epoch_block - before) // max(1, epoch.tempo_blocks)
            self._node.metrics.emission.inc(ended * neuron.emission / _RAO)

    def show(self, state: State, draining: bool) -> None:
        node = self._node
        behind = max(0, state.timing.last_decided(state.head) - state.round)
        node.metrics.rounds_behind.set(behind)
        node.metrics.round_number.set(state.round)
        node.board.update(
            state=_name(state, behind, draining),
            round=state.round,
            phase="" if state.phase is Phase.WAITING else str(state.phase),
            block=state.head,
            next_deadline_block=_next_deadline(state),
            state_hash=node.journal.memory.state_hash,
            engine=node.engine.state,
        )


def _fate_of(hotkey: str, body: Roster | None) -> str:
    """A contribution that the roster does not speak of had too few receipts in time, or none."""
    if body is None:
        return "void"
    if body.lists(hotkey):
        return "included"
    return next((one.reason for one in body.exclusions if one.hotkey == hotkey), "late")


def _fates(body: Roster | None, own: SealedContribution | None, hotkey: str) -> tuple[ContributionStatus, ...]:
    """Of all that the roster speaks of, ours first; ours in any case if we sent one."""
    listed = [ContributionStatus(one.hotkey, "included", one.size) for one in body.contributions] if body else []
    left_out = [ContributionStatus(one.hotkey, one.reason) for one in body.exclusions] if body else []
    others = [one for one in (*listed, *left_out) if own is None or one.hotkey != hotkey]
    ours = [ContributionStatus(hotkey, _fate_of(hotkey, body), own.size)] if own else []
    return tuple([*ours, *others][:MAX_SHOWN])


def _ranking(view: Metagraph) -> tuple[Rank, ...]:
    order = sorted(view.neurons, key=lambda n: (-n.incentive, n.uid))[:MAX_SHOWN]
    return tuple(Rank(n.uid, n.hotkey, n.incentive / 65535, n.validator_permit) for n in order)


def _name(state: State, behind: int, draining: bool) -> str:
    if draining:
        return "draining"
    if state.phase is Phase.SYNCING:
        return "syncing"
    if state.paused:
        return "paused"
    if behind:
        return "behind"
    return "waiting" if state.head < state.timing.start_block else "running"


def _next_deadline(state: State) -> int:
    timing, r = state.timing, state.round
    points = (timing.start(r), timing.seal(r), timing.commit(r), timing.serve(r), timing.vote(r))
    return next((p for p in points if p > state.head), timing.start(r + 1))
