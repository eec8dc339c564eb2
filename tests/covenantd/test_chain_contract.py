"""What every backend of `Chain` must do. A backend is a fixture; the tests know only the protocol."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from ledger_fixture import included
from memory_substrate import MemoryChain, MemoryDriver
from subtensor_node import subtensor_node

from covenantd.chain.bittensor.client import BittensorChain
from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.protocol import Chain
from covenantd.errors import ChainError, ChainRefused

VALIDATOR, MINER, OTHER, STRANGER = (
    Hotkey.from_uri(f"//{name}") for name in ("Validator", "Miner", "Other", "Stranger")
)
TEMPO = 5


@dataclass
class Backend:
    """A subnet with VALIDATOR (uid 0, staked), MINER and OTHER registered."""

    chain: Callable[[Hotkey | None], Chain]
    advance: Callable[[int], Awaitable[Any]]
    include: Callable[[Callable[[], Awaitable[int]]], Awaitable[int]]
    register: Callable[[Hotkey], Awaitable[int]]
    endpoint_away: Callable[[], Chain]


NEURONS = [
    {"hotkey": VALIDATOR.hotkey, "stake": 1000 * 10**9, "validator_permit": True},
    {"hotkey": MINER.hotkey},
    {"hotkey": OTHER.hotkey},
]


@pytest.fixture(params=["ledger", "bittensor-in-memory", "bittensor-over-websocket"])
async def backend(
    request: pytest.FixtureRequest, start_ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backend]:
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path))
    memory = MemoryChain({"tempo_blocks": TEMPO, "neurons": NEURONS})
    async with AsyncExitStack() as stack:
        if request.param == "ledger":
            made = ledger_backend(start_ledger)
        elif request.param == "bittensor-in-memory":
            made = bittensor_backend(memory, lambda key: BittensorChain("local", 1, key, dial=memory.connection))
        else:
            node = await stack.enter_async_context(subtensor_node(memory))
            made = bittensor_backend(memory, lambda key: BittensorChain(node.url, 1, key))
        yield await stack.enter_async_context(made)


@asynccontextmanager
async def ledger_backend(start_ledger: Any) -> AsyncIterator[Backend]:
    ledger = start_ledger({"tempo_blocks": TEMPO, "neurons": NEURONS})
    driver = ledger.chain()
    opened: list[LedgerChain] = [driver]

    def chain(signer: Hotkey | None) -> LedgerChain:
        opened.append(ledger.chain(signer))
        return opened[-1]

    yield Backend(
        chain=chain,
        advance=driver.advance,
        include=lambda write: included(driver, write),
        register=lambda key: included(driver, chain(key).register),
        endpoint_away=lambda: LedgerChain("unix:///nonexistent/ledger.sock", 1, read_seconds=0.2),
    )
    for one in opened:
        await one.aclose()


@asynccontextmanager
async def bittensor_backend(
    memory: MemoryChain, connect: Callable[[Hotkey | None], BittensorChain]
) -> AsyncIterator[Backend]:
    driver = MemoryDriver(memory)
    opened: list[BittensorChain] = []

    def chain(signer: Hotkey | None) -> BittensorChain:
        opened.append(connect(signer))
        return opened[-1]

    def away() -> BittensorChain:
        opened.append(BittensorChain("ws://127.0.0.1:9", 1, read_seconds=3))
        return opened[-1]

    yield Backend(
        chain=chain,
        advance=driver.advance,
        include=lambda write: included(driver, write),
        register=driver.register,
        endpoint_away=away,
    )
    for one in opened:
        await one.aclose()


async def test_blocks_are_numbered_hashed_and_timed(backend: Backend) -> None:
    chain = backend.chain(None)
    await backend.advance(3)
    head = await chain.block()
    blocks = [await chain.block(n) for n in range(head.number + 1)]
    assert blocks[-1] == head
    assert [b.number for b in blocks] == list(range(head.number + 1))
    assert len({b.hash for b in blocks}) == len(blocks)
    assert all(len(bytes.fromhex(b.hash)) == 32 for b in blocks)
    assert sorted(b.timestamp for b in blocks) == [b.timestamp for b in blocks]


async def test_a_block_to_come_is_asked_for_again(backend: Backend) -> None:
    chain = backend.chain(None)
    with pytest.raises(ChainError):
        await chain.block(10**6)
    with pytest.raises(ChainError):
        await chain.metagraph(10**6)


async def test_heads_start_now_and_grow(backend: Backend) -> None:
    chain = backend.chain(None)
    await backend.advance(2)
    seen = []
    async for block in chain.heads():
        seen.append(block)
        if len(seen) == 3:
            break
        await backend.advance(2)
    assert [b.number for b in seen] == [2, 4, 6]
    assert seen[-1] == await chain.block(6)


async def test_a_silent_chain_is_a_silent_iterator(backend: Backend) -> None:
    heads = backend.chain(None).heads()
    first = await anext(heads)
    got = []

    async def wait() -> None:
        got.append(await anext(heads))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not got
        await backend.advance(1)
    assert got[0].number == first.number + 1


async def test_metagraph_names_the_registered(backend: Backend) -> None:
    graph = await backend.chain(None).metagraph(0)
    assert [n.uid for n in graph.neurons] == [0, 1, 2]
    assert [n.hotkey for n in graph.neurons] == [k.hotkey for k in (VALIDATOR, MINER, OTHER)]
    validator = graph.neuron(VALIDATOR.hotkey)
    assert validator is not None and validator.validator_permit and validator.stake == 1000 * 10**9
    assert graph.neuron(STRANGER.hotkey) is None
    assert not graph.commitments and not graph.weights


async def test_commitment_is_seen_from_its_block_on(backend: Backend) -> None:
    chain = backend.chain(MINER)
    first = await backend.include(lambda: chain.publish_commitment([b"one", b"\x00" * 128]))
    second = await backend.include(lambda: chain.publish_commitment([b"two"]))
    before, at, after = [await chain.metagraph(n) for n in (first - 1, first, second)]
    assert MINER.hotkey not in before.commitments
    assert at.commitments[MINER.hotkey].fields == (b"one", b"\x00" * 128)
    assert at.commitments[MINER.hotkey].block == first
    assert after.commitments[MINER.hotkey].fields == (b"two",)


async def test_a_commitment_that_is_there_already_is_not_written_again(backend: Backend) -> None:
    """Every write costs quota, and who restarts says the same again."""
    fields, other = [b"same", b""], backend.chain(OTHER)
    first = await backend.include(lambda: backend.chain(MINER).publish_commitment(fields))
    await backend.include(lambda: other.publish_commitment(fields))
    assert await backend.chain(MINER).publish_commitment(fields) == first  # and no block is needed
    last = await backend.include(lambda: backend.chain(MINER).publish_commitment([b"same"]))
    assert last > first
    again = await backend.include(lambda: backend.chain(MINER).publish_commitment(fields))
    assert again > last
    assert (await other.metagraph(again)).commitments[MINER.hotkey].block == again


async def test_nothing_is_left_to_show_where_nothing_is_hidden(backend: Backend) -> None:
    chain = backend.chain(VALIDATOR)
    await backend.include(lambda: chain.set_weights({1: 1.0}))
    assert await chain.reveal_due() is None


async def test_commitment_limits(backend: Backend) -> None:
    with pytest.raises(ChainRefused, match="TooManyFields"):
        await backend.include(lambda: backend.chain(MINER).publish_commitment([b""] * 4))
    with pytest.raises(ChainRefused):
        await backend.include(lambda: backend.chain(MINER).publish_commitment([b"x" * 129]))
    with pytest.raises(ChainRefused, match="AccountNotAllowedCommit"):
        await backend.include(lambda: backend.chain(STRANGER).publish_commitment([b"x"]))


async def test_weights_are_scaled_and_become_incentive(backend: Backend) -> None:
    chain = backend.chain(VALIDATOR)
    block = await backend.include(lambda: chain.set_weights({1: 0.3, 2: 0.1}))
    graph = await chain.metagraph(block)
    assert graph.weights == {0: {1: 65535, 2: 21845}}
    validator = graph.neuron(VALIDATOR.hotkey)
    assert validator is not None and validator.last_update_block == block
    epoch = (await chain.epoch()).next_epoch_block
    await backend.advance(epoch - block)
    paid = (await chain.metagraph(epoch)).neurons
    assert paid[1].incentive > 2 * paid[2].incentive > 0
    assert paid[0].dividends == 65535 and paid[0].incentive == 0
    assert all(n.emission > 0 for n in paid)


async def test_weights_need_registration_and_permit(backend: Backend) -> None:
    with pytest.raises(ChainRefused, match="HotKeyNotRegisteredInSubNet"):
        await backend.include(lambda: backend.chain(STRANGER).set_weights({0: 1.0}))
    with pytest.raises(ChainRefused, match="NeuronNoValidatorPermit"):
        await backend.include(lambda: backend.chain(MINER).set_weights({0: 1.0, 2: 1.0}))
    with pytest.raises(ChainRefused, match="UidVecContainInvalidOne"):
        await backend.include(lambda: backend.chain(VALIDATOR).set_weights({77: 1.0}))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
async def test_weights_that_are_no_weights(backend: Backend, weight: float) -> None:
    with pytest.raises(ValueError):
        await backend.chain(VALIDATOR).set_weights({1: weight})


async def test_epoch_comes_every_tempo(backend: Backend) -> None:
    chain = backend.chain(None)
    info = await chain.epoch()
    assert info.tempo_blocks == TEMPO and info.weights_rate_limit_blocks >= 0
    await backend.advance(info.next_epoch_block)
    assert (await chain.epoch()).next_epoch_block == info.next_epoch_block + TEMPO


async def test_a_newcomer_registers_and_takes_part(backend: Backend) -> None:
    block = await backend.register(STRANGER)
    chain = backend.chain(STRANGER)
    newcomer = (await chain.metagraph(block)).neuron(STRANGER.hotkey)
    assert newcomer is not None and newcomer.uid == 3 and newcomer.registered_block == block
    assert await backend.include(lambda: chain.publish_commitment([b"here"])) > block
    with pytest.raises(ChainRefused, match="HotKeyAlreadyRegisteredInSubNet"):
        await backend.register(STRANGER)


async def test_concurrent_writes_of_one_hotkey(backend: Backend) -> None:
    chain = backend.chain(VALIDATOR)
    blocks: dict[str, int] = {}

    async def commit() -> None:
        blocks["commitment"] = await chain.publish_commitment([b"vote"])

    async def weigh() -> None:
        blocks["weights"] = await chain.set_weights({1: 1.0})

    async def both() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit)
            nursery.start_soon(weigh)
        return 0

    await backend.include(both)
    graph = await chain.metagraph(max(blocks.values()))
    assert graph.commitments[VALIDATOR.hotkey].fields == (b"vote",)
    assert graph.weights[0] == {1: 65535}


async def test_an_endpoint_that_is_away_ends_at_the_deadline(backend: Backend) -> None:
    with pytest.raises(ChainError):
        await backend.endpoint_away().block()
