"""Our identity on chain: there at once, and kept true."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import trio
import trio.testing
from run_fixture import HOTKEYS, SPEC, neuron

from covenantd.chain.protocol import Block, Commitment, Metagraph
from covenantd.enrol import keep_identity
from covenantd.errors import ChainError, ChainRefused
from covenantd.heads import Heads
from covenantd.journal import Memory, Voted
from covenantd.node import Node
from covenantd.roster import OnChainIdentity, Vote

US = HOTKEYS[0]


@dataclass
class Subnet:
    """With our commitment alone; `failures` come before answers to a write."""

    registered: bool = True
    number: int = 1
    commitment: Commitment | None = None
    written: list[tuple[int, tuple[bytes, ...]]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    async def block(self, number: int | None = None) -> Block:
        return Block(self.number, "0" * 64, 0.0)

    async def metagraph(self, block: int) -> Metagraph:
        neurons = (neuron(0, 1),) if self.registered else ()
        return Metagraph(1, block, neurons, {US: self.commitment} if self.commitment and self.registered else {})

    async def publish_commitment(self, fields: Sequence[bytes]) -> int:
        if self.failures:
            raise self.failures.pop(0)
        self.number += 1
        self.commitment = Commitment(US, self.number, tuple(fields))
        self.written.append((self.number, tuple(fields)))
        return self.number


class Daemon:
    def __init__(self) -> None:
        self.chain, self.heads = Subnet(), Heads()
        self.addresses = ["/ip4/192.168.0.7/tcp/1"]
        self.memory = Memory("0" * 64, 0, "1" * 64)
        self.errors: list[str] = []
        self.node = cast(
            Node,
            SimpleNamespace(
                chain=self.chain,
                heads=self.heads,
                hotkey=SimpleNamespace(hotkey=US),
                commitment=trio.Lock(),
                identity=self.identity,
                spec=SPEC,
                journal=SimpleNamespace(memory=self.memory),
                board=SimpleNamespace(update=lambda last_error: self.errors.append(last_error)),
            ),
        )

    def identity(self) -> OnChainIdentity:
        return OnChainIdentity("peer", self.addresses[-1], True)

    async def advance(self, blocks: int) -> None:
        for _ in range(blocks):
            self.chain.number += 1
            self.heads.see(Block(self.chain.number, "0" * 64, 0.0))
            await trio.testing.wait_all_tasks_blocked()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_identity, self.node)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()


async def test_it_is_published_once(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon()
    async with daemon.running():
        await daemon.advance(500)
    assert [fields for _, fields in daemon.chain.written] == [(daemon.identity().encode(),)]
    async with daemon.running():  # and not again after a restart
        await daemon.advance(500)
    assert len(daemon.chain.written) == 1


async def test_a_change_is_published_but_costs_no_more_than_a_write_in_a_hundred_blocks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    daemon = Daemon()
    async with daemon.running():
        for last in range(30):
            daemon.addresses.append(f"/ip4/8.8.8.{last}/tcp/1")
            await daemon.advance(17)
        await daemon.advance(121)
    blocks = [block for block, _ in daemon.chain.written]
    assert min(b - a for a, b in zip(blocks, blocks[1:], strict=False)) >= 100
    assert daemon.chain.written[-1][1] == (daemon.identity().encode(),) and len(blocks) >= 5


async def test_a_restart_with_another_address_says_so_at_once(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon()
    async with daemon.running():
        await daemon.advance(3)
    daemon.addresses.append("/ip4/8.8.8.8/tcp/1")
    async with daemon.running():
        pass
    assert len(daemon.chain.written) == 2


async def test_who_was_evicted_and_came_back_is_enrolled_again(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon()
    async with daemon.running():
        daemon.chain.registered, daemon.chain.commitment = False, None
        await daemon.advance(25)
        await trio.sleep(20)
        assert len(daemon.chain.written) == 1 and "not registered" in daemon.errors[-1]
        daemon.chain.registered = True
        await trio.sleep(10)
        assert len(daemon.chain.written) == 2
        daemon.chain.commitment = None  # evicted and back between two looks
        await daemon.advance(25)
    assert len(daemon.chain.written) == 3


async def test_a_vote_that_is_there_stays(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon()
    daemon.chain.commitment = Commitment(US, 1, (b"old", b"vote"))
    async with daemon.running():
        assert daemon.chain.written[-1][1] == (daemon.identity().encode(), b"vote")
    daemon.addresses.append("/ip4/8.8.8.8/tcp/1")
    daemon.node.journal.memory = replace(daemon.memory, voted=Voted(0, "2" * 64, 0, "05"))
    async with daemon.running():
        vote = Vote(SPEC.tag, 0, "2" * 64, daemon.memory.state_hash, b"\x05").encode()
        assert daemon.chain.written[-1][1] == (daemon.identity().encode(), vote)


async def test_it_is_tried_until_it_is_there(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon()
    daemon.chain.failures = [ChainError("silent"), ChainRefused("SpaceLimitExceeded"), ChainError("silent")]
    async with daemon.running():
        await trio.sleep(30)
    assert len(daemon.chain.written) == 1 and "SpaceLimitExceeded" in daemon.errors[-1]
