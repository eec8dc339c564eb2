"""Changes of the run spec: how one comes to be proposed by whoever proposes next, and what of one is believed."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ballot_world import KEYS
from run_fixture import HOTKEYS, SPEC, TIMING, WrittenChain, h

from covenantd import revisions
from covenantd.agreement import Agreement
from covenantd.errors import ConfigError
from covenantd.journal import Journal
from covenantd.node import Node
from covenantd.roster import NO_DIGEST, Roster, Vote, alpha_bits
from covenantd.specchange import SpecChange, SpecHistory, sign
from p2p.errors import BlobUnavailable, PeerUnreachable, Refused
from p2p.manifest import Manifest, piece_hash

CHANGE = SpecChange(SPEC.run_id, 1, 10, {"alpha": 1.0})


@dataclass
class Peers:
    """Peers that share their blobs; each asks the others directly."""

    directory: Path
    chain: WrittenChain = field(default_factory=lambda: WrittenChain([1, 1, 1]))
    nodes: dict[int, Node] = field(default_factory=dict)
    handlers: dict[int, Any] = field(default_factory=dict)
    said: dict[int, str] = field(default_factory=dict)

    def put(self, data: bytes) -> str:
        digest = Manifest(len(data), SPEC.piece_bytes, piece_hash(data)).blob_id
        (self.directory / digest).write_bytes(data)
        return digest

    def add(self, uid: int) -> Node:
        async def adopt(path: Path, piece_bytes: int) -> str:
            return self.put(path.read_bytes())  # noqa: ASYNC240

        async def fetch(digest: str, *args: object, **options: object) -> Path:
            if not (self.directory / digest).exists():  # noqa: ASYNC240
                raise BlobUnavailable(digest)
            return self.directory / digest

        async def answer(protocol: str, handler: Any) -> None:
            self.handlers[uid] = handler

        async def ask(peer: str, protocol: str, message: object, seconds: float) -> object:
            if HOTKEYS.index(peer) not in self.handlers:
                raise PeerUnreachable(peer)
            return await self.handlers[HOTKEYS.index(peer)](HOTKEYS[uid], message)

        swarm = SimpleNamespace(
            answer=answer,
            ask=ask,
            by_hotkey=lambda hotkey: SimpleNamespace(peer_id=hotkey),
            by_peer_id=lambda peer: SimpleNamespace(hotkey=peer),
        )
        node: Any = SimpleNamespace(
            spec=SPEC,
            history=SpecHistory(SPEC),
            hotkey=KEYS[uid],
            swarm=swarm,
            exchange=SimpleNamespace(adopt=adopt, fetch=fetch),
            journal=Journal(self.directory / f"journal-{uid}", SPEC.run_id, SPEC.genesis_state),
            agreement=Agreement(self.chain, SPEC),
            heads=SimpleNamespace(number=TIMING.start(0)),
            board=SimpleNamespace(update=lambda last_error: self.said.update({uid: last_error})),
            staging=self.directory,
            traffic=SimpleNamespace(is_control=lambda digests: None),
            holders=lambda first=None: lambda: (),
        )
        self.nodes[uid] = cast(Node, node)
        return self.nodes[uid]


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


def document(change: SpecChange) -> bytes:
    return sign(change, KEYS[0])  # HOTKEYS[0] owns the run


def roster_of(round: int, previous: str = NO_DIGEST, changes: tuple[str, ...] = ()) -> Roster:
    return Roster(SPEC.run_id, round, previous, h(100 + round), 0, 0, alpha_bits(2.0), (), (), (), changes)


async def test_a_change_handed_to_one_certifier_is_proposed_by_all(peers: Peers) -> None:
    one, other = peers.add(0), peers.add(1)
    await revisions.serve(other)
    for node in (one, other):  # between two rounds: the state in which the next begins is not there yet
        node.journal.update(round=1)
        peers.chain.final = TIMING.start(1) - 1
    await revisions.offer(one, document(CHANGE))
    assert await revisions.hand_on(one) == 1  # the third does not answer
    digest = one.journal.memory.offered
    assert digest is not None and other.journal.memory.offered == digest
    assert await revisions.own_offer(other, 3) == digest
    assert await revisions.judge_offer(one, 3, (digest,)) == digest
    await revisions.hand_on(one)  # again: it has it
    await revisions.learn(other, (digest,))
    assert other.journal.memory.offered is None and other.history.at(10).alpha == 1.0


async def test_only_certifiers_hand_on_and_only_what_can_be_proposed(peers: Peers) -> None:
    peers.add(0)
    await revisions.serve(peers.nodes[0])
    take = peers.handlers[0]
    good = peers.put(document(CHANGE))
    with pytest.raises(Refused, match="not enrolled"):
        await take(HOTKEYS[5], {"digest": good})
    forged = peers.put(sign(CHANGE, KEYS[1]))
    for digest, words in ((forged, "not signed"), (h("nothing"), h("nothing")), (peers.put(b"{}"), "not a signed")):
        with pytest.raises(Refused, match=words):
            await take(HOTKEYS[1], {"digest": digest})
    assert peers.nodes[0].journal.memory.offered is None


async def test_a_change_that_begins_before_one_in_force_is_offered_and_voted_for_by_nobody(peers: Peers) -> None:
    """It would be signed, follow in number and even come in time; certified, it would stop every peer."""
    node = peers.add(0)
    node.history.add(CHANGE)
    node.journal.update(changes=(peers.put(document(CHANGE)),))
    for first in (9, 10):
        late = replace(CHANGE, revision=2, first_round=first)
        with pytest.raises(ConfigError, match=f"begins at round {first}, not after the last one, of round 10"):
            await revisions.offer(node, document(late))
        proposed = (*node.journal.memory.changes, peers.put(document(late)))
        assert await revisions.judge_offer(node, 0, proposed) is None
    fine = replace(CHANGE, revision=2, first_round=11)
    assert (await revisions.offer(node, document(fine))).revision == 2


async def test_a_change_that_can_no_longer_come_in_time_is_dropped_and_that_is_said(peers: Peers) -> None:
    node = peers.add(0)
    await revisions.offer(node, document(CHANGE))
    assert await revisions.own_offer(node, 8) is not None
    assert await revisions.own_offer(node, 9) is None
    assert node.journal.memory.offered is None
    assert "is dropped: it begins at round 10" in peers.said[0]
    with pytest.raises(ConfigError, match="a roster of round 0 can carry 2"):
        await revisions.offer(node, document(replace(CHANGE, first_round=1)))


async def test_a_change_that_another_has_overtaken_is_dropped_and_that_is_said(peers: Peers) -> None:
    node = peers.add(0)
    await revisions.offer(node, document(CHANGE))
    await revisions.learn(node, (peers.put(document(replace(CHANGE, changes={"alpha": 3.0}))),))
    assert await revisions.own_offer(node, 1) is None
    assert "spec change 1 begins at round 10, not after the last one" in peers.said[0]


# Looking up


async def _looked_up(peers: Peers, *, votes_at: int, head: int) -> Node:
    """A quorum votes for a roster of round 1 that carries a change, after a certified roster of round 0."""
    node, change = peers.add(0), peers.put(document(CHANGE))
    before = peers.put(roster_of(0).encode())
    carrier = peers.put(roster_of(1, before, (change,)).encode())
    for uid in range(3):
        peers.chain.votes.append((votes_at, uid, Vote(SPEC.tag, 1, carrier, h(101))))
    cast(Any, node.heads).number = head
    await revisions.look_up(node)
    return node


async def test_a_change_is_learnt_from_a_certified_roster(peers: Peers) -> None:
    node = await _looked_up(peers, votes_at=TIMING.vote(1), head=TIMING.vote(1))
    assert len(node.journal.memory.changes) == 1 and node.history.revision == 1


@pytest.mark.parametrize(
    ("votes_at", "head"),
    [
        (TIMING.vote(1) - 1, TIMING.vote(1) - 1),  # they may still move
        (TIMING.vote(1) + 1, TIMING.vote(1) + 2),  # they came too late
    ],
)
async def test_a_quorum_that_does_not_certify_is_not_believed(peers: Peers, votes_at: int, head: int) -> None:
    node = await _looked_up(peers, votes_at=votes_at, head=head)
    assert node.journal.memory.changes == () and node.history.revision == 0


async def test_what_the_roster_before_it_carries_is_believed_at_once(peers: Peers) -> None:
    node, change = peers.add(0), peers.put(document(CHANGE))
    before = peers.put(roster_of(0, NO_DIGEST, (change,)).encode())
    newest = peers.put(roster_of(1, before, (change,)).encode())
    for uid in range(2):
        peers.chain.votes.append((TIMING.start(1), uid, Vote(SPEC.tag, 1, newest, h(101))))
    cast(Any, node.heads).number = TIMING.start(1)
    await revisions.look_up(node)
    assert node.journal.memory.changes == (change,)
