"""A validator's half of a round: receipt commits, fetch and check what was committed, score it, vote for a roster."""

import time
from pathlib import Path

import structlog
import trio

from covenantd import commits, gather, roster
from covenantd.chain.keys import public_key, verify
from covenantd.commits import Commit, CommitBook, CommitRefused, Rules
from covenantd.errors import ChainError, ChainRefused
from covenantd.gauntlet import standing
from covenantd.gauntlet.standing import Standing
from covenantd.journal import Voted
from covenantd.node import Node
from covenantd.roster import Entry, Exclusion, Roster, Vote
from covenantd.scores import Scores
from covenantd.status import MAX_SHOWN, ContributionStatus
from model import messages
from p2p import records
from p2p.errors import RecordRejected
from p2p.protocols import PeerId
from p2p.wire import Fields

log = structlog.get_logger("covenantd.certifier")
_MAX_COMMITS = roster.MAX_CONTRIBUTIONS


class Certifier:
    """Keeps the round's commits; everything else it knows is in the journal and the scores."""

    def __init__(self, node: Node, scores: Scores) -> None:
        self._node = node
        self._scores = scores
        self._book: CommitBook | None = None

    async def serve(self) -> None:
        await self._node.swarm.answer(self._node.spec.protocol(commits.COMMIT), self._receive)

    async def set_weights(self) -> None:
        await self._scores.set_weights()

    # Commits

    async def _receive(self, peer: PeerId, message: object) -> object:
        node = self._node
        try:
            signed = Fields(message).raw("commit", max_bytes=commits.MAX_RECORD_BYTES)
            record = records.open_record(signed, verify, run_id=node.spec.run_id, kind=commits.COMMIT, peer_id=peer)
            commit = commits.from_record(record)
            book = await self._book_of(commit.round)
            book.accept(commit, node.heads.number)
            self._show(book)
        except (CommitRefused, RecordRejected) as error:
            node.metrics.contributions.labels(error.reason).inc()
            log.info("commit refused", peer=peer, reason=error.reason, detail=str(error))
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

    async def _book_of(self, round: int) -> CommitBook:
        """The book of the round in work. Raises CommitRefused("early") while θ of that round is not here."""
        memory = self._node.journal.memory
        if round != memory.round or not self._node.contribution_bytes:
            raise CommitRefused(commits.EARLY if round > memory.round else "late")
        if self._book is None or self._book.rules.round != round:
            rules = await self._rules(round)
            if self._book is None or self._book.rules.round != round:  # another commit may have been faster
                self._book = CommitBook(rules)
        return self._book

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

    # Certification

    async def certify(self, round: int) -> None:
        """From the closing of commits to the vote. Ends at V_r at the latest: a late vote is worth nothing."""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._node.heads.cancel_at, self._node.spec.timing.vote(round), scope)
                await self._certify(round)
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            log.warning("certification did not finish before the votes were read", round=round)

    async def _certify(self, round: int) -> None:
        voted = self._node.journal.memory.voted
        if voted is not None and voted.round >= round:
            if voted.round == round:  # a crash came between remembering the vote and publishing it
                await self._publish(Vote(self._tag, round, voted.digest, self._node.journal.memory.state_hash))
            return
        book = await self._book_of(round)
        held, missing = await self._fetch(book)
        checked, invalid = await self._check(round, held)
        await self._scores.score(round, checked)
        self._scores.fault(set(missing) | set(invalid))
        body = self._compose(book, checked, {**missing, **invalid})
        if body.contributions:
            await self._vote(body)

    @property
    def _tag(self) -> bytes:
        return self._node.spec.tag

    async def _fetch(self, book: CommitBook) -> tuple[dict[str, tuple[Commit, Path]], dict[str, str]]:
        """Everything committed, by half the time to the vote; what is not here by then is missing."""
        held: dict[str, tuple[Commit, Path]] = {}
        timing, round = self._node.spec.timing, book.rules.round
        deadline = (timing.serve(round) + timing.vote(round)) // 2

        async def bring(commit: Commit) -> None:
            path = await gather.contribution(self._node, commit.hotkey, commit.blob_id)
            held[commit.hotkey] = commit, path
            self._node.board.update(contributions_held=len(held))

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._node.heads.cancel_at, deadline, scope)
                async with trio.open_nursery() as fetches:
                    for commit in list(book.commits.values())[:_MAX_COMMITS]:
                        fetches.start_soon(bring, commit)
                nursery.cancel_scope.cancel()
        missing = {hotkey: "missing" for hotkey in book.commits if hotkey not in held}
        self._count(missing)
        return held, missing

    async def _check(
        self, round: int, held: dict[str, tuple[Commit, Path]]
    ) -> tuple[dict[str, tuple[Commit, Path]], dict[str, str]]:
        good, invalid = {}, {}
        base = self._node.journal.memory.state_hash
        for hotkey, (commit, path) in held.items():
            order = messages.Check(str(path), round, base, public_key(hotkey).hex())
            checked = await self._node.engine.order(order, messages.Checked)
            if checked.ok:
                good[hotkey] = commit, path
            else:
                log.warning("contribution refused", hotkey=hotkey, reason=checked.reason)
                invalid[hotkey] = "invalid"
        self._count(invalid)
        return good, invalid

    def _count(self, refused: dict[str, str]) -> None:
        for reason in refused.values():
            self._node.metrics.contributions.labels(reason).inc()

    def _compose(self, book: CommitBook, checked: dict[str, tuple[Commit, Path]], refused: dict[str, str]) -> Roster:
        """The best first; what the validator has seen to harm stays out."""
        node, standings = self._node, self._scores.standings
        known = Standing(0.0, 0)
        ranked = sorted(checked, key=lambda h: (-standings.get(h, known).gain, h))
        scoring = node.spec.scoring
        unfit = standing.unfit(standings, scoring.harmful_gain, scoring.useless_share)
        fit = [h for h in ranked if h not in unfit]
        listed = fit[: node.spec.roster_size]
        reasons = {
            **refused,
            **{h: unfit[h] for h in ranked if h in unfit},
            **dict.fromkeys(fit[len(listed) :], "full"),
        }
        reasons |= dict.fromkeys(book.equivocators, "equivocated") | dict.fromkeys(book.stale, "base")
        return Roster(
            run_id=node.spec.run_id,
            round=book.rules.round,
            previous=node.journal.memory.previous,
            base_state_hash=book.rules.base_state_hash,
            metagraph_block=book.rules.first_block,
            spec_revision=0,
            alpha_bits=roster.alpha_bits(node.spec.alpha),
            contributions=tuple(Entry(h, checked[h][0].blob_id, checked[h][0].size) for h in listed),
            exclusions=tuple(Exclusion(h, reason) for h, reason in sorted(reasons.items()) if h not in listed),
            candidates=tuple(fit[: node.spec.roster_size]),
        )

    # The vote

    async def _vote(self, body: Roster) -> None:
        """One vote a round, remembered on disk before it is public: a crash must not make us vote twice."""
        node = self._node
        path = node.staging / f"roster-{body.round}"
        await trio.Path(path).write_bytes(body.encode())
        digest = await node.exchange.adopt(path, node.spec.piece_bytes)
        node.journal.update(voted=Voted(body.round, digest))
        await self._publish(Vote(self._tag, body.round, digest, body.base_state_hash))
        log.info("voted", round=body.round, contributions=len(body.contributions), digest=digest[:16])

    async def _publish(self, vote: Vote) -> None:
        node = self._node
        while True:
            try:
                block = await node.chain.publish_commitment([node.identity().encode(), vote.encode()])
            except ChainError as error:
                log.warning("vote not on chain yet", error=str(error))
                await trio.sleep(0.5)
                continue
            except ChainRefused as error:
                log.error("the chain refused the vote", error=str(error))
                return
            if block > node.spec.timing.vote(vote.round):
                log.warning("vote came too late", block=block, round=vote.round)
            return
