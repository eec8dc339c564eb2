"""What a validator tells a miner of itself: signed, of the asker alone, and nothing a liar says is taken."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from node_fixture import make_node, peer
from run_fixture import HOTKEYS
from test_reach import Asked

from covenantd import opinions
from covenantd.chain.keys import Hotkey
from covenantd.gauntlet.standing import Standing
from covenantd.node import Node
from covenantd.opinions import Opinion
from covenantd.scores import Scores
from p2p.errors import ProtocolViolation, RecordRejected, Refused
from p2p.peerbook import Peer
from p2p.testing import MemoryNetwork

BOB, ALICE = HOTKEYS[1], HOTKEYS[0]
JUDGED = {BOB: Standing(0.02, 7), HOTKEYS[2]: Standing(0.06, 7)}


def member(name: str, role: str) -> Peer:
    return replace(peer(name), hotkey=Hotkey.from_uri(f"//{name}").hotkey, role=role)


def joined(network: MemoryNetwork, directory: Path, name: str, known: tuple[Peer, ...]) -> Node:
    directory.mkdir()
    node = make_node(directory)
    node.hotkey = Hotkey.from_uri(f"//{name}")
    node.swarm = cast(Any, Asked(peer_id=name, present=known, transport=network.transport(name)))
    return node


@pytest.fixture
async def pair(nursery: trio.Nursery, tmp_path: Path) -> tuple[Node, Node]:
    """Bob, who trains, and Alice, who validates and has judged him."""
    network = MemoryNetwork(nursery)
    bob = joined(network, tmp_path / "bob", "Bob", (member("Alice", "validator"), member("Dave", "miner")))
    alice = joined(network, tmp_path / "alice", "Alice", (member("Bob", "miner"), member("Dave", "miner")))
    scores = Scores(alice, tmp_path / "scores.json")
    scores.standings = JUDGED
    await opinions.serve(alice, scores)
    return bob, alice


async def test_a_miner_learns_its_own_numbers(pair: tuple[Node, Node]) -> None:
    bob, _ = pair
    told = await opinions.ask(bob)
    assert told == {ALICE: Opinion(0.02, 7, pytest.approx(0.25))}
    assert cast(Asked, bob.swarm).asked == ["Alice"], "nobody but validators is asked"


async def test_who_was_not_judged_or_is_not_known_is_refused(pair: tuple[Node, Node]) -> None:
    bob, alice = pair
    protocol = bob.spec.protocol(opinions.KIND)
    cast(Asked, alice.swarm).present = (member("Dave", "miner"),)
    with pytest.raises(Refused, match="say hello first"):
        await bob.swarm.ask("Alice", protocol, {}, 5)
    cast(Asked, alice.swarm).present = (replace(member("Dave", "miner"), peer_id="Bob"),)
    with pytest.raises(Refused, match="no contribution of yours"):
        await bob.swarm.ask("Alice", protocol, {"hotkey": HOTKEYS[2]}, 5)
    assert await opinions.ask(bob) == {}


async def test_what_is_not_that_validators_word_on_us_is_left_out(pair: tuple[Node, Node]) -> None:
    bob, alice = pair
    good = {"hotkey": BOB, "gain": 0.02, "rounds": 7, "share": 0.25}
    validator = member("Alice", "validator")

    def opened(body: dict[str, object], node: Node = alice) -> Opinion:
        return opinions._opened(bob, validator, opinions._signed(node, body))

    assert opened(good) == Opinion(0.02, 7, 0.25)
    lies: list[dict[str, object]] = [{"hotkey": ALICE}, {"gain": float("nan")}, {"gain": 1e9}, {"rounds": -1}]
    for bad in (*lies, {"share": 2.0}, {"share": "x"}):
        with pytest.raises(ProtocolViolation):
            opened({**good, **bad})
    with pytest.raises(RecordRejected):
        opened(good, bob)  # signed by somebody else
