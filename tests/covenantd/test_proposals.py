"""What certifiers propose and vote for; and, as a model of several of them, that they never agree on two rosters."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from run_fixture import HOTKEYS, SPEC, enrolled, h

from covenantd import roster
from covenantd.chain.keys import Hotkey
from covenantd.chain.protocol import MAX_COMMITMENT_FIELDS, MAX_FIELD_BYTES
from covenantd.commits import Commit
from covenantd.gauntlet.standing import Standing
from covenantd.proposals import EARLY, View, compose, hearing, objection
from covenantd.roster import NO_DIGEST, OnChainIdentity, Roster, Vote, alpha_bits
from p2p.manifest import Manifest, piece_hash

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


def test_a_hearing_is_refused_early_late_and_after_another_vote() -> None:
    assert hearing(None, None, ROUND, h("d")) == EARLY
    assert hearing(view(0), None, ROUND + 1, h("d")) == EARLY
    assert hearing(view(0), None, ROUND - 1, h("d")) == "that round is over"
    assert "voted already" in str(hearing(view(0), h("e"), ROUND, h("d")))
    assert hearing(view(0), h("d"), ROUND, h("d")) is None  # asked again: the answer was lost
    assert hearing(view(0), None, ROUND, h("d")) is None


def test_a_round_of_20_contributors_fits_into_what_bittensor_lets_a_hotkey_write() -> None:
    """At most 3 fields of 128 bytes a commitment, one commitment a hotkey, 3100 bytes an epoch of 360 blocks of which
    each write takes at least 100; a round of 115 blocks."""
    address = "/ip6/2001:0db8:85a3:0000:0000:8a2e:0370:7334/tcp/31330"
    identity = OnChainIdentity("12D3KooW" + "x" * 44, address, True).encode()
    vote = Vote(SPEC.tag, 1 << 31, h("digest"), BASE).encode()
    assert max(len(identity), len(vote)) <= MAX_FIELD_BYTES and MAX_COMMITMENT_FIELDS >= 2
    votes_an_epoch = -(-360 // 115) + 1  # and one for a new identity
    assert votes_an_epoch * max(100, len(identity) + len(vote)) <= 3100
    keys = [Hotkey.generate().hotkey for _ in range(20)]
    everybody = View(ROUND, NO_DIGEST, BASE, {k: commit(k) for k in keys}, frozenset(keys), {}, {})
    body = compose(SPEC, everybody, {})
    assert len(body.contributions) == 20 and roster.decode(body.encode()) == body
    assert objection(SPEC, everybody, body) is None


# Several certifiers at once


def digest(body: Roster) -> str:
    data = body.encode()
    return Manifest(len(data), 65536, piece_hash(data)).blob_id


@dataclass
class Certifier:
    """One certifier as `covenantd.ballot` runs it: `voted` is on disk, `view` is lost in a crash."""

    uid: int
    honest: bool
    seen: View
    view: View | None = None
    voted: str | None = None
    alive: bool = True
    sent: set[str] = field(default_factory=set)

    def hear(self, body: Roster) -> str | None:
        """The digest it votes for, or None."""
        wanted = digest(body)
        if not self.alive or hearing(self.view, self.voted, ROUND, wanted) is not None:
            return None
        assert self.view is not None
        if objection(SPEC, self.view, body) is not None:
            return None
        self.voted = wanted
        return wanted


class Agreement(RuleBasedStateMachine):
    """Certifiers that crash, lie, equivocate and are slow; messages that are lost, repeated and reordered; readers
    that look at the votes in the state of V_r. Dishonest stake may be anything below a third, for safety."""

    @initialize(
        stakes=st.lists(st.integers(1, 100), min_size=2, max_size=6),
        liars=st.sets(st.integers(0, 5)),
        seen=st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=6, max_size=6),
    )
    def start(self, stakes: list[int], liars: set[int], seen: list[set[int]]) -> None:
        total = sum(stakes)
        lying = [uid for uid in liars if uid < len(stakes)]
        while 3 * sum(stakes[uid] for uid in lying) >= total:
            lying.pop()
        self.stakes = stakes
        self.certifiers = [Certifier(uid, uid not in lying, view(*sorted(seen[uid]))) for uid in range(len(stakes))]
        self.public: dict[int, Vote] = {}  # the latest commitment of each, as the chain keeps it
        self.sent: list[Roster] = []
        self.read: list[Vote | None] = []
        self.ever: dict[int, set[str]] = {uid: set() for uid in range(len(stakes))}

    def publish(self, uid: int, wanted: str) -> None:
        self.public[uid] = Vote(SPEC.tag, ROUND, wanted, BASE)
        self.ever[uid].add(wanted)

    def pick(self, index: int) -> Certifier:
        return self.certifiers[index % len(self.certifiers)]

    @precondition(lambda self: not self.read)
    @rule(index=st.integers(0, 5))
    def looks(self, index: int) -> None:
        one = self.pick(index)
        one.view = one.seen if one.alive else None

    @precondition(lambda self: not self.read)
    @rule(index=st.integers(0, 5))
    def proposes(self, index: int) -> None:
        one = self.pick(index)
        if one.honest and one.alive and one.view is not None and one.voted is None:
            body = compose(SPEC, one.view, {})
            one.voted = digest(body)
            self.sent.append(body)

    @precondition(lambda self: not self.read and self.sent)
    @rule(index=st.integers(0, 5), which=st.integers(0, 20))
    def hears(self, index: int, which: int) -> None:
        """Any message may arrive at any time, any number of times, or never."""
        one = self.pick(index)
        if one.honest:
            one.hear(self.sent[which % len(self.sent)])

    @precondition(lambda self: not self.read)
    @rule(index=st.integers(0, 5))
    def publishes(self, index: int) -> None:
        one = self.pick(index)
        if one.honest and one.alive and one.voted is not None:
            self.publish(one.uid, one.voted)

    @precondition(lambda self: not self.read)
    @rule(index=st.integers(0, 5), subset=st.sets(st.integers(0, 5), min_size=1))
    def lies(self, index: int, subset: set[int]) -> None:
        """Proposes what it likes, tells everybody something else, and votes as often as it likes."""
        one = self.pick(index)
        if not one.honest:
            body = compose(SPEC, view(*sorted(subset)), {})
            self.sent.append(body)
            self.publish(one.uid, digest(body))

    @precondition(lambda self: not self.read)
    @rule(index=st.integers(0, 5))
    def crashes(self, index: int) -> None:
        one = self.pick(index)
        one.alive, one.view = not one.alive, None

    @rule()
    def votes_are_read(self) -> None:
        """Everybody reads the state of exactly V_r, however late: later votes are not in it."""
        if not self.read:
            self.at_vote = enrolled(self.stakes, dict(self.public), SPEC.timing.vote(ROUND))
        at_start = enrolled(self.stakes, {}, SPEC.timing.start(ROUND))
        self.read.append(roster.decide(at_start, self.at_vote, SPEC.tag, ROUND))

    @invariant()
    def an_honest_certifier_votes_once(self) -> None:
        for one in getattr(self, "certifiers", []):
            assert not one.honest or len(self.ever[one.uid]) <= 1

    @invariant()
    def nobody_can_have_seen_two_rosters_certified(self) -> None:
        """Not even readers of different blocks: of what anybody ever voted for, at most one digest has a quorum."""
        if not hasattr(self, "certifiers"):
            return
        assert len(set(self.read)) <= 1
        total = sum(self.stakes)
        all_digests = set().union(*self.ever.values()) if self.ever else set()
        won = [
            d for d in all_digests if roster.quorum(sum(self.stakes[u] for u in self.ever if d in self.ever[u]), total)
        ]
        assert len(won) <= 1

    @invariant()
    def what_is_certified_an_honest_quorum_part_holds(self) -> None:
        """At least a third of all stake is honest and holds every byte: what is rostered can be fetched."""
        certified = next((vote for vote in getattr(self, "read", []) if vote), None)
        if certified is None:
            return
        body = next(body for body in self.sent if digest(body) == certified.digest)
        wanted = {entry.hotkey for entry in body.contributions}
        holders = [c for c in self.certifiers if c.honest and c.voted == certified.digest]
        assert all(wanted <= c.seen.sound for c in holders)
        assert 3 * sum(self.stakes[c.uid] for c in holders) > sum(self.stakes)


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("stakes", [[1], [1, 1, 1], [2, 1], [5, 3, 3, 1], [1, 1, 1, 1]])
def test_two_thirds_honest_live_stake_and_a_proposal_in_time_always_certify(stakes: list[int]) -> None:
    """Whoever of the others is dead or dumb; whoever proposes."""
    total = sum(stakes)
    for mask in range(1, 1 << len(stakes)):
        live = [uid for uid in range(len(stakes)) if mask >> uid & 1]
        if not roster.quorum(sum(stakes[uid] for uid in live), total):
            continue
        for proposer in live:
            certifiers = {uid: Certifier(uid, True, view(0, 1), view(0, 1)) for uid in live}
            body = compose(SPEC, certifiers[proposer].seen, {})
            votes = {uid: Vote(SPEC.tag, ROUND, one.hear(body) or NO_DIGEST, BASE) for uid, one in certifiers.items()}
            decided = roster.decide(enrolled(stakes), enrolled(stakes, votes), SPEC.tag, ROUND)
            assert decided is not None and decided.digest == digest(body)
