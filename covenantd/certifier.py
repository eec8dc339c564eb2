"""A validator's half of a round: receipt commits, fetch and check what was committed, score it, agree on a roster."""

from collections.abc import Iterable
from pathlib import Path

import structlog
import trio

from covenantd import gather, proposals, revisions
from covenantd.ballot import Ballot
from covenantd.chain.keys import public_key
from covenantd.commitdesk import CommitDesk
from covenantd.commits import Commit, CommitRefused
from covenantd.engine import EngineRefused
from covenantd.gauntlet import standing
from covenantd.node import Node
from covenantd.proposals import View
from covenantd.roster import MAX_CONTRIBUTIONS
from covenantd.scores import Scores
from model import messages
from p2p.errors import BlobTooLarge

log = structlog.get_logger("covenantd.certifier")
_LOOK_SECONDS = 0.5
Held = dict[str, tuple[Commit, Path]]


class Certifier:
    """Everything it must not forget is in the journal and the scores."""

    def __init__(self, node: Node, scores: Scores) -> None:
        self._node = node
        self._scores = scores
        self._desk = CommitDesk(node)
        self._ballot = Ballot(node)

    async def serve(self) -> None:
        await self._desk.serve()
        await self._ballot.serve()

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
        if self._ballot.voted(round) is not None:  # a crash came between remembering the vote and publishing it
            await self._ballot.publish(round)
            return
        try:
            view, sound = await self._look(round)
        except CommitRefused as error:
            log.warning("this round cannot be certified here", round=round, reason=error.reason)
            return
        self._ballot.view = view
        if await self._wait_turn(round):
            await self._ballot.publish(round)  # again: whoever voted may have been cut off before it was public
            return
        body = proposals.compose(self._node.spec, view, self._scores.standings)
        if body.contributions:
            await self._ballot.propose(body)
        else:
            log.warning("nothing to propose", round=round, refused=dict(view.refused))

    async def _wait_turn(self, round: int) -> bool:
        """Stake rank orders who proposes: rank 0 at once, rank i so much later. True if we have voted meanwhile, or
        are not enrolled and have nothing to vote."""
        timing = self._node.spec.timing
        order = list(await self._node.agreement.certifiers(round))
        if self._node.hotkey.hotkey not in order:
            log.info("not enrolled as a certifier in this round", round=round)
            return True
        rank = order.index(self._node.hotkey.hotkey)
        if rank == 0:
            return self._ballot.voted(round) is not None
        turn = timing.serve(round) + (timing.vote(round) - timing.serve(round)) * 2 // 3
        return await self._ballot.cast_by(round, turn + (rank - 1) * timing.proposal_blocks)

    async def _look(self, round: int) -> tuple[View, Held]:
        """Fetch, check and score what was committed in time."""
        book = await self._desk.book(round)
        proven = await self._proven(round, set(book.commits))
        held, refused = await self._fetch(round, proven)
        sound, invalid = await self._check(round, held)
        refused |= invalid
        await self._score(round, sound)
        self._scores.fault(refused)
        await self._scores.age(round, proven)
        self._count(refused.values())
        refused |= dict.fromkeys(book.stale - set(proven), "base") | dict.fromkeys(book.equivocators, "equivocated")
        scoring = self._node.spec.scoring
        unfit = standing.unfit(self._scores.standings, scoring.harmful_gain, scoring.useless_share)
        view = View(
            round=round,
            previous=self._node.journal.memory.previous,
            base_state_hash=book.rules.base_state_hash,
            proven=proven,
            sound=frozenset(sound),
            refused=refused,
            unfit={h: unfit[h] for h in sound if h in unfit},
            changes=self._node.journal.memory.changes,
            offered=await revisions.own_offer(self._node, round),
        )
        return view, sound

    async def _score(self, round: int, sound: Held) -> None:
        """A vote does not wait for scores that cannot be had."""
        try:
            await self._scores.score(round, sound)
        except EngineRefused as error:
            log.error("contributions not scored", round=round, error=str(error))

    async def _proven(self, round: int, known: set[str]) -> dict[str, Commit]:
        """What was committed in time. Receipts of other certifiers may take a moment to reach the DHT: what we know
        of ourselves is waited for, up to a quarter of the time to the vote."""
        timing = self._node.spec.timing
        last_block = timing.serve(round) + (timing.vote(round) - timing.serve(round)) // 4
        while True:
            proven = await self._desk.proven(round)
            if known <= set(proven) or self._node.heads.number >= last_block:
                return proven
            await trio.sleep(_LOOK_SECONDS)

    async def _fetch(self, round: int, proven: dict[str, Commit]) -> tuple[Held, dict[str, str]]:
        """Everything committed, by a third of the time to the vote; what is not here by then is missing."""
        held: Held = {}
        refused: dict[str, str] = {}
        timing = self._node.spec.timing
        deadline = timing.serve(round) + (timing.vote(round) - timing.serve(round)) // 3

        async def bring(commit: Commit) -> None:
            try:
                path = await gather.contribution(self._node, commit.hotkey, commit.blob_id)
            except BlobTooLarge as error:  # another fault of a blob is our disk's, not its author's
                log.warning("contribution refused", hotkey=commit.hotkey, reason=str(error), peer_caused=True)
                refused[commit.hotkey] = "invalid"
                return
            held[commit.hotkey] = commit, path
            self._node.board.update(contributions_held=len(held))

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._node.heads.cancel_at, deadline, scope)
                async with trio.open_nursery() as fetches:
                    for commit in list(proven.values())[:MAX_CONTRIBUTIONS]:
                        fetches.start_soon(bring, commit)
                nursery.cancel_scope.cancel()
        missing = {hotkey: "missing" for hotkey in proven if hotkey not in held and hotkey not in refused}
        return held, {**refused, **missing}

    async def _check(self, round: int, held: Held) -> tuple[Held, dict[str, str]]:
        sound, invalid = {}, {}
        base = self._node.journal.memory.state_hash
        for hotkey, (commit, path) in held.items():
            order = messages.Check(str(path), round, base, public_key(hotkey).hex())
            checked = await self._node.engine.order(order, messages.Checked)
            if checked.ok:
                sound[hotkey] = commit, path
            else:
                log.warning("contribution refused", hotkey=hotkey, reason=checked.reason, peer_caused=True)
                invalid[hotkey] = "invalid"
        return sound, invalid

    def _count(self, reasons: Iterable[str]) -> None:
        for reason in reasons:
            self._node.metrics.count_contribution(reason)
