"""Joining with every bootstrap peer dead: from the cache, else from other candidates."""

import pytest
import trio

from p2p.company import Company
from p2p.peerbook import Peer
from p2p.peercache import MAX_ADDRESSES, PeerCache
from p2p.swarm_settings import SwarmSettings


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


def peer(name, *addresses, connected=True):
    return Peer(name, name, addresses, "miner", 0.0, connected)


def at(number, name):
    return f"/ip4/10.0.0.{number}/tcp/1/p2p/{name}"


async def test_who_is_alone_tries_everybody_and_stops_when_somebody_is_there(autojump_clock, nursery):
    tried, dead, there = [], [f"/ip4/10.0.0.1/tcp/{port}/p2p/{port}" for port in range(20)], []

    async def meet(peer_id, address):
        await trio.sleep(1)
        tried.append(address)
        if peer_id == "friend":
            there.append(peer("friend"))
        return bool(there)

    addresses = [*dead, at(2, "friend"), *(f"{one}-late" for one in dead)]
    company = Company("me", lambda: there, lambda: addresses, None)
    nursery.start_soon(company.keep, meet, SwarmSettings("", "miner"))
    await trio.sleep(60)
    assert set(dead) < set(tried) and at(2, "friend") in tried
    assert len(tried) == 24 and len(tried) == len(set(tried))  # three handfuls of eight, then there was company
    there.clear()
    await trio.sleep(60)
    assert len(tried) > 24 and there


async def test_a_long_list_of_the_dead_does_not_hide_the_living(autojump_clock, nursery, tmp_path):
    """256 remembered peers that are gone take ten seconds each; one of those on chain is there."""
    cache, met, there = PeerCache(tmp_path / "peers.json"), trio.Event(), []
    cache.remember(at(1, f"dead{number}") for number in range(MAX_ADDRESSES))

    async def meet(peer_id, address):
        if peer_id == "friend":
            there.append(peer("friend"))
            met.set()
            return True
        await trio.sleep(10)
        return False

    chain = [at(3, "me"), *(at(2, f"gone{number}") for number in range(3)), at(2, "friend")]
    company = Company("me", lambda: there, lambda: chain, cache)
    assert at(3, "me") not in company.addresses()
    nursery.start_soon(company.keep, meet, SwarmSettings("", "miner"))
    with trio.fail_after(20):
        await met.wait()


async def test_whom_we_have_not_met_is_looked_for_at_leisure(autojump_clock, nursery):
    tried = []

    async def meet(peer_id, address):
        await trio.lowlevel.checkpoint()
        tried.append(peer_id)
        return False

    there = [peer("a"), peer("b", connected=False)]
    known = [at(1, "a"), at(1, "b"), at(1, "me"), *(at(1, f"other{number}") for number in range(20))]
    nursery.start_soon(Company("me", lambda: there, lambda: known, None).keep, meet, SwarmSettings("", "miner"))
    await trio.sleep(50)
    assert tried == []
    await trio.sleep(20)
    assert len(set(tried)) == 8  # no more than that at once
    await trio.sleep(20 * 60)
    assert set(tried) == {f"other{number}" for number in range(20)}
    assert len(tried) <= 21 * 8


def test_the_banned_are_not_looked_for(tmp_path):
    cache = PeerCache(tmp_path / "peers.json")
    cache.remember([at(1, "banned"), at(1, "cached")])
    known = [at(2, "banned"), at(1, "other")]
    company = Company("me", tuple, lambda: known, cache, {"banned"}.__contains__)
    assert set(company.addresses()) == set(company.unmet()) == {at(1, "other"), at(1, "cached")}


async def test_strangers_are_no_company(autojump_clock, nursery):
    """Connections that are not to peers of the run, as to a relay, leave us alone."""
    tried = []

    async def meet(peer_id, address):
        await trio.lowlevel.checkpoint()
        tried.append(address)
        return True

    there = [peer("away", connected=False)]
    company = Company("me", lambda: there, lambda: [at(1, "away")], None)
    nursery.start_soon(company.keep, meet, SwarmSettings("", "miner"))
    await trio.sleep(8)
    assert tried == [at(1, "away")]


async def test_where_peers_answered_is_remembered_then_what_reaches_them_from_afar(autojump_clock, nursery, tmp_path):
    cache = PeerCache(tmp_path / "peers.json")
    own = ("/ip4/127.0.0.1/tcp/1/p2p/near", "/ip4/192.168.0.9/tcp/1/p2p/near", "/ip4/8.8.8.8/tcp/1/p2p/near")
    met = [peer("near", *own), peer("far", at(1, "far"), connected=False)]
    company = Company("me", lambda: met, tuple, cache)
    nursery.start_soon(company.keep_cache, 30.0)
    await trio.sleep(31)
    assert PeerCache(tmp_path / "peers.json").addresses == (own[2], own[1])
    company.reached |= {"near": own[0], "far": at(1, "far")}
    await trio.sleep(30)
    assert PeerCache(tmp_path / "peers.json").addresses[:2] == (own[0], own[2])
    assert set(company.reached) == {"near"}
