"""Brings a round's roster and its contributions here: from whoever holds them, each checked against its hash."""

from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from covenantd import commits, roster
from covenantd.chain.keys import verify
from covenantd.commits import Commit
from covenantd.node import Node
from covenantd.roster import BadRoster, Entry, Roster
from p2p.errors import BlobError, P2pError, RecordRejected
from p2p.records import open_record
from p2p.wire import Fields

log = structlog.get_logger("covenantd.gather")


@dataclass(frozen=True)
class Certified:
    """A roster body and its digest, the blob id a quorum voted for."""

    digest: str
    body: Roster


async def certified_roster(node: Node, digest: str, round: int | None = None) -> Certified:
    """Keeps asking until somebody serves it. Raises BadRoster if what a quorum voted for is no roster of this run."""
    path = await node.exchange.fetch(digest, node.holders(), max_bytes=roster.MAX_BODY_BYTES)
    body = roster.decode(await trio.Path(path).read_bytes())
    if body.run_id != node.spec.run_id or (round is not None and body.round != round):
        raise BadRoster(f"roster {digest[:16]} is of run {body.run_id[:16]} round {body.round}")
    return Certified(digest, body)


async def contributions(node: Node, body: Roster, deadline_seconds: float | None = None) -> tuple[Path, ...]:
    """All of a roster's contributions, in roster order. Raises BlobUnavailable at the deadline."""
    paths: dict[str, Path] = {}

    async def bring(entry: Entry) -> None:
        paths[entry.hotkey] = await contribution(node, entry.hotkey, entry.blob_id, deadline_seconds)

    try:
        async with trio.open_nursery() as nursery:
            for entry in body.contributions:
                nursery.start_soon(bring, entry)
    except* BlobError as group:
        raise group.exceptions[0] from None
    return tuple(paths[entry.hotkey] for entry in body.contributions)


async def contribution(node: Node, hotkey: str, blob_id: str, deadline_seconds: float | None = None) -> Path:
    limit = node.contribution_bytes or node.spec.dataset.max_blob_bytes
    return await node.exchange.fetch(blob_id, node.holders(hotkey), max_bytes=limit, deadline_seconds=deadline_seconds)


async def prefetch(node: Node, round: int) -> None:
    """Until V_r: fetch what miners have committed, as mirrored in the DHT; the roster will name most of it."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.heads.cancel_at, node.spec.timing.vote(round), scope)
            known: set[str] = set()
            while len(known) < node.spec.roster_size:
                for commit in await mirrored(node, round):
                    if commit.hotkey not in known and len(known) < node.spec.roster_size:
                        known.add(commit.hotkey)
                        nursery.start_soon(contribution, node, commit.hotkey, commit.blob_id)
                await trio.sleep(1.0)


async def mirrored(node: Node, round: int) -> list[Commit]:
    """The round's commits as the DHT has them: hints, each signed by its author and receipted by somebody."""
    registered = await node.agreement.registered(round)
    try:
        records = await node.swarm.lookup(commits.COMMITTED, round)
    except P2pError as error:
        log.info("commits not readable from the DHT", error=str(error))
        return []
    found = []
    for record in records:
        try:
            signed = Fields(record.content()).raw("commit", max_bytes=4096)
            inner = open_record(
                signed, verify, run_id=node.spec.run_id, kind=commits.COMMIT, round=round, hotkey=record.hotkey
            )
            commit = commits.from_record(inner)
        except RecordRejected as error:
            node.metrics.contributions.labels(error.reason).inc()
            continue
        if commit.hotkey in registered and commit.hotkey != node.hotkey.hotkey:
            found.append(commit)
    return found
