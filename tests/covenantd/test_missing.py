"""Who is at fault for a missing contribution: votes say it, 2/3 of all the stake."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_fixture import HOTKEYS, SPEC, enrolled, h

from covenantd import missing
from covenantd.roster import MAX_LACKED_BYTES, NO_DIGEST, Exclusion, Roster, Vote, alpha_bits

CERTIFIED = Vote(SPEC.tag, 3, h("body"), h("state"))
THREE, FOUR, FIVE = HOTKEYS[3:6]


def body(*missing: str, invalid: str = HOTKEYS[0]) -> Roster:
    left_out = (Exclusion(invalid, "invalid"), *(Exclusion(hotkey, "missing") for hotkey in missing))
    return Roster(SPEC.run_id, 3, NO_DIGEST, h("state"), 0, 0, alpha_bits(2.0), (), left_out, ())


def at_fault(stakes: Sequence[int], lacked: dict[int, set[str]], named: Roster, **changes: object) -> set[str]:
    """`lacked`: by voter; the first vote may be another, as `changes` say."""
    votes = {uid: replace(CERTIFIED, lacked=missing.report(named, who)) for uid, who in lacked.items()}
    votes[0] = replace(votes[0], **changes)  # type: ignore[arg-type]
    return set(missing.at_fault(enrolled(stakes), enrolled(stakes, votes), CERTIFIED, named))


@pytest.mark.parametrize(
    ("lacking", "guilty"),
    [
        ([{THREE, FOUR}, {THREE}, {THREE}], {THREE}),
        ([{THREE, FOUR}, {FOUR}, {FIVE}], {FOUR}),  # two of three are enough
        ([{THREE}, set(), set()], set()),  # whoever proposed it alone lacked it
        ([{FIVE}, {FIVE}, {FIVE}], set()),  # which the roster does not name
        ([{HOTKEYS[0]}, {HOTKEYS[0]}, {HOTKEYS[0]}], set()),  # which it names, as invalid
    ],
)
def test_two_thirds_of_the_stake_must_have_lacked_it(lacking: list[set[str]], guilty: set[str]) -> None:
    assert at_fault([1, 1, 1], dict(enumerate(lacking)), body(THREE, FOUR)) == guilty


def test_two_thirds_are_meant_of_all_the_stake_and_by_votes_for_the_certified_roster() -> None:
    all_lack, named = {uid: {THREE} for uid in range(3)}, body(THREE)
    assert at_fault([1, 1, 1, 1], all_lack, named) == {THREE}
    assert at_fault([1, 1, 1, 2], all_lack, named) == set(), "who does not vote reports nothing"
    for other in ({"digest": h("other")}, {"state_hash": h("other")}, {"round": 2}, {"run_tag": bytes(8)}):
        assert at_fault([1, 1, 1, 1], all_lack, named, **other) == set()


def test_more_than_votes_have_room_for_is_not_reported() -> None:
    many = [f"miner{i}" for i in range(missing.MAX_REPORTED + 9)]
    bits = missing.report(body(*many), set(many))
    assert bits == b"\xff" * MAX_LACKED_BYTES
    assert at_fault([1], {0: set(many)}, body(*many)) == set(many[: missing.MAX_REPORTED])


@given(st.lists(st.sampled_from(HOTKEYS), unique=True), st.sets(st.sampled_from(HOTKEYS)))
def test_a_report_says_what_is_lacked_of_what_is_named_and_no_more(named: list[str], lacking: set[str]) -> None:
    assert at_fault([1], {0: lacking}, body(*named)) == set(named) & lacking
    assert missing.report(body(*named), lacking)[-1:] != b"\0"
