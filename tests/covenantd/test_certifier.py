"""Whom a certifier holds to account for what it could not fetch or use, and what it does not do twice after a crash."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from run_fixture import HOTKEYS, SPEC, TIMING, h
from test_commitdesk import BASE, ROUND, Ground, commit, receipt
from test_commitdesk import KEYS as ALL_KEYS

from covenantd.certifier import Certifier
from covenantd.chain.protocol import Block
from covenantd.heads import Heads
from covenantd.proposals import View
from covenantd.roster import NO_DIGEST, Exclusion, Roster, alpha_bits
from covenantd.scores import Scores
from p2p.errors import BlobTooLarge

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
    node.journal.memory = SimpleNamespace(
        round=ROUND, state_hash=BASE, previous=NO_DIGEST, changes=(), offered=None, voted=None
    )
    return Certifier(node, cast(Scores, judge)), judge, heads


async def look(one: Certifier, heads: Heads, scored: bool = False) -> View:
    """With blocks that come as long as it takes."""
    found: list[View] = []
    heads.see(Block(TIMING.commit(ROUND), h(0), 0.0))
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            found.append(await one._look(ROUND, scored))
            nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        for block in range(TIMING.serve(ROUND), TIMING.vote(ROUND)):
            await trio.sleep(1)
            heads.see(Block(block, h(block), 0.0))
    return found[0]


def roster_with(*exclusions: tuple[int, str], round: int = ROUND) -> Roster:
    left_out = tuple(Exclusion(HOTKEYS[uid], reason) for uid, reason in exclusions)
    return Roster(SPEC.run_id, round, NO_DIGEST, BASE, 0, 0, alpha_bits(2.0), (), left_out, ())


@pytest.fixture
def alone() -> Ground:
    return Ground({HOTKEYS[0]: 5})


async def test_what_is_missing_is_left_out_but_nobody_is_at_fault_yet(
    alone: Ground, autojump_clock: trio.testing.MockClock
) -> None:
    one, judge, heads = certifier(alone)
    view = await look(one, heads)
    assert view.sound == {HOTKEYS[GOOD]} and judge.scored == [{GOOD}]
    assert view.refused == {HOTKEYS[GONE]: "missing", HOTKEYS[HUGE]: "invalid"}
    assert judge.faulted == [{HUGE}]  # what it did send is its own fault


@pytest.mark.parametrize(
    ("body", "at_fault"),
    [
        (roster_with((GONE, "missing")), [{GONE}]),
        (roster_with((GONE, "missing"), (GOOD, "missing")), [{GONE}]),  # we held the other: we know better
        (roster_with((GONE, "full")), []),  # others held it: our own link was at fault
        (roster_with(), []),
        (roster_with((GONE, "missing"), round=ROUND + 1), []),
    ],
)
async def test_a_miner_is_at_fault_for_what_the_certified_roster_missed_too(
    alone: Ground, body: Roster, at_fault: list[set[int]], autojump_clock: trio.testing.MockClock
) -> None:
    one, judge, heads = certifier(alone)
    await look(one, heads)
    judge.faulted.clear()
    one.settle(body)
    assert judge.faulted == at_fault


async def test_after_a_crash_past_the_vote_nobody_is_scored_or_at_fault_again(
    alone: Ground, autojump_clock: trio.testing.MockClock
) -> None:
    one, judge, heads = certifier(alone)
    view = await look(one, heads, scored=True)
    assert view.sound == {HOTKEYS[GOOD]} and judge.scored == [] and judge.faulted == []
