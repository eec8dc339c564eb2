"""What a certifier takes for committed in time: its own book, and what lies in the DHT beside the commits."""

import time
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ballot_world import KEYS
from run_fixture import HOTKEYS, SPEC, TIMING, h

from covenantd import commits, gather, miner
from covenantd.chain.keys import Hotkey, verify
from covenantd.commitdesk import CommitDesk
from covenantd.commits import COMMITTED, MAX_RECEIPTS
from covenantd.node import Node
from covenantd.receipts import RECEIPT_BYTES, Receipt, open_receipt, sign_receipt
from p2p import records
from p2p.errors import ProtocolViolation, RecordRejected
from p2p.records import MAX_RECORD_BYTES, Record
from p2p.wire import Fields

ROUND, BASE = 2, h("base")
PEER = "12D3KooW" + "x" * 44
SEALED = miner.SealedContribution(ROUND, h("blob"), 1000, 5, BASE)


@dataclass
class Ground:
    """A node's surroundings: who certifies with what stake, and what the DHT says."""

    stakes: dict[str, int]
    own: int = 0
    shown: list[Record] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def node(self) -> Node:
        async def certifiers(round: int) -> dict[str, int]:
            return self.stakes

        async def registered(round: int) -> frozenset[str]:
            return frozenset(HOTKEYS)

        async def lookup(kind: str, round: int) -> list[Record]:
            return self.shown

        made: Any = SimpleNamespace(
            spec=SPEC,
            hotkey=KEYS[self.own],
            heads=SimpleNamespace(number=TIMING.commit(ROUND)),
            journal=SimpleNamespace(memory=SimpleNamespace(round=ROUND, state_hash=BASE)),
            contribution_bytes=1000,
            agreement=SimpleNamespace(certifiers=certifiers, registered=registered),
            swarm=SimpleNamespace(peer_id=PEER, lookup=lookup),
            metrics=SimpleNamespace(count_contribution=lambda reason: self.counted.update([reason])),
            board=SimpleNamespace(update=lambda **shown: None),
        )
        return cast(Node, made)

    def show(self, author: int, signed: bytes, receipts: list[bytes]) -> None:
        body = {"commit": signed, "receipts": receipts}
        data = sign(KEYS[author], COMMITTED, body)
        self.shown.append(records.open_record(data, verify, run_id=SPEC.run_id, kind=COMMITTED))


def sign(key: Hotkey, kind: str, body: object) -> bytes:
    return records.sign(key, run_id=SPEC.run_id, kind=kind, round=ROUND, peer_id=PEER, body=body, issued_at=time.time())


def commit(author: int, blob: str = "blob") -> bytes:
    body = {"blob_id": h(blob), "size": 1000, "base_state_hash": BASE, "inner_steps": 5}
    return sign(KEYS[author], commits.COMMIT, body)


def receipt(certifier: Hotkey, signed: bytes, block: int = TIMING.commit(ROUND)) -> bytes:
    return sign_receipt(certifier, commits.digest(signed), block)


async def test_a_validator_that_forgot_its_receipts_in_a_crash_finds_them_in_the_dht() -> None:
    ground = Ground({HOTKEYS[0]: 5})
    signed = commit(3)
    ground.show(3, signed, [receipt(KEYS[0], signed)])
    proven = await CommitDesk(ground.node()).proven(ROUND)
    assert list(proven) == [HOTKEYS[3]] and proven[HOTKEYS[3]].blob_id == h("blob")


async def test_what_it_receipted_after_the_crash_and_before_it_are_both_proven() -> None:
    ground = Ground({HOTKEYS[0]: 5})
    before, after = commit(3), commit(4)
    ground.show(3, before, [receipt(KEYS[0], before)])
    desk = CommitDesk(ground.node())
    await desk._receive(PEER, {"commit": after})
    assert set(await desk.proven(ROUND)) == {HOTKEYS[3], HOTKEYS[4]}


async def test_who_committed_to_another_blob_before_our_crash_is_found_out() -> None:
    ground = Ground({HOTKEYS[0]: 5})
    before, after = commit(3), commit(3, "other")
    ground.show(3, before, [receipt(KEYS[0], before)])
    desk = CommitDesk(ground.node())
    await desk._receive(PEER, {"commit": after})
    assert await desk.proven(ROUND) == {} and (await desk.book(ROUND)).equivocators == {HOTKEYS[3]}


@pytest.mark.parametrize(("by", "proven"), [((0, 1), False), ((0, 1, 2), True), ((1, 2), False), ((1, 2, 3), True)])
async def test_receipts_of_two_thirds_of_the_stake_prove_a_commit(by: tuple[int, ...], proven: bool) -> None:
    ground = Ground(dict.fromkeys(HOTKEYS[:4], 1))
    signed = commit(5)
    ground.show(5, signed, [receipt(KEYS[i], signed) for i in by])
    assert bool(await CommitDesk(ground.node()).proven(ROUND)) is proven


async def test_our_own_receipt_counts_once_whether_it_is_shown_or_only_in_the_book() -> None:
    ground = Ground(dict.fromkeys(HOTKEYS[:3], 1))
    signed = commit(5)
    ground.show(5, signed, [receipt(KEYS[i], signed) for i in (0,)])
    desk = CommitDesk(ground.node())
    await desk._receive(PEER, {"commit": signed})
    assert await desk.proven(ROUND) == {}
    ground.shown.clear()
    ground.show(5, signed, [receipt(KEYS[1], signed)])
    assert set(await desk.proven(ROUND)) == {HOTKEYS[5]}


async def test_a_bad_record_is_counted_once_however_often_it_is_seen() -> None:
    ground = Ground(dict.fromkeys(HOTKEYS[:3], 1))
    ground.show(4, b"garbage", [])
    ground.show(5, commit(4), [])  # another's commit
    desk = CommitDesk(ground.node())
    for _ in range(5):
        assert await desk.proven(ROUND) == {}
    assert sum(ground.counted.values()) == 2
    rejected: set[str] = set()
    await gather.mirrored(ground.node(), ROUND, rejected)
    assert sum(ground.counted.values()) == 4 and rejected == {HOTKEYS[4], HOTKEYS[5]}


# What another certifier shows


@pytest.mark.parametrize(("by", "proven"), [((0, 1), False), ((0, 1, 2), True), ((1, 1, 2), False)])
async def test_another_certifier_proves_a_commit_as_its_author_would(by: tuple[int, ...], proven: bool) -> None:
    signed = commit(5)
    shown = Fields({"commit": signed, "receipts": [receipt(KEYS[i], signed) for i in by]})
    desk = CommitDesk(Ground(dict.fromkeys(HOTKEYS[:4], 1)).node())
    found = await desk.believe(ROUND, HOTKEYS[5], shown)
    assert (found is not None) is proven and (desk.proof(ROUND, HOTKEYS[5]) is not None) is proven


async def test_what_one_desk_holds_for_proven_convinces_another_even_one_that_was_shown_a_different_commit() -> None:
    """Two show their receipts; the third has its own, which the author does not show."""
    stakes = dict.fromkeys(HOTKEYS[:4], 1)
    signed, shown = commit(5), Ground(stakes, own=2)
    shown.show(5, signed, [receipt(KEYS[i], signed) for i in (0, 1)])
    third, fourth = CommitDesk(shown.node()), CommitDesk(Ground(stakes, own=3).node())
    await third._receive(PEER, {"commit": signed})
    await fourth._receive(PEER, {"commit": commit(5, "other")})
    assert set(await third.proven(ROUND)) == {HOTKEYS[5]}
    proof = third.proof(ROUND, HOTKEYS[5])
    assert proof is not None and third.proof(ROUND + 1, HOTKEYS[5]) is None
    found = await fourth.believe(ROUND, HOTKEYS[5], Fields(proof.body()))
    assert found == proof.commit and found.blob_id == h("blob")


async def test_a_miner_that_signed_its_commit_again_is_proven_to_others_all_the_same() -> None:
    """We have receipted the one, its record shows the other: we sign for that too, as of the same block."""
    first, again, ground = commit(5), commit(5), Ground(dict.fromkeys(HOTKEYS[:3], 1), own=2)
    assert first != again
    ground.show(5, again, [receipt(KEYS[0], again)])
    desk = CommitDesk(ground.node())
    await desk._receive(PEER, {"commit": first})
    await desk.proven(ROUND)
    proof = desk.proof(ROUND, HOTKEYS[5])
    assert proof is not None and proof.signed == again
    assert await CommitDesk(Ground(ground.stakes).node()).believe(ROUND, HOTKEYS[5], Fields(proof.body()))


async def test_what_proves_another_commit_or_is_no_receipt_is_refused() -> None:
    desk, signed = CommitDesk(Ground(dict.fromkeys(HOTKEYS[:3], 1)).node()), commit(5)
    for shown in (
        {"commit": signed, "receipts": [receipt(key, commit(4)) for key in KEYS[:3]]},
        {"commit": commit(4), "receipts": [receipt(key, commit(4)) for key in KEYS[:3]]},
        {"commit": signed, "receipts": [receipt(key, signed, TIMING.commit(ROUND) + 1) for key in KEYS[:3]]},
        {"commit": signed, "receipts": ["no bytes"]},
        {"receipts": []},
    ):
        with pytest.raises(ProtocolViolation):
            await desk.believe(ROUND, HOTKEYS[5], Fields(shown))


# Receipts


def test_a_receipt_is_of_who_signed_it_for_one_commit_and_block() -> None:
    digest = commits.digest(commit(5))
    data = sign_receipt(KEYS[1], digest, 1 << 40)
    assert open_receipt(data, digest) == Receipt(HOTKEYS[1], 1 << 40) and len(data) == RECEIPT_BYTES == 104
    with pytest.raises(RecordRejected, match="signature"):
        open_receipt(data, commits.digest(commit(5)))
    for place in range(RECEIPT_BYTES):
        with pytest.raises(RecordRejected, match="signature"):
            open_receipt(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], digest)


@pytest.mark.parametrize("data", [b"", bytes(103), bytes(104), bytes(105), "x" * 104, 7, None])
def test_what_is_no_receipt_is_refused(data: object) -> None:
    with pytest.raises(RecordRejected):
        open_receipt(data, h("commit"))


@pytest.mark.parametrize(("by", "block"), [(1, TIMING.commit(ROUND)), (0, TIMING.commit(ROUND) + 1), (0, 0)])
def test_a_miner_keeps_no_receipt_that_would_prove_nothing(by: int, block: int) -> None:
    signed, node = commit(5), Ground({}).node()
    with pytest.raises(RecordRejected):
        miner._receipt(node, HOTKEYS[0], ROUND, signed, receipt(KEYS[by], signed, block))
    assert miner._receipt(node, HOTKEYS[0], ROUND, signed, good := receipt(KEYS[0], signed)).signed == good


# What a miner shows


def test_receipts_of_the_largest_stakes_are_shown_and_no_more_than_prove_it() -> None:
    stakes = dict(zip("abcdef", [1, 5, 1, 4, 1, 3], strict=True))
    receipts = {name: miner.Receipt(name, name.encode()) for name in stakes}
    assert miner._weightiest(receipts, stakes) == [b"b", b"d", b"f"]
    assert miner._weightiest({n: receipts[n] for n in "ac"}, stakes) == [b"a", b"c"]


async def test_of_ninety_equal_certifiers_enough_receipts_fit_into_a_record() -> None:
    keys = [Hotkey.generate() for _ in range(90)]
    stakes = {key.hotkey: 1 for key in keys}
    signed = commit(5)
    receipts = {key.hotkey: miner.Receipt(key.hotkey, receipt(key, signed, 1 << 31)) for key in keys}
    shown = miner._weightiest(receipts, stakes)
    assert len(shown) == 60 <= MAX_RECEIPTS
    longest = [*shown, *shown][:MAX_RECEIPTS]
    assert len(sign(KEYS[5], COMMITTED, {"commit": signed, "receipts": longest})) <= MAX_RECORD_BYTES
    ground = Ground(stakes)
    ground.show(5, signed, [receipt(key, signed) for key in keys[:60]])
    assert set(await CommitDesk(ground.node()).proven(ROUND)) == {HOTKEYS[5]}
