"""A certifier's votes: one a turn, remembered on disk before it is public, proposed to or taken from the others."""

from collections.abc import Callable

import structlog
import trio

from covenantd import gather, missing, revisions
from covenantd.errors import ChainError, ChainRefused
from covenantd.holdings import Holdings
from covenantd.journal import Voted
from covenantd.node import Node
from covenantd.proposals import View, censors, complete, hearing, misfit, objection
from covenantd.roster import BadRoster, Roster, is_hash
from covenantd.turns import EARLY, Ballots, Turns
from p2p.errors import BlobError, P2pError, ProtocolViolation, Refused
from p2p.partial import disk_errors
from p2p.protocols import PeerId
from p2p.wire import Fields

log = structlog.get_logger("covenantd.ballot")
ROSTER = "roster"
_RETRY_SECONDS = 0.5
_BODY_SECONDS = 20.0


class Ballot:
    """Open for one round at a time: from when we know enough of it to judge what others propose."""

    def __init__(self, node: Node, holdings: Holdings) -> None:
        self._node = node
        self._holdings = holdings
        self._deciding = trio.Lock()
        self._cast = trio.Event()
        self._turns = Turns((), ())

    async def serve(self) -> None:
        await self._node.swarm.answer(self._node.spec.protocol(ROSTER), self.consider)

    def open(self, view: View, turns: Turns) -> None:
        self._holdings.open(view, turns)
        self._turns = turns

    def voted(self, round: int) -> Voted | None:
        """Our vote in that round, if there is one: from the journal, so also from before a crash."""
        voted = self._node.journal.memory.voted
        return voted if voted is not None and voted.round == round else None

    # When a turn begins

    async def take(self, turn: int, compose: Callable[[View], Roster]) -> None:
        """Join the roster that has a quorum by now. Where none has and the turn is ours, propose: what we have voted
        for, if it is as good as what `compose` would make of what we hold, else that. Ends when all others have
        answered."""
        view = self._open_view()
        leading = await self._leading(turn)
        if leading is not None:
            await self._join(leading, turn)
        elif self._turns.of(self._node.hotkey.hotkey) == turn:
            voted = self.voted(view.round)
            if voted is not None and await self._as_good(voted.digest):
                await self._propose(turn, voted.digest)
            elif (digest := await self._cast_own(compose(self._open_view()), turn)) is not None:
                await self._propose(turn, digest)

    async def _join(self, digest: str, turn: int) -> None:
        """A quorum that we make no part of may be one only as long as a liar makes part of it."""
        voted = self.voted(self._open_view().round)
        if voted is not None and voted.digest == digest:
            return
        try:
            await self._judge_and_vote(digest, turn, None)
        except Refused as error:
            log.warning("a quorum votes for a roster that we cannot", digest=digest[:16], reason=str(error))

    async def _as_good(self, digest: str) -> bool:
        try:
            body = await self._body(None, digest)
            return complete(self._node.spec, self._open_view(), body)
        except Refused:  # it was here when we voted for it, but it is gone
            return False

    async def _cast_own(self, body: Roster, turn: int) -> str | None:
        """The digest of our own roster, if our vote of that turn is for it."""
        if not body.contributions:
            log.warning("nothing to propose", round=body.round, refused={x.hotkey: x.reason for x in body.exclusions})
            return None
        path = self._node.staging / f"roster-{body.round}"
        with disk_errors(path):
            await trio.Path(path).write_bytes(body.encode())
        digest = await self._node.exchange.adopt(path, self._node.spec.piece_bytes)
        self._node.traffic.is_control((digest,))
        refusal = await self._vote(body, digest, turn)
        if refusal is not None:
            log.info("our own roster is not proposed", round=body.round, reason=refusal)
        return None if refusal else digest

    async def _propose(self, turn: int, digest: str) -> None:
        round = self._open_view().round
        async with trio.open_nursery() as nursery:
            for hotkey in self._turns.order:
                if hotkey != self._node.hotkey.hotkey:
                    nursery.start_soon(self._ask, hotkey, round, digest)

    async def _ask(self, certifier: str, round: int, digest: str) -> None:
        """Until this certifier has said yes or no, or the votes are read."""
        node = self._node
        while node.heads.number < node.spec.timing.vote(round):
            peer = node.swarm.by_hotkey(certifier)
            try:
                if peer is not None:
                    message = {"round": round, "digest": digest}
                    await node.swarm.ask(peer.peer_id, node.spec.protocol(ROSTER), message, _BODY_SECONDS + 10)
                    return
            except Refused as error:
                if str(error) != EARLY:
                    log.warning("proposal refused", certifier=certifier, reason=str(error), peer_caused=True)
                    return
            except P2pError as error:
                log.info("proposal not delivered yet", certifier=certifier, error=str(error), peer_caused=True)
            await trio.sleep(_RETRY_SECONDS)

    # When another proposes

    async def consider(self, peer: PeerId, message: object) -> object:
        """Another certifier proposes. Raises Refused with the reason not to vote for it."""
        structlog.contextvars.bind_contextvars(peer=peer, round=self._node.journal.memory.round)
        fields = Fields(message)
        round, digest = fields.number("round", 0, 1 << 31), fields.text("digest", 64)
        if not is_hash(digest):
            raise ProtocolViolation("a digest that is no hash")
        if (reason := hearing(self._holdings.view, round)) is not None:
            raise Refused(reason)
        proposer = self._node.swarm.by_peer_id(peer)
        turn = self._turns.of(proposer.hotkey) if proposer is not None else None
        if proposer is None or turn is None:
            raise Refused("you have no turn in this round")
        try:
            if (reason := await self._refusal(round, turn, digest)) is not None:
                raise Refused(reason)
            await self._judge_and_vote(digest, turn, proposer.hotkey)
        except (OSError, ChainRefused) as error:
            # A question of a peer's does not end the daemon; it may be asked again.
            log.error("a proposal cannot be judged now", digest=digest[:16], error=str(error))
            raise Refused(EARLY) from error
        return {"voted": digest}

    async def _judge_and_vote(self, digest: str, turn: int, proposer: str | None) -> None:
        """Raises Refused."""
        view = self._open_view()
        body = await self._body(proposer, digest)
        offered = await revisions.judge_offer(self._node, view.round, body.changes)
        reason = misfit(self._node.spec, view, body, offered)
        if reason is None:
            await self._holdings.complete(body, digest, proposer, turn, self._end(turn))
            reason = self._objection(body, proposer) or await self._vote(body, digest, turn)
        if reason is not None:
            raise Refused(reason[:200])

    def _objection(self, body: Roster, proposer: str | None) -> str | None:
        """What a quorum votes for is not censorship: honest ones find that it lists most of what is fit."""
        view = self._open_view()
        return objection(view, body) or (censors(self._node.spec, view, body) if proposer is not None else None)

    def _end(self, turn: int) -> int:
        """The block at which a turn is over."""
        later = self._turns.blocks[turn + 1 :]
        return later[0] if later else self._node.spec.timing.vote(self._open_view().round)

    async def _body(self, proposer: str | None, digest: str) -> Roster:
        try:
            certified = await gather.certified_roster(
                self._node, digest, first=proposer, deadline_seconds=_BODY_SECONDS
            )
        except (BadRoster, BlobError) as error:
            raise Refused(f"no roster to be had under that digest: {error}"[:200]) from error
        return certified.body

    # The vote

    async def _vote(self, body: Roster, digest: str, turn: int) -> str | None:
        """Cast the vote of that turn unless there is a reason not to, which is returned. On disk first: a crash must
        not make us vote twice in a turn."""
        async with self._deciding:
            reason = await self._refusal(body.round, turn, digest)
            voted = self.voted(body.round)
            if reason is None and (voted is None or voted.digest != digest):
                lacked = missing.report(body, self._open_view().missing)
                self._node.journal.update(voted=Voted(body.round, digest, turn, lacked.hex()))
                log.info(
                    "voted", round=body.round, turn=turn, contributions=len(body.contributions), digest=digest[:16]
                )
                self._cast.set()
                self._cast = trio.Event()
            return reason

    async def _refusal(self, round: int, turn: int, digest: str) -> str | None:
        node = self._node
        if node.heads.number >= node.spec.timing.vote(round):
            return "the votes are read"
        now, voted = self._turns.at(node.heads.number), self.voted(round)
        leading = await self._leading(now)
        return Ballots(now, leading, (voted.turn, voted.digest) if voted else None).refusal(turn, digest)

    async def _leading(self, turn: int) -> str | None:
        """The roster that has a quorum in the state in which that turn began."""
        if turn == 0:
            return None
        vote = await self._node.agreement.leading(self._open_view().round, self._turns.blocks[turn])
        return vote.digest if vote is not None else None

    def _open_view(self) -> View:
        assert self._holdings.view is not None  # nobody votes before the ballot is open
        return self._holdings.view

    async def publish(self, round: int, alone: bool) -> None:
        """Keep the chain at our vote of that round: the journal's, so also after a crash between remembering and
        publishing it. Ends with the first vote if we are alone and it cannot change; else with the round."""
        public: str | None = None
        while public is None or not alone:
            voted = self.voted(round)
            if voted is None or voted.digest == public:
                await self._cast.wait()
            elif await self._publish(voted):
                public = voted.digest
            else:
                await trio.sleep(_RETRY_SECONDS)

    async def _publish(self, voted: Voted) -> bool:
        """Whether that vote needs no other try: it is on chain, or the chain will not have it."""
        node = self._node
        vote = voted.on_chain(node.spec.tag, node.journal.memory.state_hash)
        try:
            async with node.commitment:
                block = await node.chain.publish_commitment([node.identity().encode(), vote.encode()])
        except ChainError as error:
            log.warning("vote not on chain yet", error=str(error))
            return False
        except ChainRefused as error:
            log.error("the chain refused the vote", error=str(error))
            return True
        if block > node.spec.timing.vote(voted.round):
            log.warning("vote came too late", block=block, round=voted.round)
        return True
