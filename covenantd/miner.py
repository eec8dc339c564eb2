"""A miner's half of a round: train, seal, commit."""

import math
import time
from dataclasses import dataclass

import structlog
import trio

from covenantd import commits
from covenantd.commits import Commit
from covenantd.journal import SealedContribution
from covenantd.node import Node
from covenantd.proofs import check_in_time
from covenantd.receipts import RECEIPT_BYTES, open_receipt
from covenantd.roster import quorum
from model import messages
from model.config import SCHEDULE
from p2p import records
from p2p.errors import P2pError, ProtocolViolation, RecordRejected, Refused
from p2p.wire import Fields

log = structlog.get_logger("covenantd.miner")
_RETRY_SECONDS = 0.5
_MIRROR_ROUNDS = 3


@dataclass(frozen=True)
class Receipt:
    hotkey: str
    signed: bytes


async def train(node: Node, round: int) -> int:
    """Train from θ_round on the round's assignment; returns the inner steps done. Raises Desynced."""
    await node.check_state()
    key = await node.assignment_key(node.hotkey.hotkey, round)
    node.board.update(inner_step=0, inner_steps=node.spec.inner_steps)
    order = messages.Train(round, key, node.spec.inner_steps, _schedule(node))
    trained = await node.engine.order(order, messages.Trained, lambda p: _show(node, p))
    node.metrics.inner_steps.inc(trained.inner_steps)
    node.metrics.tokens.inc(trained.tokens)
    node.metrics.nonfinite_steps.inc(trained.nonfinite_steps)
    if math.isfinite(trained.loss):
        node.metrics.loss.labels(split="train").set(trained.loss)
        node.board.update(loss=trained.loss)
    log.info("trained", round=round, inner_steps=trained.inner_steps, loss=shown(trained.loss))
    return trained.inner_steps


def _schedule(node: Node) -> dict[str, float]:
    """What the engine, which was loaded with the genesis spec, must be told of later changes."""
    return {name: getattr(node.spec.inner, name) for name in SCHEDULE} if node.spec.revision else {}


def _show(node: Node, progress: messages.Progress) -> None:
    node.board.update(inner_step=progress.inner_step, loss=progress.loss, tokens_per_second=progress.tokens_per_second)
    node.metrics.learning_rate.set(progress.learning_rate)
    node.metrics.gradient_norm.set(progress.gradient_norm)
    node.metrics.gpu_memory.set(progress.gpu_memory_bytes)


async def seal(node: Node, round: int, inner_steps: int, in_time: bool) -> bool:
    """Δ goes into the error feedback; in time and with enough steps, a contribution is written too."""
    contributes = in_time and inner_steps >= node.spec.min_inner_steps
    path = node.staging / f"contribution-{round}" if contributes else None
    base = node.journal.memory.state_hash
    order = messages.Seal(round, base, node.hotkey.public_key_hex, str(path) if path else None)
    sealed = await node.engine.order(order, messages.Sealed)
    node.metrics.error_feedback_norm.set(sealed.error_feedback_norm)
    if path is None:
        log.info("round trained but not sealed", round=round, inner_steps=inner_steps, in_time=in_time)
        return False
    blob_id = await node.exchange.adopt(path, node.spec.piece_bytes, withheld=True)
    node.journal.update(sealed=SealedContribution(round, blob_id, sealed.bytes, inner_steps, base))
    node.metrics.contribution_bytes.labels(stage="encoded").set(sealed.bytes)
    node.metrics.contribution_bytes.labels(stage="dense").set(4 * node.parameters)
    node.metrics.compression_ratio.set(4 * node.parameters / sealed.bytes)
    return True


async def commit(node: Node, round: int) -> None:
    """Push the signed commit to every certifier until C_r, collect receipts, mirror both in the DHT."""
    sealed = node.journal.memory.sealed
    if sealed is None or sealed.round != round:
        return
    node.exchange.withhold(sealed.blob_id)
    signed = _sign(node, sealed)
    enrolled = await node.agreement.certifiers(round)
    receipts: dict[str, Receipt] = {}

    async def push(certifier: str) -> None:
        """Mirrored at once when there are enough receipts: certifiers look for them right after C_r."""
        await _push(node, certifier, round, signed, receipts)
        if quorum(sum(enrolled[h] for h in receipts), sum(enrolled.values())):
            await _mirror(node, round, signed, _weightiest(receipts, enrolled))

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.heads.cancel_at, node.spec.timing.commit(round) + 1, scope)
            async with trio.open_nursery() as pushes:
                for hotkey in enrolled:
                    pushes.start_soon(push, hotkey)
            scope.cancel()
    stake = sum(enrolled[h] for h in receipts)
    log.info("committed", round=round, receipts=len(receipts), certifiers=len(enrolled), stake=stake)


def _sign(node: Node, sealed: SealedContribution) -> bytes:
    body = Commit(
        node.hotkey.hotkey,
        node.swarm.peer_id,
        sealed.round,
        sealed.blob_id,
        sealed.size,
        sealed.base_state_hash,
        sealed.inner_steps,
    ).body()
    return records.sign(
        node.hotkey,
        run_id=node.spec.run_id,
        kind=commits.COMMIT,
        round=sealed.round,
        peer_id=node.swarm.peer_id,
        body=body,
        issued_at=time.time(),
    )


async def _push(node: Node, certifier: str, round: int, signed: bytes, receipts: dict[str, Receipt]) -> None:
    """Until this certifier answers: a receipt, or a no that is final."""
    tries = 0
    while True:
        await trio.sleep(_RETRY_SECONDS if tries else 0)
        tries += 1
        peer = node.swarm.by_hotkey(certifier)
        if peer is not None:
            try:
                answer = Fields(
                    await node.swarm.ask(peer.peer_id, node.spec.protocol(commits.COMMIT), {"commit": signed})
                )
                if answer.has("refused"):
                    reason = answer.text("refused", 64)
                    log.warning("commit refused", certifier=certifier, reason=reason, peer_caused=True)
                    if reason != commits.EARLY:  # the certifier may still be finishing the round before
                        return
                    continue
                receipts[certifier] = _receipt(
                    node, certifier, round, signed, answer.raw("receipt", exact=RECEIPT_BYTES)
                )
                return
            except Refused as refusal:  # as no commit at all: asking again would not help
                log.error("commit refused", certifier=certifier, reason=str(refusal), peer_caused=True)
                return
            except (P2pError, ProtocolViolation) as error:
                log.info("commit not delivered yet", certifier=certifier, error=str(error), peer_caused=True)


def _receipt(node: Node, certifier: str, round: int, signed: bytes, data: bytes) -> Receipt:
    """Raises RecordRejected unless the certifier signed that it saw this very commit in time."""
    receipt = open_receipt(data, commits.digest(signed))
    if receipt.hotkey != certifier:
        raise RecordRejected("hotkey", f"a receipt of {receipt.hotkey}")
    check_in_time(node.spec.timing, receipt, round)
    return Receipt(certifier, data)


def _weightiest(receipts: dict[str, Receipt], enrolled: dict[str, int]) -> list[bytes]:
    """Of the largest stakes first, as many as prove that the commit was in time."""
    chosen: list[str] = []
    for hotkey in sorted(receipts, key=lambda h: (-enrolled[h], h)):
        if not quorum(sum(enrolled[h] for h in chosen), sum(enrolled.values())):
            chosen.append(hotkey)
    if len(chosen) > commits.MAX_RECEIPTS:
        log.error("more receipts than a record holds: too many small certifiers", receipts=len(chosen))
    return [receipts[hotkey].signed for hotkey in chosen[: commits.MAX_RECEIPTS]]


async def _mirror(node: Node, round: int, signed: bytes, proofs: list[bytes]) -> None:
    timing = node.spec.timing
    lifetime_seconds = max(60.0, _MIRROR_ROUNDS * timing.blocks_per_round * timing.block_seconds)
    try:
        await node.swarm.publish(commits.COMMITTED, round, {"commit": signed, "receipts": proofs}, lifetime_seconds)
    except P2pError as error:
        log.warning("commit not mirrored in the DHT", error=str(error))


def shown(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else value
