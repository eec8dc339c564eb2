"""Joining with every bootstrap peer dead: from the cache, else from other candidates."""

import pytest
import trio

from p2p.company import keep_cache, keep_company
from p2p.peerbook import Peer
from p2p.peercache import MAX_ADDRESSES, PeerCache


def test_it_remembers_the_newest_first_and_is_bounded(tmp_path):
    cache = PeerCache(tmp_path / "peers.json")
    assert cache.addresses == ()
    cache.remember([f"/ip4/10.0.0.1/tcp/{port}/p2p/X" for port in range(2 * MAX_ADDRESSES)])
    cache.remember(["/ip4/10.0.0.2/tcp/1/p2p/Y", "nonsense", "/x" * 500 + "/p2p/Z"])
    again = PeerCache(tmp_path / "peers.json")
    assert again.addresses == cache.addresses
    assert len(again.addresses) == MAX_ADDRESSES and again.addresses[0] == "/ip4/10.0.0.2/tcp/1/p2p/Y"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"addresses": 3}', '{"addresses": [1, null]}', "[" * 100_000])
def test_a_broken_file_is_an_empty_one(tmp_path, text):
    (tmp_path / "peers.json").write_text(text)
    cache = PeerCache(tmp_path / "peers.json")
    assert cache.addresses == ()
    cache.remember(["/ip4/10.0.0.2/tcp/1/p2p/Y"])
    assert PeerCache(tmp_path / "peers.json").addresses == ("/ip4/10.0.0.2/tcp/1/p2p/Y",)


def test_a_directory_that_is_gone_costs_only_the_cache(tmp_path):
    cache = PeerCache(tmp_path / "none" / "peers.json")
    cache.remember(["/ip4/10.0.0.2/tcp/1/p2p/Y"])
    assert cache.addresses == ("/ip4/10.0.0.2/tcp/1/p2p/Y",)


async def test_who_is_alone_tries_everybody_and_stops_when_somebody_is_there(autojump_clock, nursery):
    tried, dead = [], [f"/ip4/10.0.0.1/tcp/{port}/p2p/{port}" for port in range(20)]
    alone = True

    async def meet(peer_id, address):
        nonlocal alone
        await trio.sleep(1)
        tried.append(address)
        alone = alone and peer_id != "friend"
        return not alone

    addresses = [*dead, "/ip4/10.0.0.2/tcp/1/p2p/friend", *(f"{one}-late" for one in dead)]
    nursery.start_soon(keep_company, lambda: alone, lambda: addresses, meet, (5.0, 15.0), 8)
    await trio.sleep(60)
    assert set(dead) < set(tried) and "/ip4/10.0.0.2/tcp/1/p2p/friend" in tried
    assert len(tried) == 24 and len(tried) == len(set(tried))  # three handfuls of eight, then there was company
    alone = True
    await trio.sleep(60)
    assert len(tried) > 24 and not alone


async def test_who_is_connected_is_remembered(autojump_clock, nursery, tmp_path):
    cache = PeerCache(tmp_path / "peers.json")
    met = [Peer(k, k, (f"/ip4/10.0.0.1/tcp/1/p2p/{k}",), "miner", 0.0, k == "near") for k in ("near", "far")]
    nursery.start_soon(keep_cache, cache, lambda: met, 30.0)
    await trio.sleep(31)
    assert PeerCache(tmp_path / "peers.json").addresses == ("/ip4/10.0.0.1/tcp/1/p2p/near",)
