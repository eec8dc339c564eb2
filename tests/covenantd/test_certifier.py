"""Whom a certifier holds to account for what it could not fetch or use, and what it does not do twice after a crash."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
import trio
from run_fixture import HOTKEYS, SPEC, TIMING, WrittenChain, h
from test_commitdesk import BASE, ROUND, Ground, commit, receipt
from test_commitdesk import KEYS as ALL_KEYS

from covenantd import certifier as certifier_module
from covenantd.agreement import Agreement
from covenantd.certifier import Certifier
from covenantd.chain.protocol import Block
from covenantd.heads import Heads
from covenantd.journal import Memory
from covenantd.proposals import View
from covenantd.roster import NO_DIGEST, Exclusion, OnChainIdentity, Roster, Vote, alpha_bits, decode, decode_vote
from covenantd.scores import Scores
from covenantd.turns import turns
from p2p.errors import BlobTooLarge

T = TypeVar("T")
GOOD, GONE, HUGE = 3, 4, 5  # whose contribution is here, is nowhere, is larger than any


@dataclass
class Judge:
    """Implements what a certifier needs of `Scores`."""

    standings: dict[str, Any] = field(default_factory=dict)
    scored: list[set[int]] = field(default_factory=list)
    faulted: list[set[int]] = field(default_factory=list)

    async def score(self, round: int, contributions: dict[str, Any]) -> None:
        self.scored.append({HOTKEYS.index(hotkey) for hotkey in contributions})

    async def age(self, round: int, committed: object) -> None:
        await trio.lowlevel.checkpoint()

    def fault(self, hotkeys: set[str]) -> None:
        if hotkeys:
            self.faulted.append({HOTKEYS.index(hotkey) for hotkey in hotkeys})


@dataclass
class Remembered:
    """Implements what is needed of `Journal`."""

    memory: Memory

    def update(self, **changes: Any) -> None:
        self.memory = replace(self.memory, **changes)


def certifier(ground: Ground) -> tuple[Certifier, Judge, Heads]:
    for uid in (GOOD, GONE, HUGE):
        signed = commit(uid, f"blob{uid}")
        ground.show(uid, signed, [receipt(ALL_KEYS[0], signed)])
    node: Any = ground.node()
    heads, judge = Heads(), Judge()

    async def fetch(blob_id: str, *args: object, **options: object) -> Path:
        if blob_id == h(f"blob{HUGE}"):
            raise BlobTooLarge(blob_id)
        if blob_id == h(f"blob{GONE}"):
            await trio.sleep(math.inf)
        return Path("contribution")

    async def check(order: object, kind: object) -> Any:
        await trio.lowlevel.checkpoint()
        return SimpleNamespace(ok=True, reason="")

    node.heads, node.holders = heads, lambda first=None: lambda: ()
    node.exchange, node.engine = SimpleNamespace(fetch=fetch), SimpleNamespace(order=check)
    node.journal = Remembered(Memory(SPEC.run_id, ROUND, BASE))
    return Certifier(node, cast(Scores, judge)), judge, heads


async def look(one: Certifier, heads: Heads, scored: bool = False) -> View:
    return await while_blocks_come(heads, lambda: one._look(ROUND, scored))


async def while_blocks_come(heads: Heads, work: Callable[[], Awaitable[T]], until: trio.Event | None = None) -> T:
    """From C_r on to the block before V_r, and to that as soon as `until`: a slow machine makes it slow, not wrong."""
    found: list[T] = []
    heads.see(Block(TIMING.commit(ROUND), h(0), 0.0))
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            found.append(await work())
            nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        for block in range(TIMING.serve(ROUND), TIMING.vote(ROUND)):
            await trio.sleep(0.02)
            heads.see(Block(block, h(block), 0.0))
        if until is not None:
            await until.wait()
            heads.see(Block(TIMING.vote(ROUND), h(0), 0.0))
    return found[0]


def roster_with(*exclusions: tuple[int, str], round: int = ROUND) -> Roster:
    left_out = tuple(Exclusion(HOTKEYS[uid], reason) for uid, reason in exclusions)
    return Roster(SPEC.run_id, round, NO_DIGEST, BASE, 0, 0, alpha_bits(2.0), (), left_out, ())


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certifier_module, "_LOOK_SECONDS", 0.01)


@pytest.fixture
def alone() -> Ground:
    return Ground({HOTKEYS[0]: 5})


async def test_what_is_missing_is_left_out_but_nobody_is_at_fault_yet(alone: Ground) -> None:
    one, judge, heads = certifier(alone)
    view = await look(one, heads)
    assert view.sound == {HOTKEYS[GOOD]} and judge.scored == [{GOOD}]
    assert view.refused == {HOTKEYS[GONE]: "missing", HOTKEYS[HUGE]: "invalid"}
    assert judge.faulted == [{HUGE}]  # what it did send is its own fault


async def test_at_fault_is_who_the_votes_say_however_we_fared_with_it(alone: Ground) -> None:
    one, judge, _ = certifier(alone)
    chain = WrittenChain([1, 1, 1])
    one._node.agreement = Agreement(chain, SPEC)
    body = roster_with((GONE, "missing"), (GOOD, "missing"), (HUGE, "invalid"))
    certified = Vote(SPEC.tag, ROUND, h("body"), BASE)
    for uid, lacked in enumerate((b"\x03", b"\x01", b"\x01")):
        chain.votes.append((TIMING.vote(ROUND), uid, replace(certified, lacked=lacked)))
    await one.settle(certified, body)
    assert judge.faulted == [{GONE}]
    read = len(chain.read)
    await one.settle(certified, roster_with((GONE, "full")))
    assert judge.faulted == [{GONE}] and len(chain.read) == read


async def test_nobody_is_at_fault_if_the_votes_cannot_be_read_any_more(alone: Ground) -> None:
    one, judge, _ = certifier(alone)
    chain = WrittenChain([1], kept_from=TIMING.vote(ROUND) + 1)
    chain.votes.append((0, 0, Vote(SPEC.tag, ROUND, h("body"), BASE, b"\x01")))
    one._node.agreement = Agreement(chain, SPEC)
    await one.settle(Vote(SPEC.tag, ROUND, h("body"), BASE), roster_with((GONE, "missing")))
    assert judge.faulted == []


async def test_after_a_crash_past_the_vote_nobody_is_scored_or_at_fault_again(alone: Ground) -> None:
    one, judge, heads = certifier(alone)
    view = await look(one, heads, scored=True)
    assert view.sound == {HOTKEYS[GOOD]} and judge.scored == [] and judge.faulted == []


# A whole round


def with_a_chain(one: Certifier, directory: Path) -> tuple[list[Vote], dict[str, Roster], trio.Event]:
    """What it publishes, the bodies it adopts, and a sign that there is a vote."""
    node: Any = one._node
    votes, bodies, public = list[Vote](), dict[str, Roster](), trio.Event()

    async def publish(fields: Sequence[bytes]) -> int:
        await trio.lowlevel.checkpoint()
        vote = decode_vote(fields[1])
        assert vote is not None
        votes.append(vote)
        public.set()
        return int(node.heads.number)

    async def adopt(path: Path, piece_bytes: int) -> str:
        body = decode(await trio.Path(path).read_bytes())
        bodies[h("body")] = body
        return h("body")

    node.chain, node.commitment = SimpleNamespace(publish_commitment=publish), trio.Lock()
    node.identity = lambda: OnChainIdentity("peer", "", True)
    node.traffic, node.staging = SimpleNamespace(is_control=lambda digests: None), directory
    node.exchange.adopt = adopt
    return votes, bodies, public


async def test_alone_it_votes_publishes_and_is_done_before_the_votes_are_read(alone: Ground, tmp_path: Path) -> None:
    one, judge, heads = certifier(alone)
    votes, bodies, _ = with_a_chain(one, tmp_path)
    await while_blocks_come(heads, lambda: one.certify(ROUND))
    assert heads.number < TIMING.vote(ROUND)
    assert votes == [Vote(SPEC.tag, ROUND, h("body"), BASE, b"\x01")]  # what it misses itself is reported missing
    assert [HOTKEYS.index(entry.hotkey) for entry in bodies[h("body")].contributions] == [GOOD]
    await while_blocks_come(heads, lambda: one.certify(ROUND))  # as after a crash: published again
    assert votes == 2 * [Vote(SPEC.tag, ROUND, h("body"), BASE, b"\x01")] and judge.scored == [{GOOD}]


async def test_among_others_it_is_there_until_the_votes_are_read(tmp_path: Path) -> None:
    """The others do not answer, nor does any of them get a vote on chain."""
    ground = Ground({HOTKEYS[0]: 9, HOTKEYS[1]: 1})
    one, _, heads = certifier(ground)
    votes, _, public = with_a_chain(one, tmp_path)
    node: Any = one._node
    node.swarm.by_hotkey = lambda hotkey: None
    read: list[int] = []

    async def leading(round: int, block: int) -> None:
        read.append(block)
        await trio.lowlevel.checkpoint()

    node.agreement.leading = leading
    await while_blocks_come(heads, lambda: one.certify(ROUND), until=public)
    assert heads.number == TIMING.vote(ROUND) and len(votes) == 1
    assert set(read) == set(turns(TIMING, ROUND, ground.stakes).blocks[1:])
