"""Anybody may write an address on chain; we dial only what is one."""

import pytest
import trio

from covenantd.admission import Admission
from covenantd.chain.protocol import Block, Commitment, Metagraph
from covenantd.roster import OnChainIdentity

PEER = "12D3KooWGjMCwWuhGMv6nPHsUqBJGAQqQNfYvQVXqZtXmFXBbmBz"
GOOD = ("/ip4/203.0.113.7/tcp/31330", "/dns4/peer.example/tcp/1", "/ip6/2001:db8::1/tcp/31330")
BAD = ("/unix/run/x.sock", "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/tcp/99999", "nonsense", "/ip4/::1/tcp/1")


class OneLook:
    """A chain that is read once."""

    def __init__(self, metagraph):
        self._metagraph = metagraph

    async def block(self):
        return Block(1, "00" * 32, 0.0)

    async def metagraph(self, block):
        return self._metagraph


@pytest.mark.parametrize("peer_id", [PEER, "../../etc"])
async def test_only_addresses_are_taken_from_commitments(autojump_clock, nursery, peer_id):
    fields = [OnChainIdentity(peer_id, address, False).encode() for address in (*GOOD, *BAD, "")]
    fields += [b"", b"\xff" * 128, b"something else"]
    commitments = {str(i): Commitment(str(i), 1, (field,)) for i, field in enumerate(fields)}
    admission = Admission()
    nursery.start_soon(admission.follow, OneLook(Metagraph(1, 1, (), commitments)), 1.0)

    await trio.sleep(1)
    assert admission.addresses == (tuple(f"{one}/p2p/{PEER}" for one in GOOD) if peer_id == PEER else ())
