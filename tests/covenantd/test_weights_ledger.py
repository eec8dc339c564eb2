"""Weights of a validator on the embedded ledger, hidden at first, where rounds are much longer than a tempo."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import trio
import trio.testing

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.ledger.genesis import parse_genesis
from covenantd.chain.ledger.listeners import open_unix_listener
from covenantd.chain.ledger.node import LedgerNode
from covenantd.chain.ledger.server import LedgerServer
from covenantd.chain.ledger.store import LedgerStore
from covenantd.gauntlet.standing import Standing
from covenantd.heads import Heads
from covenantd.node import Node
from covenantd.scores import Scores
from covenantd.weights import WeightSetter

US, MINER = Hotkey.from_uri("//Validator"), Hotkey.from_uri("//Miner")
TEMPO, BLOCKS_PER_ROUND = 5, 23
GENESIS = {
    "neurons": [{"hotkey": US.hotkey, "stake": 10**12}, {"hotkey": MINER.hotkey}],
    "tempo_blocks": TEMPO,
    "commit_reveal": True,
    "reveal_period_epochs": 2,
}


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[LedgerNode]:
    store = LedgerStore(directory / "ledger.db")
    node = LedgerNode(store, parse_genesis(GENESIS), lambda: 1)
    async with trio.open_nursery() as nursery:
        listener = open_unix_listener(directory / "ledger.sock")
        await nursery.start(trio.serve_listeners, LedgerServer(node, 0).serve, [listener])
        yield node
        nursery.cancel_scope.cancel()
    store.close()


@asynccontextmanager
async def validator(directory: Path) -> AsyncIterator[tuple[Scores, Heads]]:
    """What a daemon runs for its weights; what it must not forget is in the directory."""
    chain, heads = LedgerChain(f"unix://{directory}/ledger.sock", 1, US, hidden=directory / "weights.json"), Heads()

    async def registered(round: int) -> frozenset[str]:
        return frozenset([US.hotkey, MINER.hotkey])

    node = SimpleNamespace(
        chain=chain,
        heads=heads,
        hotkey=US,
        spec=SimpleNamespace(scoring=SimpleNamespace(decay=0.5)),
        agreement=SimpleNamespace(registered=registered),
    )
    scores = Scores(cast(Node, node), directory / "scores.json")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(WeightSetter(cast(Node, node), scores).run)
        nursery.start_soon(_follow, chain, heads)
        yield scores, heads
        nursery.cancel_scope.cancel()
    await chain.aclose()


async def _follow(chain: LedgerChain, heads: Heads) -> None:
    async for block in chain.heads():
        heads.see(block)


@dataclass
class Watched:
    """The blocks our weights were committed in, and of which commits they were shown."""

    ledger: LedgerNode
    committed: set[int] = field(default_factory=set)
    shown: set[int] = field(default_factory=set)

    async def advance(self, heads: Heads, blocks: int) -> None:
        """A block once the validator has done what the last one made it do."""
        for _ in range(blocks):
            self.ledger.produce()
            with trio.fail_after(10):
                await heads.reached(self.ledger.head.number)
            await trio.testing.wait_all_tasks_blocked(0.01)
            state = self.ledger._state
            self.committed |= {state.neuron(0).last_update_block} - {0}
            self.shown |= {row.block for _, row in state.weights.items()}


async def test_all_weights_are_shown_in_their_epoch_also_after_a_restart(tmp_path: Path) -> None:
    """Nothing is set again before they would have expired."""
    async with serving(tmp_path) as ledger:
        watched = Watched(ledger)
        for number in range(3):
            async with validator(tmp_path) as (scores, heads):
                scores._keep({MINER.hotkey: Standing(0.1, 1)})
                await watched.advance(heads, 1)
                await scores.age(number, [MINER.hotkey])
                await watched.advance(heads, 2)  # committed to, and hidden
            assert watched.committed and ledger.head.number < max(watched.committed) + TEMPO
            async with validator(tmp_path) as (_, heads):  # another process
                await watched.advance(heads, BLOCKS_PER_ROUND - 3)
        assert len(watched.committed) >= 3 and watched.shown == watched.committed
        epochs = sorted(block // TEMPO for block in watched.committed)
        assert len(set(epochs)) == len(epochs)
        assert max(b - a for a, b in zip(epochs, epochs[1:], strict=False)) > 2
