"""The adapter with the SDK's whole transport, against a scripted node on a real websocket."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from memory_substrate import MemoryChain
from subtensor_node import SubtensorNode, subtensor_node

from covenantd.chain.bittensor.client import BittensorChain
from covenantd.chain.keys import Hotkey
from covenantd.errors import ChainError, ChainRefused

VALIDATOR, MINER, STRANGER = (Hotkey.from_uri(f"//{name}") for name in ("Validator", "Miner", "Stranger"))
GENESIS = {"tempo_blocks": 50, "neurons": [{"hotkey": VALIDATOR.hotkey, "stake": 10**12}, {"hotkey": MINER.hotkey}]}
SUBMIT = "author_submitAndWatchExtrinsic"


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SubtensorNode]:
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path))
    async with subtensor_node(MemoryChain(dict(GENESIS))) as node:
        yield node


@pytest.fixture
async def open_chain(node: SubtensorNode) -> AsyncIterator[Callable[..., BittensorChain]]:
    opened: list[BittensorChain] = []

    def make(signer: Hotkey | None = VALIDATOR, **options: Any) -> BittensorChain:
        opened.append(BittensorChain(node.url, 1, signer, **options))
        return opened[-1]

    yield make
    for one in opened:
        await one.aclose()


async def while_blocks_come(node: SubtensorNode, write: Callable[[], Awaitable[int]]) -> int:
    results: list[int | Exception] = []

    async def run(scope: trio.CancelScope) -> None:
        try:
            results.append(await write())
        except (ChainError, ChainRefused) as error:
            results.append(error)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, nursery.cancel_scope)
        while True:
            await trio.sleep(0.03)
            node.chain.advance()
    [result] = results
    if isinstance(result, Exception):
        raise result
    return result


OpenChain = Callable[..., BittensorChain]


async def test_all_of_the_protocol_over_the_wire(node: SubtensorNode, open_chain: OpenChain) -> None:
    chain = open_chain()
    fields = [b"", b"0x41", bytes(range(128))]  # empty, text that looks like hex, anything
    committed = await while_blocks_come(node, lambda: chain.publish_commitment(fields))
    weighed = await while_blocks_come(node, lambda: chain.set_weights({1: 0.5}))
    block = await chain.block(weighed)
    assert block.hash == node.chain.blocks[weighed].hash
    assert block.timestamp == node.chain.blocks[weighed].timestamp_ms / 1000
    graph = await chain.metagraph(weighed)
    assert [n.hotkey for n in graph.neurons] == [VALIDATOR.hotkey, MINER.hotkey]
    assert graph.neurons[0].stake == 10**12 and graph.neurons[0].validator_permit
    assert graph.neurons[0].last_update_block == weighed
    assert graph.commitments[VALIDATOR.hotkey].fields == tuple(fields)
    assert graph.commitments[VALIDATOR.hotkey].block == committed
    assert graph.weights == {0: {1: 65535}}
    assert (await chain.epoch()).tempo_blocks == 50
    assert len(node.submitted) == 2


async def test_refusals_have_the_chains_names(node: SubtensorNode, open_chain: OpenChain) -> None:
    with pytest.raises(ChainRefused, match="AccountNotAllowedCommit"):
        await while_blocks_come(node, lambda: open_chain(STRANGER).publish_commitment([b"x"]))
    with pytest.raises(ChainRefused, match="NeuronNoValidatorPermit"):
        await while_blocks_come(node, lambda: open_chain(MINER).set_weights({0: 1.0}))
    node.faults.answers[SUBMIT] = deque([{"code": 1010, "message": "Invalid Transaction", "data": "Custom error: 1"}])
    with pytest.raises(ChainRefused, match="StakeAmountTooLow"):
        await while_blocks_come(node, lambda: open_chain().set_weights({1: 1.0}))


async def test_weights_are_sealed_with_the_drand_beacon(node: SubtensorNode, open_chain: OpenChain) -> None:
    node.chain.genesis["commit_reveal"] = True
    node.chain.__post_init__()
    chain = open_chain()
    block = await while_blocks_come(node, lambda: chain.set_weights({1: 1.0}))
    assert [method for _, method, _ in node.chain.calls] == ["commit_weights"]
    assert (await chain.metagraph(block)).neurons[0].last_update_block == block


@pytest.mark.parametrize("script", ["cut_before", "cut_after"])
async def test_a_connection_cut_in_the_middle_of_an_extrinsic(
    node: SubtensorNode, open_chain: OpenChain, script: str
) -> None:
    """Lost on the way there: sent again when it can no longer come. On the way back: found. Never twice."""
    getattr(node.faults, script).append(SUBMIT)
    chain = open_chain()
    block = await while_blocks_come(node, lambda: chain.publish_commitment([b"vote"]))
    assert [method for _, method, _ in node.chain.calls] == ["set_commitment"]
    assert len(node.submitted) == 1
    assert (await chain.metagraph(block)).commitments[VALIDATOR.hotkey].block == block


async def test_a_connection_cut_while_waiting_for_finality(node: SubtensorNode, open_chain: OpenChain) -> None:
    node.chain.finality_blocks = 10
    chain = open_chain()

    async def cut() -> None:
        await trio.to_thread.run_sync(node.reached.wait, 20)
        node.cut_all()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut)
        block = await while_blocks_come(node, lambda: chain.set_weights({1: 1.0}))
    assert len(node.submitted) == 1 and node.chain.finalized >= block


async def test_reads_outlive_cut_connections(node: SubtensorNode, open_chain: OpenChain) -> None:
    chain = open_chain()
    assert (await chain.block()).number == 0
    node.chain.advance(3)
    for method in ("chain_getFinalizedHead", "state_getStorageAt", "state_call"):
        node.faults.cut_before.append(method)
        assert (await chain.metagraph(3)).block == 3
    node.cut_all()
    assert (await chain.block(2)).number == 2


async def test_a_node_that_stalls_is_given_up_and_dialled_again(node: SubtensorNode, open_chain: OpenChain) -> None:
    chain = open_chain(read_seconds=3.0)
    await chain.block()
    node.faults.stall = True
    with pytest.raises(ChainError, match="in time"):
        await chain.block()
    node.faults.stall = False
    assert (await chain.block()).number == 0
    assert node.handshakes == 2


async def test_a_node_that_turns_us_away_says_so(node: SubtensorNode, open_chain: OpenChain) -> None:
    node.faults.refuse_handshakes = 1
    chain = open_chain()
    with pytest.raises(ChainError, match="turns us away.*429"):
        await chain.block()
    assert (await chain.block()).number == 0


async def test_heads_are_subscribed_to_anew(node: SubtensorNode, open_chain: OpenChain) -> None:
    """Over a cut connection, and over a subscription that the node forgot."""
    chain = open_chain(silence_seconds=0.5)
    seen: list[int] = []
    async with trio.open_nursery() as nursery:

        async def make_blocks() -> None:
            while True:
                await trio.sleep(0.03)
                node.chain.advance()
                if node.asked.count("chain_subscribeFinalizedHeads") >= 4:  # the third said nothing
                    node.faults.mute_heads = False

        nursery.start_soon(make_blocks)
        async for head in chain.heads():
            seen.append(head.number)
            if len(seen) == 3:
                node.cut_all()
            if len(seen) == 5:
                node.faults.mute_heads = True
                node.cut_all()
            if len(seen) == 10:
                break
        nursery.cancel_scope.cancel()
    assert seen == sorted(set(seen))
    assert node.asked.count("chain_subscribeFinalizedHeads") >= 4


async def test_states_that_the_node_forgot(node: SubtensorNode, open_chain: OpenChain) -> None:
    node.chain.advance(20)
    node.chain.discarded_below = 10
    chain = open_chain()
    with pytest.raises(ChainRefused, match="StateDiscarded"):
        await chain.metagraph(5)
    assert (await chain.block(0)).hash == node.chain.blocks[0].hash


async def test_an_archive_node_is_asked_for_them(node: SubtensorNode, open_chain: OpenChain) -> None:
    async with subtensor_node(MemoryChain(dict(GENESIS))) as archive:
        archive.chain.advance(20)
        node.chain.__dict__.update(archive.chain.__dict__)  # the same chain, of which this node forgets
        node.chain.discarded_below = 10
        chain = open_chain(archive=archive.url)
        assert (await chain.metagraph(5)).block == 5
        assert archive.handshakes == 1
