"""Commits: how a peer binds itself to its contribution before anyone can read it, and the receipts for it.

A certifier keeps a `CommitBook` a round. A commit is in time when certifiers with at least 2/3 of the stake have
signed receipts that name a block not after C_r. Two different commits for one round exclude their author.
"""

from dataclasses import dataclass, field

from blake3 import blake3

from covenantd.roster import is_hash
from p2p.errors import ProtocolViolation, RecordRejected
from p2p.protocols import PeerId
from p2p.records import Record
from p2p.wire import Fields

COMMIT, COMMITTED = "commit", "committed"
MAX_RECEIPTS = 64  # as many fit into a record beside their commit: 2/3 of 96 certifiers of equal stake
MAX_RECORD_BYTES = 4096
EARLY = "early"  # the one refusal worth another try


class CommitRefused(Exception):
    """`reason` is a stable word: late, early, stranger, base, equivocated, size."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Commit:
    """What a commit record says, with who signed it."""

    hotkey: str
    peer_id: PeerId
    round: int
    blob_id: str
    size: int
    base_state_hash: str
    inner_steps: int

    def body(self) -> dict[str, object]:
        return {
            "blob_id": self.blob_id,
            "size": self.size,
            "base_state_hash": self.base_state_hash,
            "inner_steps": self.inner_steps,
        }


def from_record(record: Record) -> Commit:
    """Raises RecordRejected("malformed")."""
    try:
        fields = Fields(record.content())
        blob_id, base = fields.text("blob_id", 64), fields.text("base_state_hash", 64)
        size, steps = fields.number("size", 1, 1 << 48), fields.number("inner_steps", 0, 1 << 31)
    except RecordRejected:
        raise
    except ProtocolViolation as error:
        raise RecordRejected("malformed", str(error)) from error
    if not is_hash(blob_id) or not is_hash(base):
        raise RecordRejected("malformed", "hash")
    return Commit(record.hotkey, record.peer_id, record.round, blob_id, size, base, steps)


def digest(signed: bytes) -> str:
    """What a receipt names: the hash of the whole signed commit record."""
    return blake3(signed).hexdigest()


@dataclass(frozen=True)
class Rules:
    """What a certifier accepts in one round."""

    round: int
    first_block: int  # b_r
    last_block: int  # C_r
    base_state_hash: str
    contribution_bytes: int
    registered: frozenset[str]


@dataclass
class CommitBook:
    """One certifier's commits of one round."""

    rules: Rules
    commits: dict[str, Commit] = field(default_factory=dict)
    equivocators: set[str] = field(default_factory=set)
    stale: set[str] = field(default_factory=set)  # built on another θ: it is told so by its absence
    taken: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # hotkey -> signed commit, the block we saw it at
    rejected: set[str] = field(default_factory=set)  # whose record in the DHT is not what it should be: counted once

    def accept(self, commit: Commit, head: int) -> None:
        """Raises CommitRefused. The same commit twice is fine: a receipt was lost."""
        rules, hotkey = self.rules, commit.hotkey
        if commit.round != rules.round or head < rules.first_block:
            raise CommitRefused(EARLY)
        if head > rules.last_block:
            raise CommitRefused("late")
        if hotkey not in rules.registered:
            raise CommitRefused("stranger")
        if hotkey in self.equivocators:
            raise CommitRefused("equivocated")
        known = self.commits.get(hotkey)
        if known is not None and known != commit:
            del self.commits[hotkey]
            self.equivocators.add(hotkey)
            raise CommitRefused("equivocated")
        if commit.base_state_hash != rules.base_state_hash:
            self.stale.add(hotkey)
            raise CommitRefused("base")
        if commit.size != rules.contribution_bytes:
            raise CommitRefused("size")
        self.commits[hotkey] = commit
