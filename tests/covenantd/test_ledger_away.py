"""A client that was away for longer than the ledger keeps its blocks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from covenantd.chain.ledger import node as node_module
from covenantd.chain.ledger import store as store_module
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.ledger.genesis import Genesis
from covenantd.chain.ledger.listeners import open_unix_listener
from covenantd.chain.ledger.node import LedgerNode
from covenantd.chain.ledger.server import LedgerServer
from covenantd.chain.ledger.store import LedgerStore
from covenantd.errors import ChainRefused

KEPT = 20


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[LedgerNode]:
    """A ledger in this process; blocks come by `produce`."""
    store = LedgerStore(directory / "ledger.db")
    node = LedgerNode(store, Genesis(), lambda: 1)
    async with trio.open_nursery() as nursery:
        listener = open_unix_listener(directory / "ledger.sock")
        await nursery.start(trio.serve_listeners, LedgerServer(node, 0).serve, [listener])
        yield node
        nursery.cancel_scope.cancel()
    store.close()


@pytest.mark.parametrize("blocks", [KEPT, KEPT + 1, 3 * KEPT])
async def test_heads_go_on_over_blocks_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    for module in (store_module, node_module):
        monkeypatch.setattr(module, "KEPT_BLOCKS", KEPT)
    async with serving(tmp_path) as node:
        chain = LedgerChain(f"unix://{tmp_path}/ledger.sock", 1)
        node.produce()
        heads = chain.heads()
        assert (await anext(heads)).number == 1
        for _ in range(blocks):
            node.produce()
        with trio.fail_after(10):
            assert (await anext(heads)).number == 1 + blocks
        if blocks > KEPT:
            with pytest.raises(ChainRefused, match="StateDiscarded"):
                await chain.block(1)
        await chain.aclose()
