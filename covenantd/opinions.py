"""The numbers behind a score: a validator tells a miner what it holds of the miner's own hotkey, and of no other.

The asker is known by the stream it asks on: the transport vouches for its peer id, its hello for its hotkey. The
answer is a record signed by the validator's hotkey, as everything that peers say of the run.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
import trio

from covenantd.chain.keys import verify
from covenantd.node import Node
from covenantd.scores import Scores
from p2p import records
from p2p.errors import P2pError, ProtocolViolation, RecordRejected, Refused
from p2p.peerbook import Peer
from p2p.protocols import PeerId
from p2p.wire import Fields

log = structlog.get_logger("covenantd.opinions")
KIND = "opinion"
_ASKED_VALIDATORS = 8
_ANSWER_SECONDS = 4.0


@dataclass(frozen=True)
class Opinion:
    """`gain`: running mean of how much a contribution alone lowers the loss, relative to it; `rounds`: in how many it
    was judged; `share`: of the reward, by this validator's numbers alone."""

    gain: float
    rounds: int
    share: float


async def serve(node: Node, scores: Scores) -> None:
    async def answer(peer_id: PeerId, message: object) -> object:
        """Raises Refused."""
        asker = node.swarm.by_peer_id(peer_id)
        if asker is None:
            raise Refused("who are you? say hello first")
        standing = scores.standings.get(asker.hotkey)
        if standing is None:
            raise Refused("no contribution of yours was judged here")
        share = scores.shares().get(asker.hotkey, 0.0)
        body = {"hotkey": asker.hotkey, "gain": standing.gain, "rounds": standing.rounds, "share": share}
        return {KIND: _signed(node, body)}

    await node.swarm.answer(node.spec.protocol(KIND), answer)


def _signed(node: Node, body: Mapping[str, object]) -> bytes:
    return records.sign(
        node.hotkey,
        run_id=node.spec.run_id,
        kind=KIND,
        round=node.journal.memory.round,
        peer_id=node.swarm.peer_id,
        body=body,
        issued_at=time.time(),
    )


async def ask(node: Node) -> dict[str, Opinion]:
    """Validator's hotkey -> what it holds of us, of those connected that answer in time."""
    found: dict[str, Opinion] = {}

    async def one(peer: Peer) -> None:
        try:
            answer = Fields(await node.swarm.ask(peer.peer_id, node.spec.protocol(KIND), {}, _ANSWER_SECONDS))
            found[peer.hotkey] = _opened(node, peer, answer.raw(KIND, max_bytes=records.MAX_RECORD_BYTES))
        except (P2pError, ProtocolViolation) as error:
            log.info("a validator does not say what it thinks of us", peer=peer.peer_id, error=str(error))

    validators = [peer for peer in node.swarm.peers() if peer.connected and peer.role == "validator"]
    async with trio.open_nursery() as nursery:
        for peer in validators[:_ASKED_VALIDATORS]:
            nursery.start_soon(one, peer)
    return found


def _opened(node: Node, peer: Peer, data: bytes) -> Opinion:
    """Raises ProtocolViolation, RecordRejected unless that validator says it of us."""
    record = records.open_record(
        data, verify, run_id=node.spec.run_id, kind=KIND, hotkey=peer.hotkey, peer_id=peer.peer_id
    )
    fields = record.fields()
    if fields.text("hotkey", 64) != node.hotkey.hotkey:
        raise RecordRejected("malformed", "it speaks of somebody else")
    return Opinion(fields.real("gain", -10, 10), fields.number("rounds", 0, 1 << 31), fields.real("share", 0, 1))
