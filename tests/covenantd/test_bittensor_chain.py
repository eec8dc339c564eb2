"""What the contract suite leaves open: fates of writes, deadlines, reconnection. On a subnet in memory."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import bittensor
import pytest
import trio
from memory_substrate import Fault, MemoryChain, MemorySubstrate

from covenantd.chain.bittensor.client import BittensorChain
from covenantd.chain.bittensor.writing import LIFE_BLOCKS
from covenantd.chain.keys import Hotkey
from covenantd.errors import ChainError, ChainRefused

VALIDATOR, MINER = Hotkey.from_uri("//Validator"), Hotkey.from_uri("//Miner")
GENESIS = {
    "tempo_blocks": 50,
    "neurons": [{"hotkey": VALIDATOR.hotkey, "stake": 10**12}, {"hotkey": MINER.hotkey}],
}
WEIGHTS = {"uids": [1], "values": [65535], "version_key": 0}
LOST = bittensor.ChainError(
    "Connection dropped while an extrinsic submission was in flight; the transaction may already be in the pool"
)


@pytest.fixture
def memory() -> MemoryChain:
    return MemoryChain(dict(GENESIS))


@pytest.fixture
async def open_chain(memory: MemoryChain) -> AsyncIterator[Callable[..., BittensorChain]]:
    opened: list[BittensorChain] = []

    def make(signer: Hotkey | None = VALIDATOR, **options: Any) -> BittensorChain:
        options.setdefault("dial", lambda: MemorySubstrate(memory))
        opened.append(BittensorChain("local", 1, signer, **options))
        return opened[-1]

    yield make
    for one in opened:
        await one.aclose()


async def while_blocks_come(memory: MemoryChain, write: Callable[[], Awaitable[int]]) -> int:
    """The result of a write, with a block every few milliseconds."""
    results: list[int] = []
    failures: list[Exception] = []

    async def run(scope: trio.CancelScope) -> None:
        try:
            results.append(await write())
        except (ChainError, ChainRefused, ValueError) as error:
            failures.append(error)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, nursery.cancel_scope)
        while True:
            await trio.sleep(0.02)
            memory.advance()
    if failures:
        raise failures[0]
    return results[0]


OpenChain = Callable[..., BittensorChain]


async def test_a_lost_submission_that_was_included_is_found_and_not_sent_again(
    memory: MemoryChain, open_chain: OpenChain
) -> None:
    memory.faults.append(Fault(LOST, kept=True))
    block = await while_blocks_come(memory, lambda: open_chain().publish_commitment([b"vote"]))
    assert [method for _, method, _ in memory.calls] == ["set_commitment"]
    assert memory.state(block).commitments.get(VALIDATOR.hotkey).block == block  # type: ignore[union-attr]


async def test_a_lost_vote_is_sent_again_at_once_under_its_nonce(memory: MemoryChain, open_chain: OpenChain) -> None:
    memory.faults += [Fault(LOST, kept=False), Fault(LOST, kept=False)]
    block = await while_blocks_come(memory, lambda: open_chain().publish_commitment([b"vote"]))
    assert len(memory.calls) == 1
    assert block < LIFE_BLOCKS


async def test_a_vote_whose_inclusion_nobody_told_is_not_included_twice(
    memory: MemoryChain, open_chain: OpenChain
) -> None:
    memory.finality_blocks = 6  # it is in a block for long before that is final
    memory.faults.append(Fault(LOST, kept=True))
    block = await while_blocks_come(memory, lambda: open_chain().publish_commitment([b"vote"]))
    assert len(memory.calls) == 1
    assert memory.state(block).commitments.get(VALIDATOR.hotkey).block == block  # type: ignore[union-attr]


async def test_a_vote_whose_nonce_another_write_took_gets_a_new_one(memory: MemoryChain, open_chain: OpenChain) -> None:
    chain, fault = open_chain(), Fault(LOST, kept=False)
    memory.faults.append(fault)
    weighed: list[int] = []

    async def both() -> int:
        async with trio.open_nursery() as nursery:

            async def weigh() -> None:
                while memory.faults:  # noqa: ASYNC110 - until another thread takes it: the vote is lost
                    await trio.sleep(0.001)
                memory.submit(VALIDATOR.hotkey, "set_weights", WEIGHTS, lambda result: weighed.append(1))

            nursery.start_soon(weigh)
            return await chain.publish_commitment([b"vote"])

    await while_blocks_come(memory, both)
    assert weighed and sorted(method for _, method, _ in memory.calls) == ["set_commitment", "set_weights"]


async def test_lost_weights_that_never_arrived_are_sent_again_once_they_cannot_come(
    memory: MemoryChain, open_chain: OpenChain
) -> None:
    memory.faults.append(Fault(LOST, kept=False))
    block = await while_blocks_come(memory, lambda: open_chain().set_weights({1: 1.0}))
    assert [method for _, method, _ in memory.calls] == ["set_weights"]
    assert block > LIFE_BLOCKS  # before, it could still have been included somewhere


async def test_weights_whose_answer_was_lost_are_found_by_their_block(
    memory: MemoryChain, open_chain: OpenChain
) -> None:
    memory.faults.append(Fault(bittensor.RpcConnectionError("gone"), kept=True))
    block = await while_blocks_come(memory, lambda: open_chain().set_weights({1: 1.0}))
    assert memory.state(block).neuron(0).last_update_block == block
    assert len(memory.calls) == 1


async def test_what_the_chain_says_already_is_not_written_again(memory: MemoryChain, open_chain: OpenChain) -> None:
    chain = open_chain()
    first = await while_blocks_come(memory, lambda: chain.publish_commitment([b"same", b""]))
    assert await chain.publish_commitment([b"same", b""]) == first
    assert len(memory.calls) == 1


async def test_a_write_is_acknowledged_when_it_is_final(memory: MemoryChain, open_chain: OpenChain) -> None:
    memory.finality_blocks = 3
    chain = open_chain()
    block = await while_blocks_come(memory, lambda: chain.publish_commitment([b"vote"]))
    assert memory.finalized >= block
    assert (await chain.metagraph(block)).commitments[VALIDATOR.hotkey].block == block
    with pytest.raises(ChainError, match="not finalized"):
        await chain.block(memory.head)


async def test_nobody_waits_longer_than_the_deadline_for_a_block(memory: MemoryChain, open_chain: OpenChain) -> None:
    with pytest.raises(ChainError, match="may yet be"):
        await open_chain(write_seconds=1.0).publish_commitment([b"vote"])


async def test_the_chains_own_reason_for_a_no(memory: MemoryChain, open_chain: OpenChain) -> None:
    memory.genesis["weights_rate_limit_blocks"] = 100
    memory.__post_init__()
    chain = open_chain()
    await while_blocks_come(memory, lambda: chain.set_weights({1: 1.0}))
    with pytest.raises(ChainRefused, match="SettingWeightsTooFast.*Retry in"):
        await while_blocks_come(memory, lambda: chain.set_weights({1: 1.0}))
    with pytest.raises(ChainRefused, match="InvalidArguments"):
        await open_chain(MINER).set_weights({1: 0.0})


async def test_a_pool_that_is_closed_for_now_is_tried_again(memory: MemoryChain, open_chain: OpenChain) -> None:
    rejected = bittensor.ExtrinsicResult(
        success=False, message="outdated", error=bittensor.ChainError("outdated", "Stale")
    )
    answers = [rejected]

    class Rejecting(MemorySubstrate):
        async def submit(self, call: Any, keypair: Any, **options: Any) -> Any:
            return answers.pop() if answers else await super().submit(call, keypair, **options)

    chain = open_chain(dial=lambda: Rejecting(memory))
    block = await while_blocks_come(memory, lambda: chain.publish_commitment([b"vote"]))
    assert block < LIFE_BLOCKS and len(memory.calls) == 1


async def test_sealed_weights_where_the_subnet_says_so(memory: MemoryChain, open_chain: OpenChain) -> None:
    memory.genesis["commit_reveal"] = True
    memory.__post_init__()
    chain = open_chain()
    block = await while_blocks_come(memory, lambda: chain.set_weights({1: 1.0}))
    assert [method for _, method, _ in memory.calls] == ["commit_weights"]
    graph = await chain.metagraph(block)
    assert graph.weights == {} and graph.neurons[0].last_update_block == block


async def test_commitments_of_the_deregistered_are_left_out(memory: MemoryChain, open_chain: OpenChain) -> None:
    memory.leftovers[Hotkey.from_uri("//Gone").hotkey] = (b"old",)
    chain = open_chain()
    block = await while_blocks_come(memory, lambda: chain.publish_commitment([b"new"]))
    assert list((await chain.metagraph(block)).commitments) == [VALIDATOR.hotkey]


async def test_forgotten_state_is_a_no_and_block_0_is_not_state(memory: MemoryChain, open_chain: OpenChain) -> None:
    memory.advance(20)
    memory.discarded_below = 10
    chain = open_chain()
    with pytest.raises(ChainRefused, match=r"StateDiscarded.*\[chain\] archive"):
        await chain.metagraph(5)
    assert (await chain.block(0)).timestamp == 0.0


async def test_another_subnet_is_none(memory: MemoryChain, open_chain: OpenChain) -> None:
    chain = BittensorChain("local", 7, None, dial=lambda: MemorySubstrate(memory))
    try:
        with pytest.raises(ChainRefused, match="SubnetNotExists"):
            await chain.metagraph(0)
    finally:
        await chain.aclose()


class Stalling(MemorySubstrate):
    """Answers the first `answers` requests for the finalized head, then never again."""

    def __init__(self, chain: MemoryChain, answers: int) -> None:
        super().__init__(chain)
        self._answers = answers
        self.closed = asyncio.Event()

    async def finalized_block_number(self) -> int:
        self._answers -= 1
        if self._answers < 0:
            await asyncio.Event().wait()
        return await super().finalized_block_number()

    async def close(self) -> None:
        self.closed.set()


async def test_a_stalled_connection_ends_at_the_deadline_and_is_replaced(
    memory: MemoryChain, open_chain: OpenChain
) -> None:
    dialled: list[Stalling] = []

    def dial() -> Stalling:
        dialled.append(Stalling(memory, answers=0 if not dialled else 99))
        return dialled[-1]

    chain = open_chain(dial=dial, read_seconds=3.0)
    with pytest.raises(ChainError, match="in time"):
        await chain.block()
    assert (await chain.block()).number == 0
    assert len(dialled) == 2 and dialled[0].closed.is_set()


async def test_a_connection_that_others_get_answers_from_is_kept(memory: MemoryChain, open_chain: OpenChain) -> None:
    chain = open_chain()
    await chain.block()

    async def never(connection: Any) -> None:
        await asyncio.sleep(60)

    chain._read_seconds = 1.0
    async with trio.open_nursery() as nursery:

        async def ask_on() -> None:
            with pytest.raises(ChainError):
                await chain.ask("nothing", never)
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask_on)
        while True:
            link = await chain.ask("the link", lambda connection: _itself(connection))
            await trio.sleep(0.05)
    assert await chain.ask("the link", lambda connection: _itself(connection)) is link


async def _itself(connection: Any) -> Any:
    return connection


async def test_heads_go_on_over_lost_and_silent_subscriptions(memory: MemoryChain, open_chain: OpenChain) -> None:
    """One subscription breaks, the next says nothing: new ones are made, and no block number goes back."""
    made: list[str] = []

    class Moody(MemorySubstrate):
        async def blocks(self, *, finalized: bool = False) -> AsyncIterator[dict[str, Any]]:
            made.append("subscription")
            if len(made) == 1:
                yield {"header": {"number": memory.finalized}}
                raise bittensor.ChainError("Connection lost while waiting for a subscription response")
            if len(made) == 2:
                await asyncio.Event().wait()
            async for header in super().blocks(finalized=finalized):
                yield header

    chain = open_chain(dial=lambda: Moody(memory), silence_seconds=0.3)
    seen: list[int] = []
    async with trio.open_nursery() as nursery:

        async def make_blocks() -> None:
            while True:
                await trio.sleep(0.02)
                memory.advance()

        nursery.start_soon(make_blocks)
        async for head in chain.heads():
            seen.append(head.number)
            if len(made) >= 3 and len(seen) >= 5:
                break
        nursery.cancel_scope.cancel()
    assert seen == sorted(set(seen))


async def test_heads_outlive_an_endpoint_that_is_away(memory: MemoryChain, open_chain: OpenChain) -> None:
    away = [True, True]

    class Away(MemorySubstrate):
        async def connect(self) -> None:
            if away:
                away.pop()
                raise ConnectionRefusedError("nobody there")

    heads = open_chain(dial=lambda: Away(memory), read_seconds=0.1).heads()
    with trio.fail_after(20):
        assert (await anext(heads)).number == 0


async def test_nonsense_is_the_endpoints_fault(memory: MemoryChain, open_chain: OpenChain) -> None:
    class Nonsense(MemorySubstrate):
        async def finalized_block_number(self) -> Any:
            return "twelve"

        async def runtime_call(self, *args: Any, **options: Any) -> Any:
            return {"hotkeys": 3}

    with pytest.raises(ChainError, match="makes no sense"):
        await open_chain(dial=lambda: Nonsense(memory)).block()


async def test_without_a_signer_nothing_is_written(open_chain: OpenChain) -> None:
    with pytest.raises(ChainRefused, match="BadSignature"):
        await open_chain(None).publish_commitment([b"x"])


async def test_a_chain_that_was_never_asked_has_nothing_to_close(open_chain: OpenChain) -> None:
    open_chain()


def test_importing_the_adapter_does_not_import_the_sdk() -> None:
    program = "import covenantd.chain.opening, sys; print('bittensor' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.strip() == "False"
