"""What certifiers propose, and what they vote for when another proposes."""

from dataclasses import replace

import pytest
from run_fixture import HOTKEYS, SPEC, h

from covenantd import roster
from covenantd.chain.keys import Hotkey
from covenantd.chain.protocol import MAX_COMMITMENT_FIELDS, MAX_FIELD_BYTES
from covenantd.commits import Commit
from covenantd.gauntlet.standing import Standing
from covenantd.proposals import View, censors, complete, compose, hearing, misfit
from covenantd.proposals import objection as unheld
from covenantd.roster import MAX_LACKED_BYTES, NO_DIGEST, OnChainIdentity, Roster, Vote, alpha_bits
from covenantd.runspec import RunSpec
from covenantd.turns import EARLY

ROUND = 3
BASE = h("state")


def commit(hotkey: str, blob: str = "blob") -> Commit:
    return Commit(hotkey, "peer", ROUND, h(blob + hotkey[-4:]), 1000, BASE, 7)


def view(*sound: int, refused: dict[int, str] | None = None, unfit: dict[int, str] | None = None) -> View:
    refused, unfit = refused or {}, unfit or {}
    return View(
        round=ROUND,
        previous=NO_DIGEST,
        base_state_hash=BASE,
        proven={HOTKEYS[i]: commit(HOTKEYS[i]) for i in (*sound, *refused)},
        sound=frozenset(HOTKEYS[i] for i in sound),
        refused={HOTKEYS[i]: reason for i, reason in refused.items()},
        unfit={HOTKEYS[i]: reason for i, reason in unfit.items()},
    )


def objection(spec: RunSpec, seen: View, body: Roster) -> str | None:
    """All a voter has to say, in its order."""
    return misfit(spec, seen, body) or unheld(seen, body) or censors(spec, seen, body)


def listed(body: Roster) -> list[int]:
    return [HOTKEYS.index(entry.hotkey) for entry in body.contributions]


def test_the_best_come_first_and_everybody_else_has_a_reason() -> None:
    standings = {HOTKEYS[i]: Standing(gain, 5) for i, gain in ((0, 0.01), (1, 0.03), (2, -0.5))}
    seen = view(0, 1, 2, 3, refused={4: "missing"}, unfit={2: "harmful"})
    body = compose(replace(SPEC, roster_size=2), seen, standings)
    assert listed(body) == [1, 0]
    assert {(HOTKEYS.index(x.hotkey), x.reason) for x in body.exclusions} == {
        (2, "harmful"),
        (3, "full"),
        (4, "missing"),
    }
    assert body.alpha == SPEC.alpha and body.metagraph_block == SPEC.timing.start(ROUND)


def test_what_one_composes_another_with_the_same_view_votes_for() -> None:
    assert objection(SPEC, view(0, 1, 2), compose(SPEC, view(0, 1, 2), {})) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"round": ROUND + 1}, "another state or round"),
        ({"base_state_hash": h("other")}, "another state or round"),
        ({"previous": h("other")}, "another state or round"),
        ({"run_id": h("other")}, "another state or round"),
        ({"metagraph_block": 1}, "another metagraph"),
        ({"spec_revision": 1}, "spec revision"),
        ({"alpha_bits": alpha_bits(3.0)}, "alpha"),
        ({"contributions": ()}, "lists 0"),
    ],
)
def test_a_proposal_off_the_rules_gets_no_vote(change: dict[str, object], words: str) -> None:
    body = replace(compose(SPEC, view(0, 1, 2), {}), **change)  # type: ignore[arg-type]
    assert words in str(objection(SPEC, view(0, 1, 2), body))


def test_no_vote_for_what_is_not_here_not_proven_or_not_what_was_committed() -> None:
    body = compose(SPEC, view(0, 1, 2), {})
    assert "not here" in str(objection(SPEC, view(0, 1, refused={2: "missing"}), body))
    assert "not committed" in str(objection(SPEC, view(0, 1), body))
    swapped = tuple(replace(entry, blob_id=h("swapped")) for entry in body.contributions)
    assert "not committed" in str(objection(SPEC, view(0, 1, 2), replace(body, contributions=swapped)))
    too_many = replace(SPEC, roster_size=2)
    assert "lists 3" in str(objection(too_many, view(0, 1, 2), replace(body, run_id=too_many.run_id)))


def test_a_proposer_may_leave_out_what_it_doubts_but_not_most_of_what_is_fit() -> None:
    body = compose(SPEC, view(0, 1, 2, 3), {})
    half, quarter = (replace(body, contributions=body.contributions[:n]) for n in (2, 1))
    assert objection(SPEC, view(0, 1, 2, 3), half) is None
    assert "leaves out" in str(objection(SPEC, view(0, 1, 2, 3), quarter))
    doubted = dict.fromkeys(listed(body)[1:], "harmful")
    assert objection(SPEC, view(0, 1, 2, 3, unfit=doubted), quarter) is None


def test_a_hearing_is_refused_before_we_have_looked_and_once_the_round_is_over() -> None:
    assert hearing(None, ROUND) == EARLY and hearing(view(0), ROUND + 1) == EARLY
    assert hearing(view(0), ROUND - 1) == "that round is over"
    assert hearing(view(0), ROUND) is None


def test_a_proposal_is_as_good_as_ours_if_it_leaves_out_nothing_that_we_find_fit() -> None:
    body = compose(SPEC, view(0, 1, 2), {})
    assert complete(SPEC, view(0, 1, 2), body) and complete(SPEC, view(0, 1, 2, 3, unfit={3: "harmful"}), body)
    assert not complete(SPEC, view(0, 1, 2, 3), body)
    assert complete(replace(SPEC, roster_size=3), view(0, 1, 2, 3), body)


def test_a_round_of_20_contributors_fits_into_what_bittensor_lets_a_hotkey_write() -> None:
    """At most 3 fields of 128 bytes a commitment, one commitment a hotkey, 3100 bytes an epoch of 360 blocks of which
    each write takes at least 100; a round of 115 blocks."""
    address = "/ip6/2001:0db8:85a3:0000:0000:8a2e:0370:7334/tcp/31330"
    identity = OnChainIdentity("12D3KooW" + "x" * 44, address, True).encode()
    vote = Vote(SPEC.tag, 1 << 31, h("digest"), BASE, b"\xff" * MAX_LACKED_BYTES).encode()
    assert max(len(identity), len(vote)) <= MAX_FIELD_BYTES and MAX_COMMITMENT_FIELDS >= 2
    votes_an_epoch = 3 * -(-360 // 115) + 1  # whoever proposes first may fail in two turns; and one for a new identity
    assert votes_an_epoch * max(100, len(identity) + len(vote)) <= 3100
    keys = [Hotkey.generate().hotkey for _ in range(20)]
    everybody = View(ROUND, NO_DIGEST, BASE, {k: commit(k) for k in keys}, frozenset(keys), {}, {})
    body = compose(SPEC, everybody, {})
    assert len(body.contributions) == 20 and roster.decode(body.encode()) == body
    assert objection(SPEC, everybody, body) is None
