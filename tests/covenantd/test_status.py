"""Status, round summaries and conditions."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covenantd.board import StatusBoard
from covenantd.conditions import BadCondition, parse_condition
from covenantd.status import BadStatus, ContributionStatus, PeerStatus, Rank, RoundSummary, Status, Transfer

STATUS = Status("miner", addresses=("/a",), round=5, block=40, state="running", phase="outer_step")


def test_status_survives_json() -> None:
    status = Status(
        "miner",
        addresses=("/a",),
        peers=(PeerStatus("h", "p", "miner", ("/x",), True),),
        contributions=(ContributionStatus("h", "late"),),
        transfers=(Transfer("ab" * 32, 5, 9),),
        ranking=(Rank(0, "h", 0.5, True),),
    )
    assert Status.from_dict(json.loads(json.dumps(status.as_dict()))) == status


def test_round_summary_survives_json() -> None:
    summary = RoundSummary(
        3, "void", phases={"train": 1.5, "seal": 0.25}, contributions=(ContributionStatus("h", "included", 9),)
    )
    assert RoundSummary.from_dict(json.loads(json.dumps(summary.as_dict()))) == summary


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"schema": 2, "role": "miner"},
        {"schema": 1},
        {"schema": 1, "peers": [1]},
        {"schema": 1, "role": "miner", "ranking": 7},
    ],
)
def test_what_is_no_status_is_refused(data: object) -> None:
    with pytest.raises(BadStatus):
        Status.from_dict(data)


def test_json_has_no_nan() -> None:
    assert Status("miner", loss=float("nan")).as_dict()["loss"] is None
    assert RoundSummary(1, "void", loss=float("inf")).as_dict()["loss"] is None


def test_fields_of_a_newer_daemon_are_dropped() -> None:
    assert Status.from_dict({**STATUS.as_dict(), "mood": "good"}) == STATUS


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("round>=5", True),
        (" round >= 6 ", False),
        ("round>4", True),
        ("round=5", True),
        ("block>=40", True),
        ("peers>=1", False),
        ("peers>=0", True),
        ("state=running", True),
        ("STATE=RUNNING", True),
        ("state=paused", False),
        ("phase=outer_step", True),
        ("phase=train", False),
        ("idle", False),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert parse_condition(text).holds(STATUS) is holds


def test_unknown_numbers_meet_nothing() -> None:
    assert not parse_condition("round>=0").holds(Status("miner"))


def test_idle_is_between_rounds() -> None:
    assert parse_condition("idle").holds(Status("miner", state="paused", phase="waiting"))
    assert not parse_condition("idle").holds(Status("miner", state="syncing"))


@pytest.mark.parametrize(
    "text", ["", "round", "round<5", "round>=", "round>=-1", "round>=9" + "9" * 30, "state=happy", "state>=1", "mood=1"]
)
def test_bad_conditions_say_what_there_is(text: str) -> None:
    with pytest.raises(BadCondition):
        parse_condition(text)


@given(st.text(max_size=100))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    with contextlib.suppress(BadCondition):
        parse_condition(text).holds(STATUS)


async def test_a_later_word_on_a_round_replaces_the_earlier() -> None:
    board = StatusBoard(STATUS)
    for summary in (RoundSummary(2, "unknown"), RoundSummary(3, "certified"), RoundSummary(2, "void")):
        board.add_round(summary)
    assert [(one.round, one.result) for one in board.rounds] == [(2, "void"), (3, "certified")]
