"""Nobody can read a contribution while a commit is still accepted: there is nothing to copy."""

import json
from pathlib import Path

import pytest
import trio
from arena import Arena, OpenArena

from p2p._p2pd import P2pdSettings, P2pdTransport, open_p2pd
from p2p.exchange import PROTOCOL
from p2p.identity import ensure_identity
from p2p.wire import receive_frame, send_frame

pytestmark = pytest.mark.swarm


async def test_a_contribution_is_served_only_after_commits_are_closed(new_arena: OpenArena, tmp_path: Path) -> None:
    identity = tmp_path / "stranger.key"
    ensure_identity(identity)
    async with new_arena(miners=1) as arena:
        arena.start()
        await arena.ready("miner-0", "validator-0")
        await arena.train(0, ("miner-0",))
        blob_id = _sealed(arena)
        async with open_p2pd(P2pdSettings(identity, listen_host="127.0.0.1")) as transport:
            status = await arena.status("miner-0")
            assert status is not None
            peer = await transport.dial(status.addresses[0])
            assert not await _has(transport, peer, blob_id)
            await arena.advance_to(arena.spec.timing.commit(0))  # the last block a commit is accepted at
            await arena.until(lambda s: s["miner-0"].block == arena.spec.timing.commit(0), "miner-0", what="C_r")
            assert not await _has(transport, peer, blob_id)
            await arena.advance_to(arena.spec.timing.serve(0))
            await arena.until(lambda s: s["miner-0"].phase == "exchange", "miner-0", what="serving")
            assert await _has(transport, peer, blob_id)


def _sealed(arena: Arena) -> str:
    journal = json.loads((arena.peers["miner-0"].directory / "state" / "journal.json").read_text())
    assert journal["sealed"]["round"] == 0
    return str(journal["sealed"]["blob_id"])


async def _has(transport: P2pdTransport, peer: str, blob_id: str) -> bool:
    """Whether the peer serves that blob to us, a stranger."""
    stream = await transport.open(peer, PROTOCOL)
    try:
        with trio.fail_after(10):
            await send_frame(stream, {"want": blob_id})
            answer = await receive_frame(stream)
    finally:
        await stream.aclose()
    return "manifest" in answer
