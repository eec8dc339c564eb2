"""A peer that does not keep to the rules: its own p2pd, its own hotkey, and whatever it likes to say."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from arena import Arena

from covenantd import commits
from covenantd.chain.keys import Hotkey, verify
from covenantd.localpeers import LocalPeer
from covenantd.runspec import RunSpec
from p2p import records, wire
from p2p._p2pd import P2pdSettings, P2pdTransport, open_p2pd
from p2p.blobs import BlobStore
from p2p.dht import open_dht
from p2p.errors import P2pError, StreamClosed
from p2p.exchange import Exchange
from p2p.identity import ensure_identity
from p2p.published import place_by_signature
from p2p.swarm import Swarm, SwarmSettings

_SECONDS = 20.0


@dataclass
class Stranger:
    """Somebody who has dialled one peer and knows its hotkey and peer id."""

    transport: P2pdTransport
    spec: RunSpec
    victim: str  # peer id

    async def say(self, data: bytes) -> object:
        """Raw bytes on the commit protocol. The answer; StreamClosed when it was none."""
        stream = await self.transport.open(self.victim, self.spec.protocol(commits.COMMIT))
        try:
            with trio.fail_after(_SECONDS):
                await stream.send_all(data)
                return await wire.receive_frame(stream)
        finally:
            await stream.aclose()

    async def commit(self, signed: bytes) -> str:
        """ "receipt", or why it was refused: our word, or "closed" for no word at all."""
        try:
            frame = wire.pack({"commit": signed})
            answer: Any = await self.say(len(frame).to_bytes(4, "big") + frame)
        except StreamClosed:
            return "closed"
        inner = answer.get("ok", answer)
        return "receipt" if "receipt" in inner else str(inner["refused"])

    async def unheard(self, data: bytes) -> bool:
        """Whether nothing came back on these bytes."""
        try:
            await self.say(data)
        except P2pError:
            return True
        return False


@dataclass
class Rogue(Stranger):
    """A registered miner, as far as the others can tell."""

    hotkey: Hotkey
    swarm: Swarm
    exchange: Exchange
    store: BlobStore

    def signed(self, blob_id: str, size: int, base: str, round: int, **other: Any) -> bytes:
        body = {"blob_id": blob_id, "size": size, "base_state_hash": base, "inner_steps": 2}
        return sign_commit(self.hotkey, self.spec, self.transport.peer_id, round, body, **other)

    def offer(self, directory: Path, data: bytes) -> str:
        """Serve these bytes from now on; their blob id."""
        path = directory / "offered"
        path.write_bytes(data)
        return self.store.adopt(path, self.spec.piece_bytes)


def sign_commit(
    hotkey: Hotkey, spec: RunSpec, peer_id: str, round: int, body: dict[str, object], run_id: str | None = None
) -> bytes:
    return records.sign(
        hotkey,
        run_id=run_id or spec.run_id,
        kind=commits.COMMIT,
        round=round,
        peer_id=peer_id,
        body=body,
        issued_at=time.time(),
    )


@asynccontextmanager
async def stranger(arena: Arena, directory: Path, victim: str) -> AsyncIterator[Stranger]:
    """Nobody in particular, connected to the named daemon."""
    await trio.Path(directory).mkdir()
    ensure_identity(directory / "p2p.key")
    status = await arena.status(victim)
    assert status is not None
    async with open_p2pd(P2pdSettings(directory / "p2p.key", listen_host="127.0.0.1")) as transport:
        yield Stranger(transport, arena.spec, await transport.dial(status.addresses[0]))


@asynccontextmanager
async def rogue(arena: Arena, peer: LocalPeer, victim: str) -> AsyncIterator[Rogue]:
    """In the swarm by its registered hotkey; it serves blobs and reads the DHT as all do."""
    async with stranger(arena, peer.directory / "rogue", victim) as base:
        transport, run_id = base.transport, arena.spec.run_id
        async with (
            open_dht(transport, place_by_signature(run_id, verify)) as dht,
            trio.open_nursery() as nursery,
        ):
            swarm = Swarm(transport, dht, peer.hotkey, verify, SwarmSettings(run_id, "miner", (arena.bootstrap_dial,)))
            store = BlobStore(peer.directory / "rogue" / "blobs")
            exchange = Exchange(swarm.transport, store, reputation=swarm.reputation)
            await exchange.start(nursery)
            await nursery.start(swarm.run)
            yield Rogue(transport, base.spec, base.victim, peer.hotkey, swarm, exchange, store)
            nursery.cancel_scope.cancel()
