"""`covenantctl why`: the words must follow from the chain and the rounds."""

from dataclasses import replace

import pytest

from covenantd.chain.protocol import Metagraph, Neuron
from covenantd.reasons import ADVICE, Known, Question, explain
from covenantd.status import ContributionStatus, RoundSummary

OWN, OTHER, VALIDATOR = "5Own", "5Other", "5Validator"
METAGRAPH = Metagraph(
    1,
    500,
    (
        Neuron(0, VALIDATOR, 1000, True, 1, 400, 0, 65535, 7),
        Neuron(1, OWN, 0, False, 1, 0, 16384, 0, 3),
        Neuron(2, OTHER, 0, False, 1, 0, 49151, 0, 9),
    ),
    {},
    {0: {1: 16384, 2: 49152}},
)


def rounds(*fates: str) -> list[RoundSummary]:
    return [
        RoundSummary(i, "void")
        if fate == "void"
        else RoundSummary(
            i, "certified", contributions=(ContributionStatus(OWN, fate), ContributionStatus(OTHER, "included"))
        )
        for i, fate in enumerate(fates)
    ]


OURS = Question(OWN, True, "miner")


def text(question: Question = OURS, metagraph: Metagraph = METAGRAPH, **more: object) -> str:
    known = {"rounds": rounds("included", "late", "void", "late"), "opinion": None, **more}
    return "\n".join(explain(question, metagraph, Known(**known))["lines"])  # type: ignore[arg-type]


def test_a_miner_learns_what_it_gets_from_whom_and_why() -> None:
    found = text()
    assert "weight is 0.2500: rank 2 of 2" in found
    assert "Validator 5Validat (100% of the validators' stake) gives it 25.0% of its weight" in found
    assert "Of the last 3 certified rounds: 2 late, 1 included" in found
    assert ADVICE["late"] in found and "1 rounds were void" in found


def test_unregistered() -> None:
    assert "not registered" in text(Question("5Nobody", False, "miner"))


def test_a_validator_is_told_that_it_earns_otherwise() -> None:
    assert "dividends" in text(Question(VALIDATOR, True, "validator"))


def test_a_validators_own_opinion_is_shown_as_it_is() -> None:
    assert "gain 0.00123, rounds 7" in text(opinion={"gain": 0.00123, "rounds": 7, "odd": None, "flag": True})


def test_what_validators_say_is_shown_with_who_says_it() -> None:
    told = {VALIDATOR: {"gain": 0.0123, "rounds": 7, "share": 0.25}}
    assert "Validator 5Validat says: a contribution of ours lowers the loss by 1.230%" in text(told=told)
    assert "25.0% of the reward" in text(told=told)
    assert explain(OURS, METAGRAPH, Known([], None, told))["told"] == told


def test_no_weights_yet() -> None:
    assert "No validator has set weights yet" in text(metagraph=replace(METAGRAPH, weights={}))


def test_no_rounds_yet() -> None:
    assert "No certified round" in text(rounds=[])


@pytest.mark.parametrize(("own", "fate"), [(True, "included"), (False, "not listed"), (None, "nothing sent")])
def test_without_a_list_our_own_memory_counts(own: bool | None, fate: str) -> None:
    found = explain(Question(OWN, True, "miner"), METAGRAPH, Known([RoundSummary(1, "certified", own_included=own)]))
    assert found["rounds"] == [{"round": 1, "result": "certified", "fate": fate}]
