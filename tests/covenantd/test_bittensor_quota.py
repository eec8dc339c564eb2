"""What a certifier of a run writes, within what Bittensor lets a hotkey write: 3 fields of 128 bytes in a commitment,
3100 bytes in an epoch of 360 blocks."""

from collections.abc import AsyncIterator

import pytest
import trio
from memory_substrate import MemoryChain
from run_fixture import SPEC, h

from covenantd import roster
from covenantd.chain.bittensor.client import BittensorChain
from covenantd.chain.keys import Hotkey
from covenantd.errors import ChainRefused
from covenantd.roster import OnChainIdentity, Vote

VALIDATOR = Hotkey.from_uri("//Validator")
MINERS = [Hotkey.from_uri(f"//Miner{i}") for i in range(20)]
TEMPO, BLOCKS_PER_ROUND, ROUNDS = 360, 115, 12
LONGEST = "/ip6/2001:0db8:85a3:0000:0000:8a2e:0370:7334/tcp/3133"
IDENTITY = OnChainIdentity("12D3KooW" + "x" * 44, LONGEST, True).encode()


@pytest.fixture
def memory() -> MemoryChain:
    neurons = [{"hotkey": VALIDATOR.hotkey, "stake": 10**12}, *({"hotkey": m.hotkey} for m in MINERS)]
    return MemoryChain({"tempo_blocks": TEMPO, "commitment_bytes_per_epoch": 3100, "neurons": neurons})


@pytest.fixture
async def chain(memory: MemoryChain) -> AsyncIterator[BittensorChain]:
    one = BittensorChain("local", 1, VALIDATOR, dial=memory.connection)
    yield one
    await one.aclose()


async def published(memory: MemoryChain, chain: BittensorChain, *fields: bytes) -> int:
    """The block of a write. Raises what it raised."""
    blocks: list[int] = []
    refusals: list[ChainRefused] = []

    async def write(scope: trio.CancelScope) -> None:
        try:
            blocks.append(await chain.publish_commitment(fields))
        except ChainRefused as refusal:
            refusals.append(refusal)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, nursery.cancel_scope)
        while True:
            await trio.sleep(0.005)
            memory.advance()
    if refusals:
        raise refusals[0]
    return blocks[0]


def used_bytes(memory: MemoryChain) -> int:
    row = memory.state(memory.head).commitments.get(VALIDATOR.hotkey)
    return row.used_bytes if row is not None else 0


def vote(number: int) -> bytes:
    return Vote(SPEC.tag, number, h(number), h(1000 + number)).encode()


async def test_an_identity_and_a_vote_in_each_of_12_rounds(memory: MemoryChain, chain: BittensorChain) -> None:
    assert len(IDENTITY) >= 118  # nothing longer is ever written
    most = 0
    await published(memory, chain, IDENTITY)
    start = -(-memory.head // BLOCKS_PER_ROUND) * BLOCKS_PER_ROUND
    for number in range(ROUNDS):
        memory.advance(start + number * BLOCKS_PER_ROUND - memory.head)
        block = await published(memory, chain, IDENTITY, vote(number))
        assert await chain.publish_commitment([IDENTITY, vote(number)]) == block  # asked again, written once
        most = max(most, used_bytes(memory))
        graph = await chain.metagraph(block)
        named = roster.decode_vote(graph.commitments[VALIDATOR.hotkey].fields[1])
        assert named is not None and named.round == number and named.digest == h(number)
        assert roster.certifiers(graph) == {VALIDATOR.hotkey: 10**12}
    assert [method for _, method, _ in memory.calls] == ["set_commitment"] * (1 + ROUNDS)
    assert 3 * len(IDENTITY) < most < 3100 // 2  # room for as many again: new addresses, lost writes


async def test_the_quota_is_there_to_be_met(memory: MemoryChain, chain: BittensorChain) -> None:
    with pytest.raises(ChainRefused, match="SpaceLimitExceeded"):
        for number in range(ROUNDS + 10):
            await published(memory, chain, IDENTITY, vote(number))
    assert 3100 - 300 < used_bytes(memory) <= 3100
