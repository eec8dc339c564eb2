"""What the parts of a daemon share: the adapters that `daemon.py` built, and what is known so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
from blake3 import blake3

from covenantd.addresses import most_reachable
from covenantd.agreement import Agreement
from covenantd.board import StatusBoard
from covenantd.chain.keys import Hotkey
from covenantd.chain.protocol import Chain
from covenantd.config import Config
from covenantd.engineslot import EngineSlot
from covenantd.heads import Heads
from covenantd.journal import Journal
from covenantd.metrics import Metrics
from covenantd.roster import OnChainIdentity
from covenantd.runspec import RunSpec
from covenantd.specchange import SpecHistory
from covenantd.traffic import Traffic
from model import messages
from p2p.blobs import BlobStore
from p2p.exchange import Exchange
from p2p.protocols import PeerId
from p2p.swarm import Swarm


class Desynced(Exception):
    """Our θ is not the run's: it must be repaired before anything else."""


@dataclass
class Node:
    """`spec` is what is in force in the round in work; `covenantd.revisions` keeps it so."""

    config: Config
    spec: RunSpec
    history: SpecHistory
    hotkey: Hotkey
    chain: Chain
    agreement: Agreement
    swarm: Swarm
    exchange: Exchange
    blobs: BlobStore
    engine: EngineSlot
    journal: Journal
    heads: Heads
    board: StatusBoard
    metrics: Metrics
    traffic: Traffic
    commitment: trio.Lock  # held by whoever replaces our on-chain commitment: both its fields change at once
    staging: Path  # the engine writes here; the blob store adopts from here
    parameters: int = 0
    contribution_bytes: int = 0  # the exact size of a valid contribution, as the engine says

    @property
    def validates(self) -> bool:
        return self.config.node.role == "validator"

    def holders(self, first: str | None = None) -> Callable[[], Sequence[PeerId]]:
        """Connected peers, the one with hotkey `first` leading: whom to ask for a blob, asked anew each time."""

        def now() -> list[PeerId]:
            peers = [p for p in self.swarm.peers() if p.connected]
            return [p.peer_id for p in sorted(peers, key=lambda p: p.hotkey != first)]

        return now

    def identity(self) -> OnChainIdentity:
        """Field 0 of our commitment: how to reach us, and whether we certify."""
        address = most_reachable(self.swarm.transport.addresses, self.config.network.announce)
        return OnChainIdentity(self.swarm.peer_id, address, self.validates)

    async def check_state(self) -> None:
        """θ in memory must still be the θ that was committed: a flipped bit is found before it is trained on or
        scored with. Raises Desynced, or EngineRefused if the engine holds nothing at all."""
        ours = self.journal.memory.state_hash
        hashed = (await self.engine.order(messages.Hash(), messages.Hashed)).state_hash
        if hashed != ours:
            raise Desynced(f"θ in memory hashes to {hashed[:16]}, not {ours[:16]}")

    async def assignment_key(self, hotkey: str, round: int) -> str:
        """Names the data of (run, hotkey, round): drawn with the block before b_r, so nobody can choose it and
        anybody can recompute it."""
        block = await self.agreement.block_hash(self.spec.timing.start(round) - 1)
        text = f"covenantd assignment 1\n{self.spec.run_id}\n{hotkey}\n{round}\n{block}"
        return blake3(text.encode()).hexdigest()
