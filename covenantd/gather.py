"""Brings a round's roster and its contributions here: from whoever holds them, each checked against its hash."""

from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from covenantd import commits, proofs, roster
from covenantd.commits import Commit
from covenantd.node import Node
from covenantd.proofs import Proof
from covenantd.roster import BadRoster, Entry, Roster
from covenantd.status import MAX_SHOWN, ContributionStatus
from p2p.errors import BlobError, P2pError, ProtocolViolation, RecordRejected
from p2p.exchange_settings import Priority

log = structlog.get_logger("covenantd.gather")


@dataclass(frozen=True)
class Certified:
    """A roster body and its digest, the blob id a quorum voted for."""

    digest: str
    body: Roster


async def certified_roster(
    node: Node,
    digest: str,
    round: int | None = None,
    first: str | None = None,
    deadline_seconds: float | None = None,
) -> Certified:
    """Asks `first` before others, until somebody serves it. Raises BadRoster if it is no roster of this run, and
    BlobUnavailable at the deadline."""
    node.traffic.is_control((digest,))
    path = await node.exchange.fetch(
        digest,
        node.holders(first),
        max_bytes=roster.MAX_BODY_BYTES,
        deadline_seconds=deadline_seconds,
        priority=Priority.CONTROL,
    )
    body = roster.decode(await trio.Path(path).read_bytes())
    if body.run_id != node.spec.run_id or (round is not None and body.round != round):
        raise BadRoster(f"roster {digest[:16]} is of run {body.run_id[:16]} round {body.round}")
    return Certified(digest, body)


async def contributions(
    node: Node, body: Roster, deadline_seconds: float | None = None, priority: Priority = Priority.CONTRIBUTION
) -> tuple[Path, ...]:
    """All of a roster's contributions, in roster order. Raises BlobUnavailable at the deadline."""
    paths: dict[str, Path] = {}

    async def bring(entry: Entry) -> None:
        paths[entry.hotkey] = await contribution(node, entry.hotkey, entry.blob_id, deadline_seconds, priority)

    try:
        async with trio.open_nursery() as nursery:
            for entry in body.contributions:
                nursery.start_soon(bring, entry)
    except* BlobError as group:
        raise group.exceptions[0] from None
    return tuple(paths[entry.hotkey] for entry in body.contributions)


async def contribution(
    node: Node,
    hotkey: str,
    blob_id: str,
    deadline_seconds: float | None = None,
    priority: Priority = Priority.CONTRIBUTION,
) -> Path:
    limit = node.contribution_bytes or node.spec.dataset.max_blob_bytes
    return await node.exchange.fetch(
        blob_id, node.holders(hotkey), max_bytes=limit, deadline_seconds=deadline_seconds, priority=priority
    )


async def prefetch(node: Node, round: int) -> None:
    """Until V_r: fetch what miners have committed, as mirrored in the DHT; the roster will name most of it."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.heads.cancel_at, node.spec.timing.vote(round), scope)
            known: dict[str, ContributionStatus] = {}
            rejected: set[str] = set()
            while len(known) < node.spec.roster_size:
                for commit in (one.commit for one in await mirrored(node, round, rejected)):
                    if commit.hotkey not in known and len(known) < node.spec.roster_size:
                        _show(node, known, commit, "committed")
                        nursery.start_soon(_prefetch_one, node, commit, known)
                await trio.sleep(1.0)


async def _prefetch_one(node: Node, commit: Commit, known: dict[str, ContributionStatus]) -> None:
    try:
        await contribution(node, commit.hotkey, commit.blob_id)
    except BlobError as error:  # theirs to answer for, if it is rostered at all
        log.info("not fetched ahead", hotkey=commit.hotkey, error=str(error), peer_caused=True)
        return
    _show(node, known, commit, "held")


def _show(node: Node, known: dict[str, ContributionStatus], commit: Commit, fate: str) -> None:
    """What is known of the round's contributions so far, until its roster says what became of them."""
    known[commit.hotkey] = ContributionStatus(commit.hotkey, fate, commit.size)
    if node.journal.memory.round == commit.round:
        rows = tuple([*known.values()][:MAX_SHOWN])
        node.board.update(contributions=rows, contributions_round=commit.round)


async def mirrored(node: Node, round: int, rejected: set[str]) -> list[Proof]:
    """The round's commits of registered hotkeys; each is signed by its author. Bad ones are counted, each hotkey once:
    `rejected` has those of earlier looks at the round."""
    registered, enrolled = await node.agreement.registered(round), await node.agreement.certifiers(round)
    try:
        records = await node.swarm.lookup(commits.COMMITTED, round)
    except P2pError as error:
        log.info("commits not readable from the DHT", error=str(error))
        return []
    found = []
    for record in records:
        if record.hotkey in registered:
            try:
                found.append(proofs.opened(node, record.fields(), record.hotkey, round, enrolled))
            except ProtocolViolation as error:
                if record.hotkey not in rejected:
                    node.metrics.count_contribution(error.reason if isinstance(error, RecordRejected) else "malformed")
                rejected.add(record.hotkey)
    return found
