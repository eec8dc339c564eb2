"""A joiner verifies backwards: from one quorum read on chain, roster by roster, to where it is itself."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from run_fixture import HOTKEYS, SPEC, TIMING, WrittenChain, h

from covenantd import catchup, gather
from covenantd.agreement import Agreement
from covenantd.gather import Certified
from covenantd.node import Node
from covenantd.roster import NO_DIGEST, BadRoster, Entry, Roster, Vote, alpha_bits
from p2p.errors import BlobUnavailable
from p2p.manifest import Manifest, piece_hash

ROUNDS = 24
VOID = (3, 4, 9, 17)
CERTIFIED = [round for round in range(ROUNDS) if round not in VOID]


@dataclass
class Past:
    """What peers serve of a run, and what its chain says."""

    directory: Path
    digests: dict[int, str] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    settled: dict[int, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chain = WrittenChain([1, 1, 1])
        previous = NO_DIGEST
        for round in CERTIFIED:
            previous = self.digests[round] = self.put(self.body(round, previous))
            for uid in range(3):
                vote = Vote(SPEC.tag, round, previous, h(100 + round))
                self.chain.votes.append((TIMING.vote(round), uid, vote))

    def body(self, round: int, previous: str, run_id: str = SPEC.run_id) -> Roster:
        entries = (Entry(HOTKEYS[round % 2], h(f"blob{round}"), 10),)
        return Roster(run_id, round, previous, h(100 + round), 0, 0, alpha_bits(2.0), entries, (), ())

    def put(self, body: Roster) -> str:
        data = body.encode()
        digest = Manifest(len(data), SPEC.piece_bytes, piece_hash(data)).blob_id
        (self.directory / digest).write_bytes(data)
        return digest

    def joiner(self, round: int, previous: str = NO_DIGEST) -> Node:
        async def fetch(digest: str, *args: object, **options: object) -> Path:
            self.served.append(digest)
            if not (self.directory / digest).exists():  # noqa: ASYNC240
                raise BlobUnavailable(digest)
            return self.directory / digest

        async def settle(order: Any, kind: object) -> None:
            self.settled[order.round] = order.own_included

        node: Any = SimpleNamespace(
            spec=SPEC,
            hotkey=SimpleNamespace(hotkey=HOTKEYS[0]),
            journal=SimpleNamespace(memory=SimpleNamespace(round=round, previous=previous, sealed=None)),
            agreement=Agreement(self.chain, SPEC),
            exchange=SimpleNamespace(fetch=fetch),
            engine=SimpleNamespace(order=settle),
            traffic=SimpleNamespace(is_control=lambda digests: None),
            holders=lambda first=None: lambda: (),
        )
        return cast(Node, node)


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def rounds(found: list[Certified]) -> list[int]:
    return [one.body.round for one in found]


async def test_a_joiner_takes_the_last_rounds_back_from_one_quorum_over_void_ones(past: Past) -> None:
    found = await catchup.missed_rosters(past.joiner(0), ROUNDS - 1)
    assert rounds(found) == CERTIFIED[-catchup.REPLAYED_ROUNDS :] and CERTIFIED[0] not in rounds(found)
    assert [one.digest for one in found] == [past.digests[round] for round in rounds(found)]
    assert len(set(past.chain.read)) <= 3  # one quorum: what came before hangs from it


async def test_who_was_away_takes_what_it_missed_and_nothing_before(past: Past) -> None:
    found = await catchup.missed_rosters(past.joiner(16, past.digests[15]), ROUNDS - 1)
    assert rounds(found) == [16, 18, 19, 20, 21, 22, 23]
    assert past.digests[15] not in past.served
    assert await catchup.missed_rosters(past.joiner(ROUNDS, past.digests[23]), ROUNDS - 1) == []


async def test_through_void_rounds_there_is_nothing_to_take(past: Past) -> None:
    assert await catchup.missed_rosters(past.joiner(3, past.digests[2]), 4) == []
    found = await catchup.missed_rosters(past.joiner(3, past.digests[2]), 5)
    assert rounds(found) == [5]


async def test_a_quorum_of_another_history_is_no_continuation_of_ours(past: Past) -> None:
    """Our journal says another roster came before: rounds from ours on are taken, the one before them is looked at
    and not taken; `catch_up` then sees that they do not continue what we have."""
    found = await catchup.missed_rosters(past.joiner(20, h("forged")), ROUNDS - 1)
    assert rounds(found) == [20, 21, 22, 23] and found[0].body.previous != h("forged")


async def test_a_predecessor_that_is_no_roster_of_the_run_ends_the_search(past: Past) -> None:
    """Bytes that do not hash to the digest never get here; a certified body cannot name another run's either, unless
    a quorum lies: then nothing of it is believed."""
    foreign = past.put(past.body(21, past.digests[20], run_id=h("another run")))
    newest = past.put(past.body(22, foreign))
    for uid in range(3):
        past.chain.votes.append((TIMING.vote(23) + 1, uid, Vote(SPEC.tag, 24, newest, h(124))))
    node = past.joiner(18, past.digests[16])
    with pytest.raises(BadRoster, match="is of run"):
        await catchup.missed_rosters(node, 24)
    garbage = Manifest(3, SPEC.piece_bytes, piece_hash(b"abc")).blob_id
    (past.directory / garbage).write_bytes(b"abc")
    with pytest.raises(BadRoster, match="not a roster body"):
        await gather.certified_roster(node, garbage)


async def test_a_roster_of_another_round_than_was_voted_on_is_refused(past: Past) -> None:
    with pytest.raises(BadRoster, match="round 7"):
        await gather.certified_roster(past.joiner(0), past.digests[7], round=8)
    assert (await gather.certified_roster(past.joiner(0), past.digests[7], round=7)).body.round == 7


async def test_what_was_sent_in_skipped_rounds_settles_as_their_rosters_say_however_far_back(past: Past) -> None:
    node = past.joiner(ROUNDS)
    missed = await catchup.missed_rosters(past.joiner(20, past.digests[19]), ROUNDS - 1)
    await catchup._settle(node, (1, 2, 3, 8, 18, 22), missed)
    assert past.settled == {1: False, 2: True, 3: False, 8: True, 18: True, 22: True}


async def test_what_cannot_be_found_out_stays_pending(past: Past) -> None:
    missed = await catchup.missed_rosters(past.joiner(20, past.digests[19]), ROUNDS - 1)
    (past.directory / past.digests[12]).unlink()
    await catchup._settle(past.joiner(ROUNDS), (2, 13, 14), missed)
    assert past.settled == {13: False, 14: True}
