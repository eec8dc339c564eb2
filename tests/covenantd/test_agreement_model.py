"""Several certifiers over several rounds, as a model that drives the real ballots: never two rosters for one round, and
with two thirds of the stake honest and live always one.

Liars propose what they like to whom they like and vote as often as they like, list what they do not serve or serve to
some alone, and say what they like of what they hold; miners serve some certifiers and not others, or later; honest
certifiers crash at any point and come back with their journal; heads are late; messages are lost, repeated, late and
out of order; a vote takes its time to be in the state and may come after the votes are read.
"""

import random
import tempfile
from pathlib import Path

import pytest
from ballot_world import RUN, STEP_BLOCKS, TIMING, Certifier, Post, World, run, view_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from run_fixture import HOTKEYS, h

from covenantd import missing, roster
from covenantd.holdings import HOLDING, PROOF
from covenantd.proposals import compose
from covenantd.roster import Vote
from covenantd.turns import EARLY

ROUNDS = 3
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # journals are made durable at every change
UIDS = st.integers(0, 5)


class Agreement(RuleBasedStateMachine):
    """Safety: whatever happens in whatever order, as long as liars have less than a third of the stake."""

    @initialize(
        stakes=st.lists(st.integers(1, 9), min_size=2, max_size=3)
        | st.lists(st.integers(3, 5), min_size=4, max_size=6),
        liars=st.permutations(range(6)),
        lags=st.lists(st.integers(0, 12), min_size=6, max_size=6),
        unseen=st.lists(st.sets(UIDS, max_size=2), min_size=6, max_size=6),
    )
    def start(self, stakes: list[int], liars: list[int], lags: list[int], unseen: list[set[int]]) -> None:
        """As many liars as there may be: one that does nothing is a dead one."""
        lying = [uid for uid in liars if uid < len(stakes)]
        while 3 * sum(stakes[uid] for uid in lying) >= sum(stakes):
            lying.pop()
        self.directory = tempfile.TemporaryDirectory(dir=IN_MEMORY)
        self.world = World(Path(self.directory.name), stakes, block=TIMING.serve(0))
        self.honest = [Certifier(self.world, uid) for uid in range(len(stakes)) if uid not in lying]
        self.lying, self.lags, self.seen = lying, lags, [set(range(6)) - one for one in unseen]
        self.round = 0
        self.cast: dict[tuple[int, int, int], set[str]] = {}
        self.opened: set[int] = set()
        self.had: dict[tuple[int, int], set[str]] = {}
        self.certified: dict[int, set[str | None]] = {}
        self.begin()

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.directory.cleanup()

    def begin(self) -> None:
        """Of a round: all that are up have looked."""
        self.look_at_heads()
        for one in self.honest:
            self.looks(one.uid)

    def pick(self, index: int) -> Certifier:
        return self.honest[index % len(self.honest)]

    def look_at_heads(self) -> None:
        for one in self.honest:
            one.see(max(0, self.world.block - self.lags[one.uid]))

    def held(self, one: Certifier) -> set[int]:
        return self.seen[(one.uid + self.round) % len(self.seen)]

    @rule(blocks=st.integers(1, STEP_BLOCKS))
    def time_passes(self, blocks: int) -> None:
        """As far as anybody goes: a round ends when all have read its votes."""
        self.world.block = min(self.world.block + blocks, TIMING.vote(self.round) + 12)
        self.look_at_heads()

    def looks(self, uid: int) -> None:
        one = next(one for one in self.honest if one.uid == uid)
        one.open(*self.held(one))
        self.opened.add(one.uid)

    @rule(index=UIDS)
    def looks_again(self, index: int) -> None:
        self.looks(self.pick(index).uid)

    @rule(index=UIDS)
    def its_turn_begins(self, index: int) -> None:
        one = self.pick(index)
        if one.uid in self.opened:
            one.take(one.turns.at(one.heads.number))

    @rule(index=UIDS)
    def asks_what_the_others_hold(self, index: int) -> None:
        one = self.pick(index)
        if one.uid in self.opened:
            one.survey()

    @rule(miner=UIDS, to=st.sets(UIDS, min_size=1))
    def a_miner_serves_some(self, miner: int, to: set[int]) -> None:
        """Itself, or through a liar."""
        self.world.given |= {(miner, uid) for uid in to}

    @rule(talks=st.booleans(), forged=st.booleans(), unproven=st.sets(UIDS, max_size=1))
    def liars_change_their_ways(self, talks: bool, forged: bool, unproven: set[int]) -> None:
        self.world.unproven = unproven
        told = {RUN.protocol(HOLDING): {"sound": list(HOTKEYS)}, RUN.protocol(PROOF): {"receipts": not forged}}
        self.world.lie = lambda liar, protocol: told[protocol] if talks and liar in self.lying else None

    @precondition(lambda self: self.world.posts)
    @rule(which=st.integers(0, 60))
    def hears(self, which: int) -> None:
        """Any message at any time, any number of times, or never."""
        post = self.world.posts[which % len(self.world.posts)]
        for one in self.honest:
            if one.uid == post.to:
                one.receive(post)

    @rule(index=UIDS, delay=st.integers(1, 20))
    def publishes(self, index: int, delay: int) -> None:
        one = self.pick(index)
        one.delay_blocks = delay
        one.publish()

    @rule(index=UIDS)
    def crashes(self, index: int) -> None:
        one = self.pick(index)
        one.crash()
        self.opened.discard(one.uid)
        self.look_at_heads()

    @precondition(lambda self: self.lying)
    @rule(index=UIDS, without=st.sets(UIDS, max_size=3), to=st.sets(UIDS), delay=st.integers(1, 9))
    def lies(self, index: int, without: set[int], to: set[int], delay: int) -> None:
        """Its proposals come at once or, as all messages, again later."""
        liar, memory = self.lying[index % len(self.lying)], self.honest[0].journal.memory
        view = view_of(self.round, memory.previous, memory.state_hash, sorted(set(range(6)) - without))
        digest = self.world.put(compose(RUN, view, {}))
        self.world.posts += [Post(liar, uid, {"round": self.round, "digest": digest}, self.world.block) for uid in to]
        self.world.vote(liar, Vote(RUN.tag, self.round, digest, memory.state_hash), delay)
        for one in self.honest:
            if one.uid in to:
                one.receive(next(post for post in reversed(self.world.posts) if post.to == one.uid))

    @precondition(lambda self: self.lying and self.world.bodies)
    @rule(index=UIDS, which=st.integers(0, 60), delay=st.integers(1, 9))
    def a_liar_votes_with_the_others(self, index: int, which: int, delay: int) -> None:
        digest = sorted(self.world.bodies)[which % len(self.world.bodies)]
        vote = Vote(RUN.tag, self.round, digest, self.honest[0].journal.memory.state_hash)
        self.world.vote(self.lying[index % len(self.lying)], vote, delay)

    @precondition(lambda self: self.round < ROUNDS and self.world.block >= TIMING.vote(self.round) + 12)
    @rule()
    def all_read_the_votes(self) -> None:
        """Each for itself in the state of exactly V_r, with what came later on chain too."""
        self.certified[self.round] = {one.finish() for one in self.honest}
        self.world.given = set()
        self.round += 1
        self.world.block = TIMING.serve(self.round)
        self.begin()

    @invariant()
    def an_honest_certifier_votes_once_a_turn(self) -> None:
        for one in getattr(self, "honest", []):
            if (voted := one.journal.memory.voted) is not None:
                self.cast.setdefault((one.uid, voted.round, voted.turn), set()).add(voted.digest)
        assert all(len(digests) == 1 for digests in getattr(self, "cast", {}).values())

    @invariant()
    def what_it_votes_for_it_holds(self) -> None:
        for one in getattr(self, "honest", []):
            had = self.had.setdefault((one.uid, one.round), set())
            had |= one.sound
            if (voted := one.ballot.voted(one.round)) is not None:
                assert {entry.hotkey for entry in self.world.bodies[voted.digest].contributions} <= had

    @invariant()
    def nobody_has_seen_two_rosters_certified(self) -> None:
        assert all(len(digests) == 1 for digests in getattr(self, "certified", {}).values())
        assert len({one.journal.memory.state_hash for one in getattr(self, "honest", [])}) <= 1

    @invariant()
    def what_is_certified_is_of_its_round_and_held_by_a_third_of_the_stake_that_is_honest(self) -> None:
        for round, [digest] in getattr(self, "certified", {}).items():
            if digest is not None:
                body = self.world.bodies[digest]
                voters = [one for one in self.honest if digest in self._cast_in(one.uid, round)]
                wanted = {entry.hotkey for entry in body.contributions}
                assert body.round == round
                assert all(wanted <= self.had[one.uid, round] for one in voters)
                assert 3 * sum(self.world.stakes[one.uid] for one in voters) > sum(self.world.stakes)

    def _cast_in(self, uid: int, round: int) -> set[str]:
        return {d for (who, at, _), digests in self.cast.items() if (who, at) == (uid, round) for d in digests}


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


# Liveness: time passes block by block, and what is sent arrives within bounds that add up to a turn

LAG, DELIVERY, INCLUSION = 2, 1, STEP_BLOCKS - 3
SELECTIVE = (1, 2, 3, 4)  # miners; 0 serves everybody, 5 has committed to nothing


class Theatre:
    """Rounds with two thirds of the stake honest and live. `chance` decides what is left to chance, the liars, and whom
    miners serve."""

    def __init__(self, world: World, failing: dict[int, bool], chance: random.Random) -> None:
        """`failing`: uid -> whether it lies; else it is dead."""
        self.world, self.chance = world, chance
        self.honest = {uid: Certifier(world, uid) for uid in range(len(world.stakes)) if uid not in failing}
        self.liars = [uid for uid, lies in failing.items() if lies]
        self.lags = {uid: chance.randint(0, LAG) for uid in self.honest}
        self.round = 0
        self.held: dict[int, set[str]] = {}  # from the miners themselves
        world.unproven, world.lie = {5}, self.answer

    def play(self) -> str | None:
        """One round; what its honest certifiers find certified."""
        pending: dict[tuple[int, int], int] = {}  # (index of the post) -> when it is delivered next
        taken: dict[int, int] = dict.fromkeys(self.honest, -1)
        self.world.posts.clear()
        self.world.given.clear()
        favourites = self.chance.sample(list(self.honest), self.chance.randint(0, len(self.honest)))
        for uid, one in self.honest.items():
            likely = 0.9 if uid in favourites else 0.1
            served = [miner for miner in SELECTIVE if self.chance.random() < likely]
            self.held[uid] = {HOTKEYS[miner] for miner in (0, *served)}
            one.open(0, *served, lacking=[m for m in SELECTIVE if m not in served and self.chance.random() < 0.7])
        for block in range(TIMING.serve(self.round), TIMING.vote(self.round) + LAG + 1):
            self.world.block = block
            for uid, one in self.honest.items():
                one.see(self.world.block - self.lags[uid])
                self.act(one, taken)
            self.lie()
            for index, post in enumerate(self.world.posts):
                self.deliver(index, post, pending)
        self.judge()
        [digest] = {one.finish() for one in self.honest.values()}
        self.round += 1
        return digest

    def judge(self) -> None:
        """At fault for a missing contribution is only who kept it from a third of the stake at least that is honest."""
        one = next(iter(self.honest.values()))
        certified = run(lambda: one.agreement.decision(self.round))
        if certified is None:
            return
        body = self.world.bodies[certified.digest]
        guilty = run(lambda: one.agreement.at_fault(certified, body))
        named = missing.named(body)
        assert HOTKEYS[0] not in guilty and HOTKEYS[5] not in guilty and guilty <= set(named)
        for hotkey in guilty:
            told = [uid for uid, one in self.honest.items() if self.reports(one, certified.digest, named.index(hotkey))]
            assert 3 * sum(self.world.stakes[uid] for uid in told) > sum(self.world.stakes)

    def reports(self, one: Certifier, digest: str, place: int) -> bool:
        voted = one.ballot.voted(self.round)
        bits = int.from_bytes(bytes.fromhex(voted.lacked), "little") if voted and voted.digest == digest else 0
        return bool(bits >> place & 1)

    def act(self, one: Certifier, taken: dict[int, int]) -> None:
        turn, own = one.turns.at(one.heads.number), one.turns.of(one.hotkey)
        if one.heads.number >= TIMING.serve(self.round) and turn > taken[one.uid]:
            taken[one.uid] = turn
            if own is not None and turn == max(0, own - 1):  # before its turn, or in it if it is the first
                one.survey()
            one.take(turn)
            self.publish(one)

    def publish(self, one: Certifier) -> None:
        """One publisher a certifier: it never writes the same vote twice."""
        voted = one.ballot.voted(self.round)
        public = [vote.digest for _, uid, vote in self.world.chain.votes if uid == one.uid and vote.round == self.round]
        if voted is not None and public[-1:] != [voted.digest]:
            body = self.world.bodies[voted.digest]
            assert {entry.hotkey for entry in body.contributions} <= one.sound
            lacked = {name for i, name in enumerate(missing.named(body)) if self.reports(one, voted.digest, i)}
            assert lacked.isdisjoint({HOTKEYS[0], HOTKEYS[5]}) and lacked <= set(HOTKEYS) - self.held[one.uid]
            one.delay_blocks = self.chance.randint(1, INCLUSION)
            one.publish()

    def deliver(self, index: int, post: Post, due: dict[tuple[int, int], int]) -> None:
        """An early one is asked again, as `Ballot` does."""
        at = due.setdefault((index, 0), post.block + self.chance.randint(0, DELIVERY))
        if self.world.block >= at and post.to in self.honest:
            again = self.honest[post.to].receive(post) == EARLY
            self.publish(self.honest[post.to])
            due[index, 0] = self.world.block + 1 if again else 1 << 60

    def lie(self) -> None:
        memory = next(iter(self.honest.values())).journal.memory
        for liar in self.liars:
            if self.chance.random() < 0.3:
                listed = self.chance.sample(range(6), self.chance.randint(1, 5))
                kept = [miner for miner in range(6) if miner not in listed]
                view = view_of(self.round, memory.previous, memory.state_hash, listed, kept)
                message = {"round": self.round, "digest": self.world.put(compose(RUN, view, {}))}
                to = self.chance.sample(list(self.honest), self.chance.randint(1, len(self.honest)))
                self.world.posts += [Post(liar, uid, message, self.world.block) for uid in to]
                self.world.given |= {(miner, uid) for miner in listed for uid in to if self.chance.random() < 0.6}
            if self.chance.random() < 0.3:
                digest = self.chance.choice([*sorted(self.world.bodies), h("nonsense")])
                reports = self.chance.choice([b"", b"\xff"])
                vote = Vote(RUN.tag, self.round, digest, memory.state_hash, reports)
                self.world.vote(liar, vote, self.chance.randint(1, 3))

    def answer(self, uid: int, protocol: str) -> object:
        """A liar's, or silence."""
        if uid not in self.liars or self.chance.random() < 0.3:
            return None
        listed = self.chance.sample(list(HOTKEYS), self.chance.randint(0, 6))
        return {"sound": listed, "receipts": self.chance.random() < 0.8}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stakes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    failing=st.dictionaries(UIDS, st.booleans()),
    chance=st.randoms(use_true_random=False),
)
@example([1, 1, 1, 1], {0: True}, random.Random(1))
@example([1, 1, 1, 1, 1, 1], {0: True, 1: True}, random.Random(2))
@example([1, 1, 1, 1, 1, 1], {0: False, 1: True}, random.Random(3))
@example([5, 3, 3, 1], {1: True}, random.Random(4))
def test_two_thirds_honest_live_stake_always_certify(
    stakes: list[int], failing: dict[int, bool], chance: random.Random
) -> None:
    while 3 * sum(stakes[uid] for uid in failing if uid < len(stakes)) > sum(stakes):
        failing = dict(list(failing.items())[:-1])
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        world = World(Path(directory), stakes)
        theatre = Theatre(world, {uid: lies for uid, lies in failing.items() if uid < len(stakes)}, chance)
        for round in range(ROUNDS):
            digest = theatre.play()
            assert digest is not None and world.bodies[digest].round == round
            assert roster.quorum(
                sum(
                    stakes[uid]
                    for uid, one in theatre.honest.items()
                    if (voted := one.journal.memory.voted) is not None and voted.digest == digest
                ),
                sum(stakes),
            )  # without the liars' help


def order_of(count: int) -> list[int]:
    """Uids of equal stake in the order they propose in."""
    return sorted(range(count), key=lambda uid: HOTKEYS[uid])


@pytest.mark.parametrize("liar_stays", [True, False])
def test_who_proposes_first_cannot_void_a_round_by_proposing_two_rosters(tmp_path: Path, liar_stays: bool) -> None:
    """One to one certifier, another to two, both fine; then it votes for nonsense, or with some and not to the end."""
    world = World(tmp_path, [1, 1, 1, 1], block=TIMING.serve(0))
    liar, *others = order_of(4)
    honest = [Certifier(world, uid) for uid in others]
    for one, holds in zip(honest, ([0, 1], [0], [0]), strict=True):
        one.see(world.block)
        one.open(0, 1)
        digest = world.put(compose(RUN, view_of(0, roster.NO_DIGEST, RUN.genesis_state, holds), {}))
        assert one.receive(Post(liar, one.uid, {"round": 0, "digest": digest}, world.block)) is None
        one.publish()
    world.vote(liar, Vote(RUN.tag, 0, digest if liar_stays else h("nonsense"), RUN.genesis_state), 1)
    world.block = honest[0].turns.blocks[1]
    for one in honest:
        one.see(world.block)
    for one in honest:
        one.take(1)
    for post in world.posts:
        if post.to != liar:
            assert {one.uid: one for one in honest}[post.to].receive(post) is None
    for one in honest:
        one.publish()
    world.vote(liar, Vote(RUN.tag, 0, h("nonsense"), RUN.genesis_state), 2)
    assert len({one.finish() for one in honest} - {None}) == 1
    assert run(lambda: honest[0].agreement.decision(0)) is not None
