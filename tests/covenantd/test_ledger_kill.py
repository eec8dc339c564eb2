"""kill -9 at every statement of a block, one after the other; then under load at any moment."""

import os
import random
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from ledger_fixture import LedgerProcess, StartLedger
from test_ledger_process import rpc

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger import store as store_module
from covenantd.chain.ledger.genesis import parse_genesis
from covenantd.chain.ledger.node import LedgerNode
from covenantd.chain.ledger.signing import sign_call
from covenantd.chain.ledger.state import State
from covenantd.chain.ledger.store import LedgerStore

KEYS = [Hotkey.from_uri(f"//Writer{i}") for i in range(4)]
SINKS = [Hotkey.from_uri(f"//Sink{i}").hotkey for i in range(4)]
STAKE, BALANCE, TEMPO = 10**12, 10**9, 7
GENESIS = {
    "tempo_blocks": TEMPO,
    "neurons": [{"hotkey": k.hotkey, "stake": STAKE} for k in KEYS],
    "balances": {k.hotkey: BALANCE for k in KEYS},
}
BLOCK_SECONDS = 0.02
Submission = dict[str, str]


def node_of(path: Path) -> LedgerNode:
    return LedgerNode(LedgerStore(path), parse_genesis(GENESIS), lambda: 1)


async def _block(node: LedgerNode, submissions: list[Submission]) -> None:
    """Returns once every write is acknowledged."""
    async with trio.open_nursery() as nursery:
        for one in submissions:
            nursery.start_soon(node.submit, one["hotkey"], one["call"], one["signature"])
        await trio.testing.wait_all_tasks_blocked()
        node.produce()


def submissions(genesis: str, nonce: int) -> list[Submission]:
    """Of every kind that a block holds much of."""
    calls: list[tuple[str, dict[str, Any]]] = [
        ("transfer", {"to": SINKS[0], "amount": 5}),
        ("add_stake", {"amount": 7}),
        ("set_commitment", {"fields": [nonce.to_bytes(2, "big").hex()]}),
        ("set_weights", {"uids": [0, 1, 2, 3], "values": [1, 2, 3, 4], "version_key": 0}),
    ]
    return [sign_call(key, genesis, nonce, *call) for key, call in zip(KEYS, calls, strict=True)]


@dataclass(frozen=True)
class Copies:
    """A ledger whose next block is an epoch with writes in it, as often as one likes."""

    path: Path
    before: dict[str, str]
    after: dict[str, str]
    writes: list[Submission]


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    monkeypatch.setattr(store_module, "KEPT_BLOCKS", 3)
    path = tmp_path / "ledger.db"
    node = node_of(path)
    trio.run(_block, node, submissions(node.genesis_hash, 1))
    for _ in range(TEMPO - 2):
        node.produce()
    writes = submissions(node.genesis_hash, 2)
    before = _closed(node)
    reference = tmp_path / "reference.db"
    shutil.copy(path, reference)
    node = node_of(reference)
    trio.run(_block, node, writes)
    return Copies(path, before, _closed(node), writes)


def _closed(node: LedgerNode) -> dict[str, str]:
    """The state it leaves behind."""
    entries = node._store.entries(node.head.number)
    node._store.close()
    return entries


def die_at(path: Path, writes: list[Submission], statement: int) -> tuple[bool, int]:
    """Make the block in a process that is killed when it comes to that statement. Returns whether its writes were
    acknowledged before, and how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _make_block_and_die(path, writes, statement, writer)
        finally:
            os._exit(99)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        acknowledged = answers.read() == b"acknowledged"
    _, status = os.waitpid(child, 0)
    return acknowledged, os.waitstatus_to_exitcode(status)


def _make_block_and_die(path: Path, writes: list[Submission], statement: int, writer: int) -> None:
    node, met = node_of(path), 0

    def count(_: str) -> None:
        nonlocal met
        met += 1
        if met == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    node._store._db.set_trace_callback(count)
    trio.run(_block, node, writes)
    os.write(writer, b"acknowledged")
    os._exit(0)


def test_kill_9_at_every_statement_of_a_block(copies: Copies, tmp_path: Path) -> None:
    seen_before = statement = 0
    while True:
        statement += 1
        path = tmp_path / "dying.db"
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / f"dying.db{suffix}").unlink(missing_ok=True)
        shutil.copy(copies.path, path)
        acknowledged, code = die_at(path, copies.writes, statement)
        assert code in (0, -signal.SIGKILL) and acknowledged == (code == 0)
        store = LedgerStore(path)
        head = store.head()
        assert head is not None and head.number == TEMPO - 1 + acknowledged
        entries = store.load_state(head)  # refuses what is not what the head says
        assert entries == (copies.after if acknowledged else copies.before), statement
        _assert_conserved(entries)
        fates = [store.fate(key.hotkey, 2) for key in KEYS]
        assert all(fate is not None and fate.error is None for fate in fates) == acknowledged
        assert any(fates) == acknowledged
        store.close()
        _goes_on(path, acknowledged, copies.writes)
        if acknowledged:
            break
        seen_before += 1
    assert seen_before > 30  # begin, block, entries, calls, what is pruned, commit


def _assert_conserved(entries: dict[str, str]) -> None:
    state = State(entries)
    held = sum(account.balance + account.stake for _, account in state.accounts.items())
    assert held == 4 * (STAKE + BALANCE) + state.totals.issued - state.totals.burned


def _goes_on(path: Path, acknowledged: bool, writes: list[Submission]) -> None:
    """Whoever heard nothing sends it again, under its nonce."""
    node = node_of(path)
    trio.run(_block, node, [] if acknowledged else writes)
    assert State(_closed(node)).account(SINKS[0]).balance == 10


@dataclass
class Writer:
    """Counts in its commitment, and sends a rao away and stakes one at each count. What was asked for may be one more
    than what was acknowledged."""

    key: Hotkey
    sink: str
    asked: int = 0
    transferred: int = 0
    staked: int = 0
    committed: int = 0
    block: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, ledger: LedgerProcess, progress: "Progress") -> None:
        chain = ledger.chain(self.key)
        with self.scope:
            while True:
                self.asked += 1
                await chain.transfer(self.sink, 1)
                self.transferred += 1
                await chain.add_stake(1)
                self.staked += 1
                self.block = await chain.publish_commitment([str(self.asked).encode()])
                self.committed = self.asked
                progress.made()


class Progress:
    def __init__(self) -> None:
        self._event = trio.Event()

    def made(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


@pytest.mark.parametrize("deaths", [4, pytest.param(50, marks=pytest.mark.slow)])
async def test_kill_9_under_load_loses_nothing_acknowledged(start_ledger: StartLedger, deaths: int) -> None:
    ledger, progress, dice = start_ledger(GENESIS, block_seconds=BLOCK_SECONDS), Progress(), random.Random(deaths)
    writers = [Writer(key, sink) for key, sink in zip(KEYS, SINKS, strict=True)]
    async with trio.open_nursery() as nursery:
        for writer in writers:
            nursery.start_soon(writer.run, ledger, progress)
        for _ in range(deaths):
            for _ in range(2):
                await progress.wait()
            await trio.sleep(dice.uniform(0, 2 * BLOCK_SECONDS))  # anywhere in a block, and in those that wait for it
            ledger.kill()
            before = [(w.transferred, w.staked, w.committed, w.block) for w in writers]
            ledger.start()
            await assert_kept(ledger, writers, before)
        for writer in writers:
            writer.scope.cancel()
    ledger.kill()
    ledger.command[ledger.command.index("--block-seconds") + 1] = "0"  # to read what stands still
    ledger.start()
    await assert_whole(ledger)


async def assert_kept(ledger: LedgerProcess, writers: list[Writer], before: list[tuple[int, int, int, int]]) -> None:
    """What was acknowledged is there; what was asked for once is there once at most; every unit is somewhere."""
    await assert_conserved(ledger)
    head = int(ledger.ready["head"])
    graph = await ledger.chain().metagraph(head)
    for writer, (transferred, staked, committed, block) in zip(writers, before, strict=True):
        assert block <= head
        neuron = graph.neuron(writer.key.hotkey)
        assert neuron is not None and neuron.stake - STAKE - staked in (0, 1)
        if committed:
            assert int(graph.commitments[writer.key.hotkey].fields[0]) - committed in (0, 1)
        moved = (await rpc(ledger, "balance", hotkey=writer.sink))["result"]["balance"]
        assert transferred <= moved <= writer.asked  # the writers go on meanwhile


async def assert_conserved(ledger: LedgerProcess) -> None:
    shown = (await rpc(ledger, "subnet"))["result"]
    issued, burned = shown["totals"]["issued"], shown["totals"]["burned"]
    assert issued == shown["totals"]["epochs"] * TEMPO * 10**9
    assert shown["balance"] + shown["stake"] == 4 * (STAKE + BALANCE) + issued - burned


async def assert_whole(ledger: LedgerProcess) -> None:
    """Every block names its parent."""
    head = (await rpc(ledger, "head"))["result"]
    parent = "00" * 32
    for number in range(head["number"] + 1):
        block = (await rpc(ledger, "block", number=number))["result"]
        assert block["parent"] == parent
        parent = block["hash"]
    await assert_conserved(ledger)
    assert (await rpc(ledger, "subnet"))["result"]["totals"]["epochs"] == head["number"] // TEMPO
