"""The round machine against a coordinator that answers late, twice, not at all, or about another round."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from covenantd import round as machine
from covenantd.round import Event, Phase, State, step
from covenantd.timing import Timing

TIMING = Timing(
    start_block=7, blocks_per_round=20, seal_blocks=5, commit_blocks=8, vote_blocks=15, serve_slack_blocks=2
)
MINER = State(TIMING, trains=True)
VALIDATOR = State(TIMING, trains=False)
AWAITS_BLOCKS = (Phase.WAITING, Phase.COMMIT, Phase.EXCHANGE)
ROUNDS = st.integers(0, 6)
STALE: st.SearchStrategy[Event] = st.one_of(
    st.builds(machine.Trained, ROUNDS, st.integers(0, 3)),
    st.builds(machine.Sealed, ROUNDS, st.booleans()),
    st.builds(machine.Decided, ROUNDS, st.booleans()),
    st.builds(machine.Gathered, ROUNDS),
    st.builds(machine.Advanced, ROUNDS),
    st.builds(machine.Ready, ROUNDS, ROUNDS),
)


def honest_answer(effect: Any) -> Event | None:
    """What the coordinator says when everything works."""
    match effect:
        case machine.Train(round):
            return machine.Trained(round, 3)
        case machine.Seal(round, _, in_time):
            return machine.Sealed(round, in_time)
        case machine.ReadVotes(round):
            return machine.Decided(round, True)
        case machine.Gather(round):
            return machine.Gathered(round)
        case machine.OuterStep(round):
            return machine.Advanced(round + 1)
        case machine.CatchUp(through):
            return machine.Ready(through + 1, -1)
    return None


def run(state: State, *events: Event) -> tuple[State, list[Any]]:
    effects: list[Any] = []
    for event in events:
        state, more = step(state, event)
        effects += more
    return state, effects


def settle(state: State, effects: list[Any]) -> State:
    """Answer everything honestly until only blocks are awaited."""
    while effects:
        answer = honest_answer(effects.pop(0))
        if answer is not None:
            state, more = step(state, answer)
            effects += more
    return state


class Rounds(RuleBasedStateMachine):
    """`open`: effects whose answer is still to come, of the present and of abandoned work alike."""

    trains = True

    def __init__(self) -> None:
        super().__init__()
        self.state = replace(MINER if self.trains else VALIDATOR)
        self.open: list[Any] = [machine.CatchUp(-1)]
        self.trained: set[int] = set()  # since the engine's state was last installed
        self.opened: set[int] = set()
        self.stopped: set[int] = set()

    def feed(self, event: Event) -> None:
        before = self.state
        self.state, effects = step(before, event)
        self.check_round(before, event)
        assert not {machine.Commit, machine.Open} <= {type(effect) for effect in effects}
        if isinstance(event, machine.Ready) and before.phase is Phase.SYNCING:
            self.trained, self.opened, self.stopped = set(), set(), set()
        for effect in effects:
            self.check(before, event, effect)
        entered_syncing = before.phase is not Phase.SYNCING and self.state.phase is Phase.SYNCING
        began_catch_up = sum(isinstance(effect, machine.CatchUp) for effect in effects)
        assert began_catch_up <= 1
        if isinstance(event, machine.Ready):
            assert (self.state.phase is Phase.SYNCING) == bool(began_catch_up) or before == self.state
        else:
            assert entered_syncing == bool(began_catch_up)
        self.open += effects

    def check_round(self, before: State, event: Event) -> None:
        after = self.state
        if after.round != before.round:
            if isinstance(event, machine.Ready):
                assert before.phase is Phase.SYNCING and after.round == event.round
            else:
                assert isinstance(event, machine.Advanced) and before.phase is Phase.OUTER_STEP
                assert after.round == before.round + 1
        assert after.head >= before.head

    def check(self, before: State, event: Event, effect: Any) -> None:
        state, r = self.state, self.state.round
        assert effect.through == TIMING.last_decided(state.head) if isinstance(effect, machine.CatchUp) else True
        match effect:
            case machine.Train(round):
                assert self.trains and not state.paused and round == r and round not in self.trained
                assert TIMING.start(round) <= state.head < TIMING.seal(round)
                self.trained.add(round)
            case machine.StopTraining(round):
                assert round == r and state.head >= TIMING.seal(round) and round not in self.stopped
                self.stopped.add(round)
            case machine.Seal(round, _, in_time):
                assert isinstance(event, machine.Trained) and round == r == event.round
                assert in_time == (state.head < TIMING.commit(round))
            case machine.Commit(round):
                assert self.trains and round == r <= state.trained_round
                assert TIMING.start(round) <= state.head <= TIMING.commit(round)
            case machine.Open(round):
                assert round == r and state.head >= TIMING.serve(round) and round not in self.opened
                self.opened.add(round)
            case machine.ReadVotes(round):
                assert round == r == TIMING.last_decided(state.head)
            case machine.Gather(round):
                assert event == machine.Decided(round, True) and before.phase is Phase.CERTIFY
            case machine.OuterStep(round, True):
                assert event == machine.Gathered(round) and before.phase is Phase.AGGREGATE
            case machine.OuterStep(round, False):
                assert event == machine.Decided(round, False) and before.phase is Phase.CERTIFY

    @rule(blocks=st.integers(1, 9))
    def see_head(self, blocks: int) -> None:
        self.feed(machine.Head(self.state.head + blocks))

    @rule(blocks=st.integers(10, 70))
    def see_head_after_silence(self, blocks: int) -> None:
        self.feed(machine.Head(self.state.head + blocks))

    @rule(block=st.integers(0, 200))
    def see_old_head(self, block: int) -> None:
        self.feed(machine.Head(min(block, self.state.head)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        effect = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        event = honest_answer(effect)
        match effect:
            case machine.Seal(round):
                event = machine.Sealed(round, data.draw(st.booleans()))
            case machine.ReadVotes(round):
                event = machine.Decided(round, data.draw(st.booleans()))
            case machine.CatchUp(through):
                round = max(through + 1, self.state.round)
                event = machine.Ready(round, data.draw(st.sampled_from([-1, round - 1, round])))
        if event is not None:
            self.feed(event)

    @rule()
    def lose_engine(self) -> None:
        self.feed(machine.Lost())

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.feed(machine.Pause(paused))

    @precondition(lambda self: self.state.phase is not Phase.SYNCING)
    @rule(event=STALE)
    def hear_of_another_round(self, event: Event) -> None:
        number = event.round  # type: ignore[union-attr]
        current = self.state.round + 1 if isinstance(event, machine.Advanced) else self.state.round
        if number != current or isinstance(event, machine.Ready):
            before = self.state
            self.feed(event)
            assert self.state == before

    @invariant()
    def never_rests_behind(self) -> None:
        if self.state.phase in AWAITS_BLOCKS:
            assert TIMING.last_decided(self.state.head) <= self.state.round

    @invariant()
    def never_stays_in_training_unasked_to_stop(self) -> None:
        if self.state.phase is Phase.TRAIN and self.state.head >= TIMING.seal(self.state.round):
            assert self.state.stopping

    @invariant()
    def a_way_leads_on(self) -> None:
        """Whatever happened: with honest answers and blocks the round ends, and so do the next two."""
        state, expected = self.state, expected_answers(self.state)
        for _ in range(3):
            before = state.round
            state = settle(*run(settle(state, expected), machine.Head(max(state.head, TIMING.vote(before)))))
            assert state.round > before and state.phase in AWAITS_BLOCKS
            expected = []


def expected_answers(state: State) -> list[Any]:
    """The effect that each phase waits for."""
    r = state.round
    makers: dict[Phase, Callable[[], Any]] = {
        Phase.SYNCING: lambda: machine.CatchUp(max(r - 1, TIMING.last_decided(state.head))),
        Phase.TRAIN: lambda: machine.Train(r),
        Phase.SEAL: lambda: machine.Seal(r, 1, True),
        Phase.CERTIFY: lambda: machine.ReadVotes(r),
        Phase.AGGREGATE: lambda: machine.Gather(r),
        Phase.OUTER_STEP: lambda: machine.OuterStep(r, True),
    }
    return [makers[state.phase]()] if state.phase in makers else []


class ValidatorRounds(Rounds):
    trains = False


TestMiner = Rounds.TestCase
TestValidator = ValidatorRounds.TestCase
TestMiner.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestValidator.settings = settings(max_examples=75, stateful_step_count=40, deadline=None)


def at(state: State, block: int, round: int = 0, trained_round: int = -1) -> tuple[State, list[Any]]:
    """A peer that becomes ready when the head is at `block`."""
    return run(state, machine.Head(block), machine.Ready(round, trained_round))


def test_a_round_of_a_miner_from_end_to_end() -> None:
    state, effects = at(MINER, TIMING.start(0))
    assert (state.phase, effects) == (Phase.TRAIN, [machine.Train(0)])
    state, effects = run(state, machine.Head(TIMING.seal(0)), machine.Trained(0, 3), machine.Sealed(0, True))
    assert effects == [machine.StopTraining(0), machine.Seal(0, 3, True), machine.Commit(0)]
    state, effects = run(state, machine.Head(TIMING.serve(0) - 1))
    assert (state.phase, effects) == (Phase.COMMIT, [])
    state, effects = run(state, machine.Head(TIMING.serve(0)), machine.Head(TIMING.vote(0)))
    assert effects == [machine.Open(0), machine.ReadVotes(0)]
    state, effects = run(state, machine.Decided(0, True), machine.Gathered(0), machine.Advanced(1))
    assert effects == [machine.Gather(0), machine.OuterStep(0, True)]
    assert (state.phase, state.round) == (Phase.WAITING, 1)


def test_a_validator_waits_for_commits_to_close() -> None:
    state, effects = at(VALIDATOR, TIMING.start(0))
    assert (state.phase, effects) == (Phase.COMMIT, [])
    state, effects = run(state, machine.Head(TIMING.serve(0)))
    assert (state.phase, effects) == (Phase.EXCHANGE, [machine.Open(0)])


def test_a_contribution_that_came_too_late_is_not_committed() -> None:
    """Its blob would be hidden by the commit just when it is opened."""
    state, _ = at(MINER, TIMING.start(0))
    state, _ = run(state, machine.Trained(0, 1), machine.Head(TIMING.serve(0)))
    state, effects = run(state, machine.Sealed(0, True))
    assert (state.phase, effects) == (Phase.EXCHANGE, [machine.Open(0)])


def test_after_a_restart_a_commit_is_repeated_only_while_it_counts() -> None:
    for block, expected in (
        (TIMING.seal(0), [machine.Commit(0)]),
        (TIMING.commit(0), [machine.Commit(0)]),
        (TIMING.commit(0) + 1, []),
        (TIMING.serve(0), [machine.Open(0)]),
    ):
        assert at(MINER, block, trained_round=0)[1] == expected


def test_who_missed_the_training_follows_the_round_all_the_same() -> None:
    state, effects = at(MINER, TIMING.seal(0))
    assert (state.phase, effects) == (Phase.COMMIT, [])
    assert run(state, machine.Head(TIMING.vote(0)))[1] == [machine.Open(0), machine.ReadVotes(0)]


def test_who_is_paused_follows_without_training_until_resumed() -> None:
    state, effects = run(MINER, machine.Pause(True), machine.Head(TIMING.start(0)), machine.Ready(0, -1))
    assert (state.phase, effects) == (Phase.WAITING, [])
    assert run(state, machine.Pause(False))[1] == [machine.Train(0)]
    assert run(state, machine.Head(TIMING.seal(0)))[0].phase is Phase.COMMIT


def test_who_overslept_the_vote_catches_up_instead_of_opening() -> None:
    state, _ = at(MINER, TIMING.start(0))
    state, _ = run(state, machine.Trained(0, 1), machine.Sealed(0, True))
    state, effects = run(state, machine.Head(TIMING.vote(2)))
    assert (state.phase, effects) == (Phase.SYNCING, [machine.CatchUp(2)])


def test_a_second_loss_while_catching_up_begins_no_second_catch_up() -> None:
    state, effects = run(at(MINER, TIMING.start(0))[0], machine.Lost(), machine.Lost())
    assert (state.phase, effects) == (Phase.SYNCING, [machine.CatchUp(-1)])
