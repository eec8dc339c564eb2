"""Whether a round fits its deadlines twice over, whatever the machine."""

import argparse
import math
from dataclasses import astuple

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from covenantd import plan
from covenantd.plan import BITTENSOR, LEDGER, Beat, Load, beat_of, pace, timing
from covenantd.runspec import Scoring
from covenantd.turns import turns
from p2p.manifest import HASH_BYTES, MAX_MANIFEST_BYTES

STEPS = st.floats(1e-4, 600, allow_nan=False)
LOADS = st.builds(Load, st.integers(1, 64), st.integers(0, 4), st.integers(1, 128))
SCORINGS = st.builds(Scoring, sequences=st.integers(1, 64))


@given(STEPS, LOADS, SCORINGS, st.integers(1, 16))
@example(0.06, Load(3, 1, 2), Scoring(), 4)
@example(600.0, Load(64, 1, 1), Scoring(), 4)
def test_every_part_of_a_round_fits_twice(seconds: float, load: Load, scoring: Scoring, batch: int) -> None:
    paced, step = pace(seconds, load, scoring, batch), seconds * load.contention
    assert 1 <= paced.inner_steps <= 30
    assert paced.train_seconds >= 2 * paced.inner_steps * step * (1 - 1e-9)
    passes = (3 * load.miners + 1) * math.ceil(scoring.sequences / batch)
    assert paced.certify_seconds >= 2 * passes * step / 3
    assert paced.commit_seconds >= 2 * step and paced.step_seconds >= 2 * step


@given(STEPS, STEPS, LOADS)
def test_a_slower_machine_gets_no_more_steps_and_never_less_time(one: float, other: float, load: Load) -> None:
    fast, slow = (pace(seconds, load, Scoring(), 4) for seconds in sorted((one, other)))
    assert slow.inner_steps <= fast.inner_steps
    assert slow.train_seconds >= fast.train_seconds and slow.certify_seconds >= fast.certify_seconds


@given(LOADS, LOADS)
def test_more_on_fewer_cores_is_never_faster(one: Load, other: Load) -> None:
    assert one.contention >= 1
    crowded = Load(one.miners + other.miners, one.validators + other.validators, min(one.cores, other.cores))
    assert crowded.contention >= max(one.contention, other.contention)


@given(STEPS, LOADS, st.builds(Beat, st.floats(0.01, 60), st.integers(2, 12)), st.integers(1, 1 << 40))
@example(0.06, Load(3, 1, 2), Beat(0.5, 2), 1)
@example(1e-4, Load(1, 0, 1), Beat(60.0, 2), 1)
@example(0.01, Load(1, 0, 1), BITTENSOR, 1)
def test_in_blocks_the_deadlines_are_in_order_and_no_part_is_shortened(
    seconds: float, load: Load, beat: Beat, start: int
) -> None:
    paced = pace(seconds, load, Scoring(), 4)
    when = timing(paced, start, *astuple(beat))
    when.check()
    nearly = beat.block_seconds * (1 + 1e-9)
    assert when.seal_blocks * nearly >= paced.train_seconds
    assert (when.commit_blocks - when.seal_blocks) * nearly >= paced.commit_seconds
    assert (when.vote_blocks - when.commit_blocks - when.serve_slack_blocks) * nearly >= paced.certify_seconds
    assert (when.blocks_per_round - when.vote_blocks) * nearly >= paced.step_seconds
    assert (when.start_block, when.block_seconds) == (start, beat.block_seconds)


@given(STEPS, st.sampled_from([LEDGER, BITTENSOR]), st.integers(1, 9))
def test_votes_have_time_to_be_in_the_state_even_if_the_first_two_of_seven_fail(
    seconds: float, beat: Beat, round: int
) -> None:
    when = timing(pace(seconds, Load(4, 0, 4), Scoring(), 4), 100, *astuple(beat))
    blocks = turns(when, round, dict.fromkeys("abcdefg", 1)).blocks
    assert len(blocks) >= 3 and blocks[0] == when.serve(round)
    ends = (*blocks[1:], when.vote(round))
    assert all(end - begin >= beat.proposal_blocks for begin, end in zip(blocks, ends, strict=True))
    assert when.start(round + 1) - when.vote(round) >= beat.proposal_blocks


def test_a_chain_has_its_own_pace_unless_it_is_told() -> None:
    assert beat_of("finney", None) == beat_of("wss://node:443", None) == Beat(12.0, 6)
    assert beat_of("tcp://10.0.0.1:9945", None) == LEDGER and beat_of("unix:///ledger", 0.5) == Beat(0.5, 2)
    assert beat_of("ws://localnet:9944", 0.25) == Beat(0.25, 6)


def arguments(*more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    plan.add_arguments(parser)
    return parser.parse_args(["--dir", "run", "--chain", "unix:///ledger.sock", *more])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--miners", "0"),
        ("--miners", "-1"),
        ("--miners", "many"),
        ("--block-seconds", "0"),
        ("--block-seconds", "nan"),
        ("--alpha", "inf"),
        ("--alpha", "-2"),
        ("--roster-size", "0"),
        ("--roster-size", "5000"),
        ("--piece-bytes", "1"),
        ("--netuid", "65536"),
        ("--start-in-seconds", "-1"),
    ],
)
def test_an_argument_nobody_could_run_is_refused_before_anything_is_made(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        arguments(f"{option}={value}")
    assert caught.value.code == 2 and option in capsys.readouterr().err


def test_the_defaults_are_accepted() -> None:
    assert arguments().miners == 4 and arguments("--block-seconds", "12").block_seconds == 12


def test_the_outer_learning_rate_goes_with_the_codec_unless_it_is_given() -> None:
    assert plan.alpha_of(arguments()) == 4.0
    assert plan.alpha_of(arguments("--codec", "topk2")) == 2.0
    assert plan.alpha_of(arguments("--codec", "topk2", "--alpha", "1.5")) == 1.5


@pytest.mark.parametrize(("parameters", "piece_bytes"), [(1e6, 64 << 10), (1.3e9, 256 << 10), (7.3e10, 1 << 20)])
def test_pieces_grow_with_the_model_and_its_manifest_stays_possible(parameters: float, piece_bytes: int) -> None:
    state_bytes = int(4 * parameters)
    assert plan.piece_bytes_for(state_bytes) == piece_bytes
    assert state_bytes / piece_bytes * HASH_BYTES < MAX_MANIFEST_BYTES
    assert state_bytes < 1e9 or state_bytes / 290 / piece_bytes > 24
