"""Joining with every bootstrap peer dead, real daemons: by what the chain says, and without a chain from the cache."""

import json

import pytest
from arena import OpenArena

pytestmark = pytest.mark.swarm


async def test_who_finds_every_bootstrap_peer_dead_joins_by_the_chain_and_later_from_its_cache(
    new_arena: OpenArena,
) -> None:
    async with new_arena(miners=1) as arena:
        arena.start("bootstrap", "validator-0")
        await arena.ready("validator-0")  # its address is on chain
        await arena.kill("bootstrap")
        arena.start("miner-0")  # knows the dead bootstrap peer, and nobody else
        validator = arena.peers["validator-0"].hotkey.hotkey

        def met(statuses):
            return any(peer.hotkey == validator and peer.connected for peer in statuses["miner-0"].peers)

        await arena.until(met, "miner-0", what="a peer whose address the chain has")
        cache = arena.peers["miner-0"].directory / "state" / "peers.json"
        await arena.until(lambda _: cache.exists(), "miner-0", what="the cache")
        assert json.loads(cache.read_text())["addresses"]
        await arena.kill("miner-0")
        await arena.ledger.stop(5)
        arena.start("miner-0")
        await arena.until(met, "miner-0", what="a peer of the cache, with no chain to ask")
