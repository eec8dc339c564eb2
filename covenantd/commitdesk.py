"""Where a certifier takes commits: each is checked, entered in the round's book and answered with a signed receipt."""

import time

import structlog

from covenantd import commits, gather
from covenantd.chain.keys import verify
from covenantd.commits import Commit, CommitBook, CommitRefused, Rules
from covenantd.node import Node
from covenantd.roster import quorum
from covenantd.status import MAX_SHOWN, ContributionStatus
from p2p import records
from p2p.errors import RecordRejected
from p2p.protocols import PeerId
from p2p.wire import Fields

log = structlog.get_logger("covenantd.commitdesk")


class CommitDesk:
    """Keeps the book of the round in work."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._book: CommitBook | None = None

    async def serve(self) -> None:
        await self._node.swarm.answer(self._node.spec.protocol(commits.COMMIT), self._receive)

    async def book(self, round: int) -> CommitBook:
        """Raises CommitRefused: "early" while θ of that round is not here, "late" when it is over."""
        memory = self._node.journal.memory
        if round != memory.round or not self._node.contribution_bytes:
            raise CommitRefused(commits.EARLY if round > memory.round else "late")
        if self._book is None or self._book.rules.round != round:
            rules = await self._rules(round)
            if self._book is None or self._book.rules.round != round:  # another commit may have been faster
                self._book = CommitBook(rules)
        return self._book

    async def proven(self, round: int) -> dict[str, Commit]:
        """Hotkey -> commit, for those that certifiers with 2/3 of the stake have receipted in time: our own receipts
        are in the book, the others' and those that we forgot in a crash in the DHT beside the commit. Whoever shows two
        different commits is out."""
        book = await self.book(round)
        enrolled = await self._node.agreement.certifiers(round)
        total, own = sum(enrolled.values()), enrolled.get(self._node.hotkey.hotkey, 0)
        proven = {h: c for h, c in book.commits.items() if quorum(own, total)}
        for shown in await gather.mirrored(self._node, round, book.rejected):
            self._weigh(book, shown, own, total, proven)
        return {h: c for h, c in proven.items() if h not in book.equivocators}

    def _weigh(self, book: CommitBook, shown: gather.Mirrored, own: int, total: int, proven: dict[str, Commit]) -> None:
        commit = shown.commit
        ours = book.commits.get(commit.hotkey)
        if ours is not None and ours != commit:
            book.equivocators.add(commit.hotkey)
        elif commit.base_state_hash == book.rules.base_state_hash and commit.size == book.rules.contribution_bytes:
            unsaid = own if ours and self._node.hotkey.hotkey not in shown.stakes else 0
            if quorum(sum(shown.stakes.values()) + unsaid, total):
                proven[commit.hotkey] = commit

    async def _receive(self, peer: PeerId, message: object) -> object:
        node = self._node
        structlog.contextvars.bind_contextvars(peer=peer, round=node.journal.memory.round)
        try:
            signed = Fields(message).raw("commit", max_bytes=commits.MAX_RECORD_BYTES)
            record = records.open_record(signed, verify, run_id=node.spec.run_id, kind=commits.COMMIT, peer_id=peer)
            commit = commits.from_record(record)
            book = await self.book(commit.round)
            book.accept(commit, node.heads.number)
            self._show(book)
        except (CommitRefused, RecordRejected) as error:
            node.metrics.count_contribution(error.reason)
            log.info("commit refused", reason=error.reason, detail=str(error), peer_caused=True)
            if isinstance(error, RecordRejected):
                raise  # no honest peer sends a forged or malformed record: the swarm bans for it
            return {"refused": error.reason}
        return {"receipt": self._receipt(commit.round, signed)}

    def _show(self, book: CommitBook) -> None:
        rows = [ContributionStatus(c.hotkey, "committed", c.size) for c in book.commits.values()]
        contributions = tuple(rows[:MAX_SHOWN])
        self._node.board.update(
            commits=len(book.commits), contributions=contributions, contributions_round=book.rules.round
        )

    def _receipt(self, round: int, signed: bytes) -> bytes:
        node = self._node
        return records.sign(
            node.hotkey,
            run_id=node.spec.run_id,
            kind=commits.RECEIPT,
            round=round,
            peer_id=node.swarm.peer_id,
            body={"commit": commits.digest(signed), "block": node.heads.number},
            issued_at=time.time(),
        )

    async def _rules(self, round: int) -> Rules:
        node, timing = self._node, self._node.spec.timing
        if node.heads.number < timing.start(round):
            raise CommitRefused(commits.EARLY)
        return Rules(
            round,
            timing.start(round),
            timing.commit(round),
            node.journal.memory.state_hash,
            node.contribution_bytes,
            await node.agreement.registered(round),
        )
