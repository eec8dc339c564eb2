"""Catching up where something cannot be had: it is said, tried again from the newest round, and gone around."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from run_fixture import HOTKEYS, SPEC, TIMING, h

from covenantd import catchup, round
from covenantd.coordinator import Coordinator
from covenantd.heads import Heads
from covenantd.journal import Memory, PastRound, SealedContribution
from covenantd.roster import NO_DIGEST, Entry, Roster, Vote, alpha_bits
from p2p.errors import BlobUnavailable


def body(number: int, previous: str, entries: tuple[Entry, ...] = ()) -> Roster:
    return Roster(SPEC.run_id, number, previous, h(number), 1, 0, alpha_bits(2.0), entries, (), ())


@dataclass
class Peers:
    """What connected peers have; what they lack is waited for until the deadline, if there is one."""

    directory: Path
    blobs: dict[str, bytes]
    asked: list[str] = field(default_factory=list)

    async def fetch(
        self, blob_id: str, holders: Any, *, max_bytes: int, deadline_seconds: float | None = None, **how: Any
    ) -> Path:
        self.asked.append(blob_id)
        if blob_id not in self.blobs:
            await trio.sleep(math.inf if deadline_seconds is None else deadline_seconds)
            raise BlobUnavailable(f"blob {blob_id} was not to be had")
        path = self.directory / blob_id
        path.write_bytes(self.blobs[blob_id])
        return path


async def _newest(through: int, since: int = 0) -> Vote | None:
    return Vote(SPEC.tag, 7, h("r7"), h(7))


def behind(tmp_path: Path, *, lacking: str = "") -> Any:
    """A node that holds θ_5, in a run whose rounds up to 7 are certified by rosters r5, r6, r7."""
    chain = {h("r5"): body(5, h("r4")), h("r6"): body(6, h("r5")), h("r7"): body(7, h("r6"))}
    blobs = {digest: one.encode() for digest, one in chain.items() if digest != lacking}
    return SimpleNamespace(
        spec=SPEC,
        journal=SimpleNamespace(memory=Memory(SPEC.run_id, 5, h(5), h("r4"))),
        agreement=SimpleNamespace(newest_certified=_newest),
        exchange=Peers(tmp_path, blobs),
        holders=lambda first=None: lambda: ["a", "b"],
        hotkey=SimpleNamespace(hotkey=HOTKEYS[0]),
        traffic=SimpleNamespace(is_control=lambda digests: None),
    )


async def test_rosters_are_followed_back_to_the_last_one_known(tmp_path: Path) -> None:
    missed = await catchup.missed_rosters(behind(tmp_path), 7)
    assert [one.body.round for one in missed] == [5, 6, 7]


async def test_one_that_nobody_has_is_gone_around(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    node = behind(tmp_path, lacking=h("r6"))
    missed = await catchup.missed_rosters(node, 7)
    assert [one.body.round for one in missed] == [7], "so θ_7 is fetched instead"
    assert missed[0].body.previous != node.journal.memory.previous


async def test_the_newest_is_waited_for_but_not_for_ever(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(BlobUnavailable, match=f"waiting for the roster {h('r7')[:16]} from 2 connected peers"):
        await catchup.missed_rosters(behind(tmp_path, lacking=h("r7")), 7)


async def test_tokens_are_waited_for_but_not_for_ever(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    node = behind(tmp_path)
    node.exchange.blobs |= dict.fromkeys((SPEC.dataset.tokenizer, *SPEC.dataset.train_shards), b"")
    with pytest.raises(ExceptionGroup) as caught:
        await catchup._dataset(node, SPEC.dataset)
    (error,) = caught.value.exceptions
    assert f"waiting for the run's tokens {SPEC.dataset.heldout_shard[:16]} from 2 connected peers" in str(error)


async def test_each_try_begins_at_what_is_decided_by_then(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    heads, tried, said = Heads(), list[int](), list[str]()
    checked: list[bool] = []

    async def catch_up(node: Any, through: int) -> Any:
        tried.append(through)
        heads.number += TIMING.blocks_per_round
        if len(tried) < 3:
            raise BlobUnavailable("waiting for it")
        return SimpleNamespace(trained_round=4)

    async def check_state() -> None:
        checked.append(True)

    node: Any = SimpleNamespace(
        spec=SPEC,
        validates=False,
        journal=SimpleNamespace(memory=Memory(SPEC.run_id, 5, h(5))),
        heads=heads,
        board=SimpleNamespace(update=lambda last_error: said.append(last_error), rounds=()),
        check_state=check_state,
    )
    monkeypatch.setattr(catchup, "catch_up", catch_up)
    heads.number = TIMING.vote(4)
    coordinator = Coordinator(node, None)
    assert await coordinator._catch_up(round.CatchUp(3)) == round.Ready(5, 4)
    assert tried == [4, 5, 6] and said == ["waiting for it"] * 2 and checked


def test_a_roster_lists_ours_only_if_it_is_what_we_hold_sealed(tmp_path: Path) -> None:
    node = behind(tmp_path)
    listed = body(5, NO_DIGEST, (Entry(HOTKEYS[0], h("sent"), 1), Entry(HOTKEYS[1], h("other"), 1)))

    def ours(sealed: SealedContribution | None) -> bool:
        node.journal.memory = replace(node.journal.memory, sealed=sealed)
        return catchup._lists_ours(node, listed)

    assert ours(SealedContribution(5, h("sent"), 1, 1, h(5)))
    assert not ours(SealedContribution(5, h("again"), 1, 1, h(5))), "the one committed to was lost with its file"
    assert not ours(SealedContribution(5, h("other"), 1, 1, h(5)))
    assert ours(SealedContribution(4, h("older"), 1, 1, h(4))) and ours(None), "nothing sealed here contradicts"


def test_rosters_fetched_for_later_rounds_of_a_replay_are_kept(tmp_path: Path) -> None:
    node, kept, remembered = behind(tmp_path), set[str](), set[str]()
    node.blobs, node.traffic = SimpleNamespace(retain=kept.update), SimpleNamespace(retain=remembered.update)
    past = (PastRound(4, h("r4"), h(5), (h("r4"), h("c4"))),)
    node.journal.memory = replace(node.journal.memory, past=past)
    catchup._prune(node, frozenset({h("r6")}))
    assert {h("r6"), h("r4"), h("c4"), h(5), SPEC.genesis_state, SPEC.dataset.tokenizer} <= kept
    assert remembered == kept, "what is gone from disk is forgotten"
