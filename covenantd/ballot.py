"""A certifier's vote: one a round, remembered on disk before it is public, proposed to or taken from the others."""

import structlog
import trio

from covenantd import gather, revisions
from covenantd.errors import ChainError, ChainRefused
from covenantd.journal import Voted
from covenantd.node import Node
from covenantd.proposals import EARLY, View, hearing, objection
from covenantd.roster import BadRoster, Roster, Vote, is_hash
from p2p.errors import BlobError, P2pError, ProtocolViolation, Refused
from p2p.partial import disk_errors
from p2p.protocols import PeerId
from p2p.wire import Fields

log = structlog.get_logger("covenantd.ballot")
ROSTER = "roster"
_RETRY_SECONDS = 0.5
_BODY_SECONDS = 20.0


class Ballot:
    """`view` is set once we know enough of a round to judge what others propose."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._deciding = trio.Lock()
        self._cast = trio.Event()
        self.view: View | None = None

    async def serve(self) -> None:
        await self._node.swarm.answer(self._node.spec.protocol(ROSTER), self._consider)

    def voted(self, round: int) -> Voted | None:
        """Our vote in that round, if there is one: from the journal, so also from before a crash."""
        voted = self._node.journal.memory.voted
        return voted if voted is not None and voted.round == round else None

    async def cast_by(self, round: int, block: int) -> bool:
        """Wait until we have voted in that round, or until the head is at `block`."""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._node.heads.cancel_at, block, scope)
                while self.voted(round) is None:
                    await self._cast.wait()
                nursery.cancel_scope.cancel()
        return self.voted(round) is not None

    async def propose(self, body: Roster) -> None:
        """Vote for our own roster, then ask the other certifiers to; ends when each has answered."""
        node = self._node
        path = node.staging / f"roster-{body.round}"
        with disk_errors(path):
            await trio.Path(path).write_bytes(body.encode())
        digest = await node.exchange.adopt(path, node.spec.piece_bytes)
        node.traffic.is_control((digest,))
        if not await self._vote(body, digest):
            return
        enrolled = await node.agreement.certifiers(body.round)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.publish, body.round)
            for hotkey in enrolled:
                if hotkey != node.hotkey.hotkey:
                    nursery.start_soon(self._ask, hotkey, body.round, digest)

    async def _vote(self, body: Roster, digest: str) -> bool:
        """Whether the round's one vote is for this digest. On disk first: a crash must not make us vote twice."""
        async with self._deciding:
            voted = self._node.journal.memory.voted
            if voted is None or voted.round < body.round:
                self._node.journal.update(voted=Voted(body.round, digest))
                log.info("voted", round=body.round, contributions=len(body.contributions), digest=digest[:16])
                self._cast.set()
                self._cast = trio.Event()
            return self._node.journal.memory.voted == Voted(body.round, digest)

    async def publish(self, round: int) -> None:
        """Put our vote of that round on chain; also after a crash between remembering and publishing it."""
        node, voted = self._node, self.voted(round)
        if voted is None or node.journal.memory.round != round:
            return
        vote = Vote(node.spec.tag, round, voted.digest, node.journal.memory.state_hash)
        while True:
            try:
                async with node.commitment:
                    block = await node.chain.publish_commitment([node.identity().encode(), vote.encode()])
            except ChainError as error:
                log.warning("vote not on chain yet", error=str(error))
                await trio.sleep(_RETRY_SECONDS)
                continue
            except ChainRefused as error:
                log.error("the chain refused the vote", error=str(error))
                return
            if block > node.spec.timing.vote(round):
                log.warning("vote came too late", block=block, round=round)
            return

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

    async def _consider(self, peer: PeerId, message: object) -> object:
        """Another certifier proposes. Raises Refused with the reason not to vote for it."""
        structlog.contextvars.bind_contextvars(peer=peer, round=self._node.journal.memory.round)
        fields = Fields(message)
        round, digest = fields.number("round", 0, 1 << 31), fields.text("digest", 64)
        if not is_hash(digest):
            raise ProtocolViolation("a digest that is no hash")
        proposer = self._node.swarm.by_peer_id(peer)
        voted = self.voted(round)
        if (reason := hearing(self.view, voted.digest if voted else None, round, digest)) is not None:
            raise Refused(reason)
        view = self.view
        assert view is not None  # else there was no hearing
        if proposer is None or proposer.hotkey not in await self._node.agreement.certifiers(round):
            raise Refused("you are not enrolled as a certifier")
        body = await self._body(proposer.hotkey, digest)
        offered = await revisions.judge_offer(self._node, round, body.changes)
        if (reason := objection(self._node.spec, view, body, offered)) is not None:
            raise Refused(reason[:200])
        if not await self._vote(body, digest):
            raise Refused("voted already")
        await self.publish(round)
        return {"voted": digest}

    async def _body(self, proposer: str, digest: str) -> Roster:
        try:
            certified = await gather.certified_roster(
                self._node, digest, first=proposer, deadline_seconds=_BODY_SECONDS
            )
        except (BadRoster, BlobError) as error:
            raise Refused(f"no roster to be had under that digest: {error}"[:200]) from error
        return certified.body
