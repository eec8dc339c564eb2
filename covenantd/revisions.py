"""Changes of the run spec in a running daemon: learnt from certified rosters, kept as blobs, put in force in time."""

from collections.abc import Iterable

import structlog
import trio

from covenantd import gather, roster
from covenantd.chain.keys import verify
from covenantd.errors import ChainRefused, ConfigError
from covenantd.node import Node
from covenantd.roster import Vote
from covenantd.specchange import MAX_CHANGE_BYTES, NOTICE_ROUNDS, SpecChange, SpecHistory, parse
from covenantd.turns import EARLY
from p2p.errors import BlobError, P2pError, ProtocolViolation, Refused
from p2p.exchange_settings import Priority
from p2p.protocols import PeerId
from p2p.wire import Fields

log = structlog.get_logger("covenantd.revisions")
CHANGE = "change"
_HEAD_SECONDS = 20.0
_ASK_SECONDS = 15.0
_TAKE_SECONDS = 10.0


async def learn(node: Node, changes: tuple[str, ...]) -> None:
    """Take up the changes that a certified roster names and we do not know yet.

    Raises BadRoster if it is at odds with those we know, BlobUnavailable if nobody has one of them in time. With a
    change that this covenantd cannot follow it goes on up to the round from which that holds; there it stops
    (ConfigError), and says so from now on.
    """
    known = node.journal.memory.changes
    if changes[: len(known)] != known[: len(changes)]:
        raise roster.BadRoster("the roster names other changes of the run spec than those certified before")
    for digest in changes[len(known) :]:
        change = await _fetch(node, digest, _HEAD_SECONDS)
        _follow(node, node.history, change)
        memory = node.journal.memory
        offered = memory.offered if memory.offered != digest else None  # another is dropped in words, see `own_offer`
        node.journal.update(changes=(*memory.changes, digest), offered=offered)
        log.info("run spec changes", revision=change.revision, first_round=change.first_round)
    put_in_force(node)


def _follow(node: Node, history: SpecHistory, change: SpecChange) -> None:
    reason = history.follow(change)
    if reason is not None:
        said = f"from round {change.first_round} on the run has rules that this covenantd cannot follow: {reason}"
        log.error(said)
        node.board.update(last_error=said)


def put_in_force(node: Node) -> None:
    """The spec of the round in work; its timing knows every round. Raises ConfigError where we cannot follow."""
    node.spec = node.history.at(node.journal.memory.round)
    node.agreement.revise(node.spec)


async def look_up(node: Node) -> None:
    """The changes we know from before a restart; then those that the roster a quorum votes for now names, or we might
    look for votes at blocks of a pace that the run has left."""
    await _restore(node)
    head = await node.agreement.view(node.heads.number)
    vote = roster.latest_quorum(head, node.spec.tag)
    if vote is None:
        return
    try:
        await _learn_from(node, vote)
    except (BlobError, ChainRefused) as error:  # the chain may keep no state of those votes any more
        log.info("the newest roster is not to be had yet", digest=vote.digest[:16], error=str(error))


async def _learn_from(node: Node, vote: Vote) -> None:
    """A quorum may still leave the roster that it votes for, or have come too late; the one before is certified."""
    body = (await gather.certified_roster(node, vote.digest, deadline_seconds=_HEAD_SECONDS)).body
    if len(body.changes) <= len(node.journal.memory.changes):
        return
    if body.previous != roster.NO_DIGEST:
        before = await gather.certified_roster(node, body.previous, deadline_seconds=_HEAD_SECONDS)
        await learn(node, before.body.changes)
    if len(body.changes) <= len(node.journal.memory.changes):
        return
    if node.heads.number >= node.spec.timing.vote(body.round) and await node.agreement.decision(body.round) == vote:
        await learn(node, body.changes)


async def _restore(node: Node) -> None:
    known = node.journal.memory.changes
    if node.history.revision == len(known):
        return
    history = SpecHistory(node.history.genesis)
    for digest in known:
        _follow(node, history, await _fetch(node, digest, _HEAD_SECONDS))
    node.history = history
    put_in_force(node)


async def _fetch(node: Node, digest: str, deadline_seconds: float) -> SpecChange:
    """Raises BlobUnavailable at the deadline, ConfigError if it is no change of this run."""
    node.traffic.is_control((digest,))
    path = await node.exchange.fetch(
        digest,
        node.holders(),
        max_bytes=MAX_CHANGE_BYTES,
        deadline_seconds=deadline_seconds,
        priority=Priority.CONTROL,
    )
    return parse(await trio.Path(path).read_bytes(), node.history.genesis, verify)


# A certifier's part


async def serve(node: Node) -> None:
    """Whoever of the certifiers has a change to be proposed hands it to the others: any of them may be the next to
    propose."""

    async def take(peer: PeerId, message: object) -> object:
        digest, known = Fields(message).text("digest", 64), node.swarm.by_peer_id(peer)
        if not roster.is_hash(digest):
            raise ProtocolViolation("a digest that is no hash")
        try:
            if known is None or known.hotkey not in await _certifiers(node):
                raise Refused("you are not enrolled as a certifier")
            await _take(node, digest, peer)
        except (OSError, ChainRefused) as error:  # a question of a peer's does not end the daemon
            log.error("a change of the run spec cannot be taken now", digest=digest[:16], error=str(error))
            raise Refused(EARLY) from error
        return {"taken": digest}

    await node.swarm.answer(node.spec.protocol(CHANGE), take)


async def _take(node: Node, digest: str, peer: PeerId) -> None:
    if node.journal.memory.offered == digest:
        return
    if (reason := await _objection(node, node.journal.memory.round, digest)) is not None:
        raise Refused(reason[:200])
    node.journal.update(offered=digest)
    log.info("a change of the run spec is to be proposed", digest=digest[:16], peer=peer)


async def offer(node: Node, document: bytes) -> SpecChange:
    """Have the certifiers, this one first, propose a change. Raises ConfigError if it is none, or comes too late."""
    change = parse(document, node.history.genesis, verify)
    node.history.check(change)
    if (reason := _untimely(change, node.journal.memory.round)) is not None:
        raise ConfigError(reason)
    path = node.staging / "spec-change"
    await trio.Path(path).write_bytes(document)
    digest = await node.exchange.adopt(path, node.spec.piece_bytes)
    node.traffic.is_control((digest,))
    node.journal.update(offered=digest)
    return change


async def _certifiers(node: Node) -> Iterable[str]:
    """At the newest block: the round in work may not have begun."""
    return roster.certifiers(await node.agreement.view(node.heads.number))


async def hand_on(node: Node) -> int:
    """In every round as long as there is a change to be proposed: some may not have been there before. How many of
    the other certifiers have it now."""
    digest, told = node.journal.memory.offered, list[str]()
    if digest is None:
        return 0

    async def tell(hotkey: str) -> None:
        peer = node.swarm.by_hotkey(hotkey)
        try:
            if peer is not None:
                await node.swarm.ask(peer.peer_id, node.spec.protocol(CHANGE), {"digest": digest}, _ASK_SECONDS)
                told.append(hotkey)
        except P2pError as error:
            log.info("change of the run spec not handed on", certifier=hotkey, error=str(error), peer_caused=True)

    async with trio.open_nursery() as nursery:
        for hotkey in await _certifiers(node):
            if hotkey != node.hotkey.hotkey:
                nursery.start_soon(tell, hotkey)
    return len(told)


async def own_offer(node: Node, round: int) -> str | None:
    """The digest of the change to propose in that round; one that can no longer come in time is dropped."""
    digest = node.journal.memory.offered
    if digest is None:
        return None
    reason = await _objection(node, round, digest)
    if reason is not None:
        said = f"the change of the run spec that this certifier was to propose is dropped: {reason}"
        log.error(said)
        node.board.update(last_error=said)
        node.journal.update(offered=None)
        return None
    return digest


async def judge_offer(node: Node, round: int, changes: tuple[str, ...]) -> str | None:
    """The one new change in another's proposal, if it is signed, applicable and in time; else None."""
    known = node.journal.memory.changes
    if len(changes) != len(known) + 1:
        return None
    reason = await _objection(node, round, changes[-1])
    if reason is not None:
        log.warning("a proposed change of the run spec is refused", reason=reason, peer_caused=True)
        return None
    return changes[-1]


async def _objection(node: Node, round: int, digest: str) -> str | None:
    try:
        change = await _fetch(node, digest, _TAKE_SECONDS)
        node.history.check(change)
    except (ConfigError, BlobError) as error:
        return str(error)
    return _untimely(change, round)


def _untimely(change: SpecChange, round: int) -> str | None:
    if change.first_round < round + NOTICE_ROUNDS:
        return f"it begins at round {change.first_round}, a roster of round {round} can carry {round + NOTICE_ROUNDS}"
    return None
