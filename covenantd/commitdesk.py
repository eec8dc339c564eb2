"""Where a certifier takes commits: each is checked, entered in the round's book and answered with a signed receipt."""

from dataclasses import replace

import structlog

from covenantd import commits, gather
from covenantd.chain.keys import verify
from covenantd.commits import Commit, CommitBook, CommitRefused, Rules
from covenantd.node import Node
from covenantd.proofs import Proof, opened
from covenantd.receipts import sign_receipt
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
        self._proofs: dict[str, Proof] = {}

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
                self._book, self._proofs = CommitBook(rules), {}
        return self._book

    async def proven(self, round: int) -> dict[str, Commit]:
        """Hotkey -> commit, for those that certifiers with 2/3 of the stake have receipted in time: our own receipts
        are in the book, the others' and those that we forgot in a crash in the DHT beside the commit. Whoever shows two
        different commits is out."""
        book = await self.book(round)
        enrolled = await self._node.agreement.certifiers(round)
        total, own = sum(enrolled.values()), enrolled.get(self._node.hotkey.hotkey, 0)
        proofs = {h: self._with_ours(book, _unseen(book, h), own) for h in book.commits} if quorum(own, total) else {}
        for shown in await gather.mirrored(self._node, round, book.rejected):
            if self._fits(book, shown.commit):
                proof = self._with_ours(book, shown, own)
                if quorum(sum(proof.stakes.values()), total):
                    proofs[shown.commit.hotkey] = proof
        if self._book is book:
            self._proofs |= proofs
        return {h: proof.commit for h, proof in proofs.items() if h not in book.equivocators}

    def _with_ours(self, book: CommitBook, proof: Proof, own: int) -> Proof:
        """Our receipt counts, whether the author shows it or not, and for whatever signature of the same commit: a
        miner that restarts signs again."""
        us, commit = self._node.hotkey.hotkey, proof.commit
        if not own or us in proof.stakes or book.commits.get(commit.hotkey) != commit:
            return proof
        receipt = self._receipt(proof.signed, book.taken[commit.hotkey][1])
        return replace(proof, stakes={**proof.stakes, us: own}, receipts=(*proof.receipts, receipt))

    def _fits(self, book: CommitBook, commit: Commit) -> bool:
        ours = book.commits.get(commit.hotkey)
        if ours is not None and ours != commit:
            book.equivocators.add(commit.hotkey)
            return False
        return _obeys(book.rules, commit)

    def proof(self, round: int, hotkey: str) -> Proof | None:
        """What proves a commit that we hold for proven, to show it to another certifier."""
        known = self._book is not None and self._book.rules.round == round
        return self._proofs.get(hotkey) if known else None

    async def believe(self, round: int, hotkey: str, fields: Fields) -> Commit | None:
        """A commit that another certifier shows to have been in time; None if it is not proven. It is even if its
        author showed us a different one: only one of them can have receipts of 2/3 of the stake, so there was nothing
        to choose, and an author must not be able to set those who saw both against those who did not. Whoever shows
        both to all is out: then nobody holds it for proven. Raises ProtocolViolation, and CommitRefused as `book`."""
        book, enrolled = await self.book(round), await self._node.agreement.certifiers(round)
        proof = opened(self._node, fields, hotkey, round, enrolled)
        in_time = quorum(sum(proof.stakes.values()), sum(enrolled.values()))
        if not in_time or hotkey not in book.rules.registered or not _obeys(book.rules, proof.commit):
            return None
        if self._book is book:
            self._proofs[hotkey] = proof
        return proof.commit

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
        book.taken.setdefault(commit.hotkey, (signed, node.heads.number))
        return {"receipt": self._receipt(signed, node.heads.number)}

    def _show(self, book: CommitBook) -> None:
        rows = [ContributionStatus(c.hotkey, "committed", c.size) for c in book.commits.values()]
        contributions = tuple(rows[:MAX_SHOWN])
        self._node.board.update(
            commits=len(book.commits), contributions=contributions, contributions_round=book.rules.round
        )

    def _receipt(self, signed: bytes, block: int) -> bytes:
        return sign_receipt(self._node.hotkey, commits.digest(signed), block)

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


def _unseen(book: CommitBook, hotkey: str) -> Proof:
    """Of a commit that its author showed us, and nobody else as far as we know."""
    return Proof(book.commits[hotkey], {}, book.taken[hotkey][0], ())


def _obeys(rules: Rules, commit: Commit) -> bool:
    return commit.base_state_hash == rules.base_state_hash and commit.size == rules.contribution_bytes
