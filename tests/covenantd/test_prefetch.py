"""What a miner shows of a round before its roster is known: who has committed, whose contribution is here."""

from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from node_fixture import STATE, make_node
from run_fixture import HOTKEYS, TIMING

from covenantd import gather
from covenantd.chain.protocol import Block
from covenantd.commits import Commit
from covenantd.proofs import Proof
from p2p.errors import BlobUnavailable


class Holders:
    """An exchange whose blobs come when the test says so."""

    def __init__(self) -> None:
        self.come = {name: trio.Event() for name in ("a", "b", "gone")}

    async def fetch(self, blob_id: str, holders: object, **limits: Any) -> Path:
        await self.come[blob_id].wait()
        if blob_id == "gone":
            raise BlobUnavailable("nobody has it")
        return Path(blob_id)


async def test_commits_are_shown_as_they_come_and_held_once_they_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    node, holders = make_node(tmp_path), Holders()
    node.exchange = cast(Any, holders)
    found: list[Proof] = []

    async def mirrored(node: object, round: int, rejected: object) -> list[Proof]:
        return found

    def commit(uid: int, blob_id: str) -> Proof:
        return Proof(Commit(HOTKEYS[uid], f"peer{uid}", 0, blob_id, 10, STATE, 3), {}, b"", ())

    def shown() -> list[tuple[int, str]]:
        return [(HOTKEYS.index(one.hotkey), one.fate) for one in node.board.status.contributions]

    monkeypatch.setattr(gather, "mirrored", mirrored)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather.prefetch, node, 0)
        await trio.sleep(3)
        assert shown() == [] and node.board.status.contributions_round is None
        found += [commit(0, "a"), commit(1, "gone")]
        await trio.sleep(2)
        assert shown() == [(0, "committed"), (1, "committed")] and node.board.status.contributions_round == 0
        holders.come["a"].set()
        holders.come["gone"].set()
        found.append(commit(2, "b"))
        await trio.sleep(2)
        assert shown() == [(0, "held"), (1, "committed"), (2, "committed")]
        node.journal.update(round=1)  # another round is shown now
        holders.come["b"].set()
        await trio.sleep(2)
        assert shown() == [(0, "held"), (1, "committed"), (2, "committed")]
        node.heads.see(Block(TIMING.vote(0), "ab" * 32, 0.0))
