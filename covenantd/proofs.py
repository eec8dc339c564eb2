"""What proves a commit in time: the signed record and receipts of certifiers. It proves the same whoever shows it, its
author in the DHT or a certifier that another asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from covenantd import commits
from covenantd.chain.keys import verify
from covenantd.commits import Commit
from covenantd.node import Node
from covenantd.receipts import Receipt, open_receipt
from covenantd.timing import Timing
from p2p.errors import RecordRejected
from p2p.records import open_record
from p2p.wire import Fields


@dataclass(frozen=True)
class Proof:
    """A commit, and the stake of each certifier whose receipt for it, in time, lies beside it."""

    commit: Commit
    stakes: Mapping[str, int]
    signed: bytes
    receipts: tuple[bytes, ...] = field(repr=False)

    def body(self) -> dict[str, object]:
        """As it is shown to others: what `opened` reads."""
        return {"commit": self.signed, "receipts": list(self.receipts)}


def opened(node: Node, fields: Fields, hotkey: str, round: int, enrolled: Mapping[str, int]) -> Proof:
    """Raises ProtocolViolation for what is no commit of `hotkey` in that round, or no receipt for it."""
    signed = fields.raw("commit", max_bytes=commits.MAX_RECORD_BYTES)
    inner = open_record(signed, verify, run_id=node.spec.run_id, kind=commits.COMMIT, round=round, hotkey=hotkey)
    commit, receipts = commits.from_record(inner), fields.items("receipts", commits.MAX_RECEIPTS + 1)
    signers = [_in_time(node, receipt, round, commits.digest(signed)) for receipt in receipts]
    return Proof(commit, {who: enrolled[who] for who in signers if who in enrolled}, signed, tuple(receipts))


def _in_time(node: Node, receipt: object, round: int, digest: str) -> str:
    """Who signed it. Raises ProtocolViolation if it is not a receipt, in time, for that commit."""
    one = open_receipt(receipt, digest)
    check_in_time(node.spec.timing, one, round)
    return one.hotkey


def check_in_time(timing: Timing, receipt: Receipt, round: int) -> None:
    """Raises RecordRejected."""
    if not timing.start(round) <= receipt.block <= timing.commit(round):
        raise RecordRejected("malformed", f"a receipt of block {receipt.block}")
