"""A validator's half of a round: receipt commits, fetch and check what was committed, score it, agree on a roster."""

from collections.abc import Iterable
from pathlib import Path

import structlog
import trio

from covenantd import gather, proposals, revisions, turns
from covenantd.ballot import Ballot
from covenantd.commitdesk import CommitDesk
from covenantd.commits import MAX_RECEIPTS, Commit, CommitRefused
from covenantd.engine import EngineRefused
from covenantd.errors import ChainRefused
from covenantd.gauntlet import standing
from covenantd.holdings import Holdings
from covenantd.node import Node
from covenantd.proposals import View
from covenantd.roster import MAX_CONTRIBUTIONS, Roster, Vote, quorum
from covenantd.scores import Scores
from covenantd.soundness import is_sound
from covenantd.turns import Turns
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
        self._holdings = Holdings(node, self._desk)
        self._ballot = Ballot(node, self._holdings)
        self._scored = -1  # round whose scores are in: an engine that dies after it does not count them twice

    async def serve(self) -> None:
        await self._desk.serve()
        await self._holdings.serve()
        await self._ballot.serve()
        await revisions.serve(self._node)

    async def certify(self, round: int) -> None:
        """From the closing of commits to the vote. Ends at V_r at the latest: a late vote is worth nothing."""
        certifiers = await self._node.agreement.certifiers(round)
        order = turns.turns(self._node.spec.timing, round, certifiers)
        if not quorum(sum(list(certifiers.values())[:MAX_RECEIPTS]), sum(certifiers.values())):
            log.warning("so many small certifiers that no commit can be proven", certifiers=len(certifiers))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as deadline:
                deadline.start_soon(self._node.heads.cancel_at, self._node.spec.timing.vote(round), scope)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._certify, round, order)
                    nursery.start_soon(revisions.hand_on, self._node)
                    if self._node.hotkey.hotkey in order.order:
                        nursery.start_soon(self._ballot.publish, round, len(order.order) == 1)
                    else:
                        log.info("not enrolled as a certifier in this round", round=round)
                deadline.cancel_scope.cancel()
        if scope.cancelled_caught and self._ballot.voted(round) is None:
            log.warning("certification did not finish before the votes were read", round=round)

    async def _certify(self, round: int, order: Turns) -> None:
        voted = self._ballot.voted(round) is not None  # a crash came after it, and after the scores
        if voted and len(order.order) == 1:
            return
        try:
            view = await self._look(round, scored=voted or self._scored == round)
        except CommitRefused as error:
            log.warning("this round cannot be certified here", round=round, reason=error.reason)
            return
        if self._node.hotkey.hotkey in order.order:
            self._ballot.open(view, order)
            await self._take_turns(round, order)

    async def _take_turns(self, round: int, order: Turns) -> None:
        """Before its own turn a certifier asks the others what they hold, or they would take for censorship what it
        only lacks. The first turn begins before anybody knows anything: there it asks in the turn."""
        own, vote = order.of(self._node.hotkey.hotkey), self._node.spec.timing.vote(round)
        async with trio.open_nursery() as nursery:
            for turn, block in enumerate(order.blocks):
                if turn == own:
                    await self._holdings.survey(block if turn else self._last_call(order, vote))
                await self._node.heads.reached(block)
                nursery.start_soon(self._ballot.take, turn, self._compose)

    def _last_call(self, order: Turns, vote: int) -> int:
        """Who proposes first may do so until its votes can no longer be seen where the next turn begins."""
        end = order.blocks[1] if len(order.blocks) > 1 else vote
        return max(order.blocks[0], end - self._node.spec.timing.proposal_blocks)

    def _compose(self, view: View) -> Roster:
        return proposals.compose(self._node.spec, view, self._scores.standings)

    async def _look(self, round: int, scored: bool) -> View:
        """Fetch, check and, unless that was done before a crash, score what was committed in time."""
        book = await self._desk.book(round)
        proven = await self._proven(round, set(book.commits))
        held, refused = await self._fetch(round, proven)
        sound, invalid = await self._check(held)
        refused |= invalid
        if not scored:
            await self._score(round, sound)
            self._scores.fault(hotkey for hotkey, reason in refused.items() if reason != "missing")
            await self._scores.age(round, proven)
            self._count(refused.values())
            self._scored = round
        refused |= dict.fromkeys(book.stale - set(proven), "base") | dict.fromkeys(book.equivocators, "equivocated")
        scoring = self._node.spec.scoring
        unfit = standing.unfit(self._scores.standings, scoring.harmful_gain, scoring.useless_share)
        return View(
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

    async def settle(self, certified: Vote, body: Roster) -> None:
        """A missing contribution is its miner's fault if 2/3 of the stake reported it missing, whether we hold it or
        not: then it was served to some alone. Else it is nobody's."""
        try:
            self._scores.fault(await self._node.agreement.at_fault(certified, body))
        except ChainRefused as error:  # it keeps no state of the votes any more
            log.warning("nobody is at fault for what was missing", round=body.round, error=str(error))

    async def _score(self, round: int, sound: Held) -> None:
        """A vote does not wait for scores that cannot be had."""
        try:
            await self._scores.score(round, sound)
        except EngineRefused as error:
            log.error("contributions not scored", round=round, error=str(error))

    async def _proven(self, round: int, known: set[str]) -> dict[str, Commit]:
        """What was committed in time. Receipts of other certifiers may take a moment to reach the DHT: what we know
        of ourselves is waited for, up to a quarter of the time to the vote; so is anything at all, if we know nothing:
        we may have forgotten it in a crash."""
        timing = self._node.spec.timing
        last_block = timing.serve(round) + (timing.vote(round) - timing.serve(round)) // 4
        while True:
            proven = await self._desk.proven(round)
            if known and known <= set(proven) or self._node.heads.number >= last_block:
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

    async def _check(self, held: Held) -> tuple[Held, dict[str, str]]:
        sound, invalid = {}, {}
        for hotkey, (commit, path) in held.items():
            if await is_sound(self._node, commit, path):
                sound[hotkey] = commit, path
            else:
                invalid[hotkey] = "invalid"
        return sound, invalid

    def _count(self, reasons: Iterable[str]) -> None:
        for reason in reasons:
            self._node.metrics.count_contribution(reason)
