"""Why a peer's weight is what it is: its rounds, what the validators gave it, what to do about it. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from covenantd.chain.protocol import Metagraph, Neuron
from covenantd.status import RoundSummary

_SHOWN_ROUNDS = 20

ADVICE = {
    "late": "its commit reached certifiers with 2/3 of the stake too late: look at the link and the clock "
    "(`covenantd doctor`), or train fewer inner steps",
    "missing": "certifiers could not fetch it in time: is the port reachable, is the uplink fast enough?",
    "invalid": "it did not decode to a valid contribution: look for another version, or failing memory",
    "size": "it did not have the size every contribution has: is the peer of another version?",
    "base": "it was built on another model state: the peer was out of step, which it mends by itself",
    "equivocated": "two different contributions were committed for one round: do two daemons use the hotkey?",
    "harmful": "the loss rose with it, round after round: are its data, precision or hardware what they should be?",
    "useless": "it helped far less than the others, round after round: is its data or its engine broken?",
    "full": "the roster was full of contributions that helped more",
    "stranger": "the hotkey was not registered when the round began",
    "unproven": "too few certifiers had receipted its commit in time",
    "not listed": "no certifier heard of it in time, or it sent nothing",
}


@dataclass(frozen=True)
class Question:
    hotkey: str  # ss58
    is_own: bool
    role: str  # of the daemon that answers


@dataclass(frozen=True)
class Known:
    """`opinion`: what this validator itself thinks of the hotkey; `told`: what others said they think, by hotkey."""

    rounds: Sequence[RoundSummary]
    opinion: Mapping[str, Any] | None = None
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def explain(question: Question, metagraph: Metagraph, known: Known) -> dict[str, Any]:
    """Plain data, with `lines` for people."""
    neuron, opinion = metagraph.neuron(question.hotkey), known.opinion
    fates = _fates(question, known.rounds)
    given = [] if neuron is None else _given(metagraph, neuron.uid)
    return {
        "hotkey": question.hotkey,
        "uid": None if neuron is None else neuron.uid,
        "block": metagraph.block,
        "weight": None if neuron is None else neuron.incentive / 65535,
        "rank": _rank(metagraph, neuron),
        "rounds": fates,
        "given": given,
        "opinion": {k: v for k, v in (opinion or {}).items() if isinstance(v, bool | int | float | str)},
        "told": {hotkey: dict(said) for hotkey, said in known.told.items()},
        "lines": [*_lines(question, metagraph, neuron, fates, given, opinion), *_told_lines(known.told)],
    }


def _fates(question: Question, rounds: Sequence[RoundSummary]) -> list[dict[str, Any]]:
    """Of the last rounds: what became of the peer's contribution."""
    return [{"round": one.round, "result": one.result, "fate": _fate(question, one)} for one in rounds[-_SHOWN_ROUNDS:]]


def _fate(question: Question, summary: RoundSummary) -> str:
    found = next((c.fate for c in summary.contributions if c.hotkey == question.hotkey), None)
    if summary.result != "certified":
        return summary.result
    if found is not None:
        return found
    if question.is_own and summary.own_included is not None:
        return "included" if summary.own_included else "not listed"
    return "nothing sent" if question.is_own else "not listed"


def _given(metagraph: Metagraph, uid: int) -> list[dict[str, Any]]:
    """What each validator's row on chain gives the uid, with the validator's share of their stake together."""
    validators = [n for n in metagraph.neurons if n.validator_permit]
    total = sum(n.stake for n in validators) or 1
    rows = []
    for validator in sorted(validators, key=lambda n: -n.stake):
        row = metagraph.weights.get(validator.uid, {})
        share = row.get(uid, 0) / (sum(row.values()) or 1)
        rows.append(
            {
                "validator": validator.hotkey,
                "uid": validator.uid,
                "stake_share": validator.stake / total,
                "weight_share": share,
                "has_set_weights": bool(row),
            }
        )
    return rows


def _rank(metagraph: Metagraph, neuron: Neuron | None) -> int | None:
    """Among those without a validator's permit, from 1."""
    if neuron is None or neuron.validator_permit:
        return None
    return 1 + sum(n.incentive > neuron.incentive for n in metagraph.neurons if not n.validator_permit)


def _lines(
    question: Question,
    metagraph: Metagraph,
    neuron: Neuron | None,
    fates: Sequence[Mapping[str, Any]],
    given: Sequence[Mapping[str, Any]],
    opinion: Mapping[str, Any] | None,
) -> list[str]:
    if neuron is None:
        return [
            f"{question.hotkey} is not registered on subnet {metagraph.netuid}: it earns nothing, and what it sends "
            "is refused. Register it (`covenantd register`), then wait for the next round."
        ]
    if neuron.validator_permit and neuron.incentive == 0:
        return ["It has a validator's permit: validators earn dividends for their weights, not incentive for training."]
    return [*_standing_lines(metagraph, neuron, given), *_round_lines(fates), *_opinion_lines(opinion)]


def _standing_lines(metagraph: Metagraph, neuron: Neuron, given: Sequence[Mapping[str, Any]]) -> list[str]:
    miners = sum(not n.validator_permit for n in metagraph.neurons)
    lines = [f"Its weight is {neuron.incentive / 65535:.4f}: rank {_rank(metagraph, neuron)} of {miners} that train."]
    set_by = [one for one in given if one["has_set_weights"]]
    if not set_by:
        return [*lines, "No validator has set weights yet: they do so once a tempo, from the first scored round on."]
    for one in set_by:
        who = f"Validator {one['validator'][:8]} ({one['stake_share']:.0%} of the validators' stake)"
        lines.append(f"{who} gives it {one['weight_share']:.1%} of its weight.")
    return lines


def _round_lines(fates: Sequence[Mapping[str, Any]]) -> list[str]:
    counts = Counter(one["fate"] for one in fates if one["result"] == "certified")
    if not counts:
        return ["No certified round is known here yet."]
    total = sum(counts.values())
    lines = [f"Of the last {total} certified rounds: " + ", ".join(f"{n} {fate}" for fate, n in counts.most_common())]
    lines += [f"{fate}: {ADVICE[fate]}." for fate, _ in counts.most_common() if fate in ADVICE]
    voids = sum(one["result"] == "void" for one in fates)
    if voids:
        lines.append(f"{voids} rounds were void: no roster had 2/3 of the certifiers' stake, so nobody's work counted.")
    return lines


def _told_lines(told: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The numbers behind the weights, as each validator that answered gave them."""
    return [
        f"Validator {hotkey[:8]} says: a contribution of ours lowers the loss by {said['gain']:.3%} on the mean of "
        f"{said['rounds']} judged rounds, which is {said['share']:.1%} of the reward by its numbers."
        for hotkey, said in told.items()
    ]


def _opinion_lines(opinion: Mapping[str, Any] | None) -> list[str]:
    if not opinion:
        return []
    shown = [f"{name} {value:.4g}" for name, value in opinion.items() if type(value) in (int, float)]
    return [f"This validator's own opinion: {', '.join(shown)}."] if shown else []
