"""Changes of the run spec: who may make them, what they may touch, and when they hold. And the timing they move."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_fixture import SPEC, TIMING, h

from covenantd import runspec
from covenantd.chain.keys import Hotkey, verify
from covenantd.errors import ConfigError
from covenantd.specchange import SpecChange, SpecHistory, apply, parse, sign

OWNER = Hotkey.from_uri("//Alice")
CHANGE = SpecChange(SPEC.run_id, 1, 10, {"alpha": 1.0, "timing": {"blocks_per_round": 30, "vote_blocks": 25}})


def test_what_the_owner_signs_is_read_back() -> None:
    assert parse(sign(CHANGE, OWNER), SPEC, verify) == CHANGE


def test_nobody_else_can_change_a_run_nor_one_run_for_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not signed by the run's owner"):
        parse(sign(CHANGE, Hotkey.from_uri("//Bob")), SPEC, verify)
    with pytest.raises(ConfigError, match="is for run"):
        parse(sign(replace(CHANGE, run_id=h("other")), OWNER), SPEC, verify)
    document = json.loads(sign(CHANGE, OWNER))
    document["change"]["changes"]["alpha"] = 8.0
    with pytest.raises(ConfigError, match="not signed"):
        parse(json.dumps(document).encode(), SPEC, verify)
    with pytest.raises(ConfigError, match="belongs to"):
        runspec.write(tmp_path / "run.json", SPEC, Hotkey.from_uri("//Bob"))


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_anything_else_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse(data, SPEC, verify)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {}}, "cannot change"),
        ({"piece_bytes": 4096}, "cannot change"),
        ({"timing": {"start_block": 5}}, "cannot change"),
        ({"inner": {"beta1": 0.5}}, "cannot change"),
        ({"alpha": "2"}, "must be a float"),
        ({"roster_size": True}, "must be a int"),
        ({"alpha": -1.0}, "bad value of alpha"),
        ({"roster_size": 0}, "bad value of roster_size"),
        ({"timing": {"seal_blocks": 50}}, "timing must satisfy"),
        ({"timing": 3}, "must be a map"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(changes: dict[str, object], words: str) -> None:
    history = SpecHistory(SPEC)
    with pytest.raises(ConfigError, match=words):
        history.add(SpecChange(SPEC.run_id, 1, 10, changes))
    assert history.newest == SPEC and history.at(100).alpha == SPEC.alpha


def test_revisions_follow_each_other() -> None:
    with pytest.raises(ConfigError, match="does not follow"):
        apply(SPEC, replace(CHANGE, revision=2))
    history = SpecHistory(SPEC, [CHANGE])
    with pytest.raises(ConfigError, match="not after the last one"):
        history.add(SpecChange(SPEC.run_id, 2, 10, {"alpha": 3.0}))


def test_a_change_holds_from_its_round_on_and_the_run_stays_the_same_run() -> None:
    second = SpecChange(SPEC.run_id, 2, 12, {"inner": {"peak_learning_rate": 1e-4}, "inner_steps": 5})
    history = SpecHistory(SPEC, [CHANGE, second])
    assert [history.at(r).alpha for r in (0, 9, 10, 11, 12)] == [2.0, 2.0, 1.0, 1.0, 1.0]
    assert [history.at(r).inner_steps for r in (11, 12)] == [30, 5]
    assert history.at(12).inner.peak_learning_rate == 1e-4 and history.at(12).inner.beta1 == SPEC.inner.beta1
    assert [history.at(r).revision for r in (9, 10, 12)] == [0, 1, 2]
    assert {history.at(r).run_id for r in (0, 10, 12)} == {SPEC.run_id}
    assert history.at(0).timing == history.at(12).timing  # who is behind must find the blocks of later rounds


def test_a_peer_that_cannot_follow_a_change_goes_on_up_to_it_and_stops_there() -> None:
    history = SpecHistory(SPEC)
    reason = history.follow(SpecChange(SPEC.run_id, 1, 10, {"sharding": "new"}))
    assert reason is not None and "sharding" in reason
    assert history.at(9).alpha == SPEC.alpha
    with pytest.raises(ConfigError, match="from round 10 on the run has other rules.*upgrade"):
        history.at(10)
    assert history.follow(SpecChange(SPEC.run_id, 2, 20, {"alpha": 1.0})) is not None  # nothing after it either
    assert history.revision == 2
    with pytest.raises(ConfigError, match="from round 10"):
        history.at(30)


def test_a_round_keeps_the_timing_it_began_under() -> None:
    timing = TIMING.from_round(10, blocks_per_round=30, vote_blocks=25).from_round(20, blocks_per_round=16)
    assert [timing.start(r) for r in (0, 9, 10, 11, 20, 21)] == [7, 187, 207, 237, 507, 523]
    assert [timing.vote(r) - timing.start(r) for r in (9, 10, 20)] == [15, 25, 25]


PACES = st.tuples(st.integers(1, 40), st.integers(20, 60))


@given(st.lists(PACES, max_size=3), st.integers(0, 3000))
def test_the_last_decided_round_is_the_last_whose_vote_block_is_past(paces: list[tuple[int, int]], block: int) -> None:
    timing, first = TIMING, 0
    for rounds, blocks in paces:
        first += rounds
        timing = timing.from_round(first, blocks_per_round=blocks)
    decided = timing.last_decided(block)
    assert decided >= -1
    assert timing.vote(decided + 1) > block
    assert decided == -1 or timing.vote(decided) <= block
