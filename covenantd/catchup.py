"""From wherever we are to θ of the round in work: start-up, joining, replay of missed rounds, repair of a damaged θ.

What is trusted: θ_0 because the run spec pins it; a later θ because a quorum's votes, read on chain, name the digest
of a roster whose body names the state hash it was built on. State hashes are blob ids, so any peer may serve the
bytes, and pieces that are still good here are not fetched again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import trio

from covenantd import gather, revisions
from covenantd.chain.keys import public_key
from covenantd.engine import EngineRefused
from covenantd.gather import Certified
from covenantd.journal import PastRound
from covenantd.node import Desynced, Node
from covenantd.roster import NO_DIGEST, Roster
from covenantd.runspec import Dataset
from model import messages
from p2p.errors import BlobUnavailable
from p2p.exchange_settings import Priority

log = structlog.get_logger("covenantd.catchup")
REPLAYED_ROUNDS = 16  # further behind than this, a newer state is fetched instead
KEPT_STATES = 3
_STATE_SECONDS = 60.0
_TOKENS_SECONDS = 120.0
_REPLAY_SECONDS = 30.0


async def catch_up(node: Node, through: int) -> messages.Loaded:
    """Returns with θ_{through + 1} in the engine and in the journal. Raises BlobUnavailable, with a word on what is
    waited for, when no connected peer gives what is needed in time: begun anew, perhaps from a later round, it goes on
    with what is here."""
    await _dataset(node, node.spec.dataset)
    await revisions.look_up(node)
    missed = await missed_rosters(node, through)
    if missed and not (_holds_state(node) and missed[0].body.previous == node.journal.memory.previous):
        await _jump(node, missed[-1])
    loaded = await install(node)
    try:
        await _replay(node, missed, through)
    except BlobUnavailable:
        log.warning("a past round's contributions are gone: going on from a later state", through=through)
        await _jump(node, missed[-1])
        loaded = await install(node)
        await _replay(node, missed, through)
    await _settle(node, loaded.pending_rounds, missed)
    return loaded


async def missed_rosters(node: Node, through: int) -> list[Certified]:
    """Certified rosters from our round on, oldest first, verified backwards from one quorum; at most the last few."""
    memory = node.journal.memory
    vote = await node.agreement.newest_certified(through, since=memory.round)
    rosters: list[Certified] = []
    digest = vote.digest if vote else NO_DIGEST
    while digest not in (NO_DIGEST, memory.previous) and len(rosters) < REPLAYED_ROUNDS:
        try:
            with _waiting_for(node, f"the roster {digest[:16]}"):
                certified = await gather.certified_roster(node, digest, deadline_seconds=_REPLAY_SECONDS)
        except BlobUnavailable as error:
            if not rosters:
                raise
            log.warning("an older roster is not to be had: going on from a later state", error=str(error))
            break
        if certified.body.round < memory.round:
            break
        rosters.insert(0, certified)
        digest = certified.body.previous
    return rosters


async def _replay(node: Node, missed: list[Certified], through: int) -> None:
    for number, certified in enumerate(missed):
        if certified.body.round >= node.journal.memory.round:
            await _follow(node, certified, frozenset(later.digest for later in missed[number + 1 :]))
    await _void_rounds(node, through + 1)


async def _settle(node: Node, pending: tuple[int, ...], missed: list[Certified]) -> None:
    """Rounds a jump went over: what we had sent in them was either in their rosters or goes back. What cannot be
    found out stays pending: it is never sent twice."""
    open_rounds = [round for round in pending if round < node.journal.memory.round]
    rosters = await _back_to(node, min(open_rounds), missed) if open_rounds and missed else missed
    for round in open_rounds:
        if not rosters or rosters[0].body.round <= round or rosters[0].body.previous == NO_DIGEST:
            included = any(c.body.round == round and _lists_ours(node, c.body) for c in rosters)
            await node.engine.order(messages.Settle(round, included), messages.Settled)


async def _back_to(node: Node, round: int, rosters: list[Certified]) -> list[Certified]:
    """Longer by what came before, down to that round, as far as somebody still has it."""
    rosters = list(rosters)
    try:
        while rosters[0].body.round > round and rosters[0].body.previous != NO_DIGEST:
            previous = rosters[0].body.previous
            rosters.insert(0, await gather.certified_roster(node, previous, deadline_seconds=_REPLAY_SECONDS))
    except BlobUnavailable:
        log.warning("old rosters are gone: what was sent in their rounds stays pending", round=rosters[0].body.round)
    return rosters


async def _dataset(node: Node, dataset: Dataset) -> None:
    """Tokens are blobs like everything else: fetched from whoever has them, kept from then on."""
    async with trio.open_nursery() as nursery:
        for blob_id in (dataset.tokenizer, *dataset.train_shards, dataset.heldout_shard):
            nursery.start_soon(_fetch, node, blob_id)


async def _fetch(node: Node, blob_id: str) -> None:
    limit = node.spec.dataset.max_blob_bytes
    with _waiting_for(node, f"the run's tokens {blob_id[:16]}"):
        await node.exchange.fetch(
            blob_id,
            node.holders(),
            max_bytes=limit,
            deadline_seconds=_TOKENS_SECONDS,
            priority=Priority.DATASET,
        )


@contextmanager
def _waiting_for(node: Node, what: str) -> Iterator[None]:
    """The operator is told what it is that nobody gives us."""
    try:
        yield
    except BlobUnavailable as error:
        raise BlobUnavailable(f"waiting for {what} from {len(node.holders()())} connected peers: {error}") from error


def _holds_state(node: Node) -> bool:
    return node.blobs.path(node.journal.memory.state_hash) is not None


async def _jump(node: Node, certified: Certified) -> None:
    """Take θ as the roster found it, from peers, instead of computing it."""
    body = certified.body
    await _state(node, body.base_state_hash)
    await revisions.learn(node, body.changes)
    node.journal.update(round=body.round, state_hash=body.base_state_hash, previous=body.previous)
    revisions.put_in_force(node)
    log.info("state fetched", round=body.round, state_hash=body.base_state_hash[:16])


async def _state(node: Node, state_hash: str, seed: Path | None = None) -> Path:
    """Raises BlobUnavailable when no connected peer has that θ in time."""
    limit = node.spec.dataset.max_blob_bytes
    node.traffic.is_state(state_hash)
    with _waiting_for(node, f"the state {state_hash[:16]}"):
        return await node.exchange.fetch(
            state_hash,
            node.holders(),
            max_bytes=limit,
            deadline_seconds=_STATE_SECONDS,
            seed=seed,
            priority=Priority.SNAPSHOT,
        )


async def install(node: Node) -> messages.Loaded:
    """Load the journal's state into the engine; what does not hash to what it should is repaired first. Raises
    Desynced if that was in vain, or if a token file was damaged: then it is fetched anew by the next catch-up."""
    path = await _state(node, node.journal.memory.state_hash)
    loaded = await _load_sound(node, path)
    if loaded is None:
        loaded = await _load_sound(node, await _repair(node, path))
    if loaded is None:
        raise Desynced("θ is damaged again as soon as it is repaired: is the disk or the memory failing?")
    node.contribution_bytes, node.parameters = loaded.contribution_bytes, loaded.parameters
    return loaded


async def _load_sound(node: Node, theta: Path) -> messages.Loaded | None:
    """None if that file is not the journal's θ: torn, not finite, or simply another."""
    try:
        loaded = await _load(node, theta)
    except EngineRefused as refused:
        if _set_aside(node, refused):
            return await _load_sound(node, theta)
        if refused.path != str(theta):
            _drop_damaged_tokens(node, refused)
            raise
        log.error("θ on disk cannot be loaded", error=str(refused))
        return None
    return loaded if loaded.state_hash == node.journal.memory.state_hash else None


def _set_aside(node: Node, refused: EngineRefused) -> bool:
    """Whether a damaged file of the engine's own was moved away: better to go on without what was not sent yet, or
    with a fresh optimiser, than not to go on."""
    path = Path(refused.path) if refused.path else None
    if path is None or path.parent != node.config.node.state_directory / "engine" or not path.exists():
        return False
    path.replace(path.with_suffix(".damaged"))
    log.error("damaged engine state set aside, going on without it", path=str(path), error=str(refused))
    node.board.update(last_error=f"{path} was damaged and is set aside: {refused}")
    return True


def _drop_damaged_tokens(node: Node, refused: EngineRefused) -> None:
    """Raises Desynced if the refused file was one of the run's token files: nobody else's bytes can be ours."""
    for blob_id in (*node.spec.dataset.train_shards, node.spec.dataset.heldout_shard):
        if refused.path and refused.path == str(node.blobs.path(blob_id)):
            node.blobs.delete(blob_id)
            raise Desynced(f"tokens on disk are damaged and will be fetched anew: {refused}") from refused


async def _repair(node: Node, damaged: Path) -> Path:
    """The file on disk is not what its name says: keep its good pieces, take the others from a peer."""
    state_hash = node.journal.memory.state_hash
    log.error("θ on disk is damaged: fetching the damaged pieces from another peer", state_hash=state_hash[:16])
    seed = node.staging / "damaged-state"
    await trio.Path(damaged).rename(seed)
    node.blobs.delete(state_hash)
    try:
        path = await _state(node, state_hash, seed=seed)
    finally:
        await trio.Path(seed).unlink(missing_ok=True)
    log.info("θ repaired from another peer", state_hash=state_hash[:16])
    return path


async def _load(node: Node, theta: Path) -> messages.Loaded:
    memory, dataset, config = node.journal.memory, node.spec.dataset, node.config
    return await node.engine.order(
        messages.Load(
            training=node.history.genesis.training.as_dict(),
            round=memory.round,
            theta_path=str(theta),
            train_shards=tuple(str(node.blobs.path(shard)) for shard in dataset.train_shards),
            heldout_shard=str(node.blobs.path(dataset.heldout_shard)),
            state_directory=str(config.node.state_directory / "engine"),
            threads=config.engine.training_threads,
            device=config.engine.device,
            behavior=config.testing.behavior,
        ),
        messages.Loaded,
    )


async def _follow(node: Node, certified: Certified, ahead: frozenset[str]) -> None:
    """Replay one certified round. `ahead`: the rosters of those after it, here already and still to be kept."""
    ahead |= {certified.digest}
    await _void_rounds(node, certified.body.round, ahead)
    if certified.body.base_state_hash != node.journal.memory.state_hash:
        log.error("our θ is not the certified one: taking it from a peer", round=certified.body.round)
        await _jump(node, certified)
        await install(node)
    paths = await gather.contributions(node, certified.body, _REPLAY_SECONDS, Priority.CATCH_UP)
    await advance(node, certified, paths, ahead)
    log.info("round replayed", round=certified.body.round)


async def _void_rounds(node: Node, until: int, ahead: frozenset[str] = frozenset()) -> None:
    for _ in range(node.journal.memory.round, until):
        await advance(node, None, (), ahead)


async def advance(
    node: Node, certified: Certified | None, paths: tuple[Path, ...], ahead: frozenset[str] = frozenset()
) -> messages.Advanced:
    """The outer step of the journal's round (None: void), made durable: engine, blob, journal, in that order. Blobs
    that nobody will ask for are deleted, but for those `ahead`.

    A crash between any two of them is harmless: the error feedback settles by round, once, and θ is recomputed.
    """
    memory = node.journal.memory
    entries = certified.body.contributions if certified else ()
    theta = node.staging / f"theta-{memory.round + 1}" if certified else None
    order = messages.Advance(
        round=memory.round,
        contributions=tuple(str(path) for path in paths),
        hotkeys=tuple(public_key(e.hotkey).hex() for e in entries),
        base_state_hash=memory.state_hash,
        alpha=certified.body.alpha if certified else 0.0,
        own_included=certified is not None and _lists_ours(node, certified.body),
        theta_path=str(theta) if theta else None,
    )
    advanced = await node.engine.order(order, messages.Advanced)
    if certified:
        await revisions.learn(node, certified.body.changes)
    if theta:
        node.traffic.is_state(await node.exchange.adopt(theta, node.spec.piece_bytes, shared=True))
    blobs = (certified.digest, *(e.blob_id for e in entries)) if certified else ()
    digest = certified.digest if certified else None
    node.journal.finish_round(PastRound(memory.round, digest, advanced.state_hash, blobs))
    node.traffic.is_past(blobs)
    revisions.put_in_force(node)
    _prune(node, ahead)
    return advanced


def _lists_ours(node: Node, body: Roster) -> bool:
    """Whether what was sent in that round is what the error feedback is to be relieved of: after its file was lost
    we may have sealed another contribution than the one we had committed to."""
    sealed, ours = node.journal.memory.sealed, node.hotkey.hotkey
    if sealed is None or sealed.round != body.round:
        return body.lists(ours)
    return any((entry.hotkey, entry.blob_id) == (ours, sealed.blob_id) for entry in body.contributions)


def _prune(node: Node, ahead: frozenset[str]) -> None:
    """Keep what others may still ask for: the dataset, θ_0, the last states, the last rounds' contributions."""
    memory, dataset = node.journal.memory, node.spec.dataset
    kept = {dataset.tokenizer, *dataset.train_shards, dataset.heldout_shard, node.spec.genesis_state}
    kept |= {memory.state_hash, *(past.state_hash for past in memory.past[-KEPT_STATES:])}
    kept |= {blob for past in memory.past[-REPLAYED_ROUNDS:] for blob in past.blobs}
    kept |= {past.digest for past in memory.past if past.digest} | set(memory.changes)
    kept |= {memory.offered} if memory.offered else set()
    if memory.sealed:
        kept.add(memory.sealed.blob_id)
    node.blobs.retain(kept | ahead)
    node.traffic.retain(kept | ahead)
