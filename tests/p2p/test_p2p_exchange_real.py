"""The exchange on real p2pd processes and real threads."""

import os
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from p2p._background import background
from p2p._p2pd import P2pdSettings, open_p2pd
from p2p.blobs import BlobStore
from p2p.exchange import Exchange
from p2p.identity import create_identity

PIECE = 1 << 20


async def open_exchange(stack: AsyncExitStack, directory: Path) -> tuple[Exchange, str, str]:
    """An exchange on a p2pd of its own, its peer id and an address."""
    directory.mkdir()  # noqa: ASYNC240 (nothing else runs yet)
    create_identity(directory / "p2p.key")
    settings = P2pdSettings(directory / "p2p.key", listen_host="127.0.0.1")
    transport = await stack.enter_async_context(open_p2pd(settings))
    exchange = Exchange(transport, BlobStore(directory / "blobs"))
    await exchange.start(await stack.enter_async_context(background()))
    return exchange, transport.peer_id, transport.addresses[0]


async def test_a_blob_from_two_holders_and_on_to_a_fourth(tmp_path):
    data = os.urandom(24 * PIECE + 12_345)
    with trio.fail_after(120):
        async with AsyncExitStack() as stack:
            peers = [await open_exchange(stack, tmp_path / name) for name in "ABCD"]
            (a, a_id, a_address), (b, b_id, b_address), (c, c_id, c_address), (d, _, _) = peers
            for dialler, address in ((c, a_address), (c, b_address), (d, c_address)):
                await dialler._transport.dial(address)
            blob_ids = set()
            for exchange, name in ((a, "A"), (b, "B")):
                (tmp_path / name / "data").write_bytes(data)
                blob_ids.add(await exchange.adopt(tmp_path / name / "data", PIECE))
            (blob_id,) = blob_ids
            async with trio.open_nursery() as nursery:  # D has only C, which has nothing yet
                nursery.start_soon(lambda: d.fetch(blob_id, lambda: [c_id], max_bytes=1 << 30))
                path = await c.fetch(blob_id, lambda: [a_id, b_id], max_bytes=1 << 30)
            assert path.read_bytes() == data
            assert d.store.path(blob_id).read_bytes() == data
            assert set(c.received_bytes) == {a_id, b_id}
            assert c.received_bytes.total() <= len(data) + 8 * PIECE
            assert not a.reputation.bans() and not c.reputation.bans()
