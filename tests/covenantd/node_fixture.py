"""A Node whose network, engine and chain a test holds in its hands; journal, board and metrics are the real ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import trio
from run_fixture import HOTKEYS, SPEC, WrittenChain, enrolled

from covenantd.agreement import Agreement
from covenantd.board import StatusBoard
from covenantd.chain.keys import Hotkey
from covenantd.chain.protocol import EpochInfo, Metagraph
from covenantd.config import Config, NodeConfig
from covenantd.gather import Certified
from covenantd.heads import Heads
from covenantd.journal import Journal
from covenantd.metrics import Metrics
from covenantd.node import Node
from covenantd.roster import Entry, Exclusion, Roster
from covenantd.specchange import SpecHistory
from covenantd.status import Status
from covenantd.traffic import Traffic
from model import messages as m
from p2p.peerbook import Peer
from p2p.reputation import Reputation

STATE = SPEC.genesis_state
OWN = HOTKEYS[1]  # Bob
TRAINED = m.Trained(0, 3, 96, 5.0, 0.1, 2)
PROGRESS = m.Progress(0, 1, 6.0, 100.0, 1.5, 3e-4, 1000, 2000)


@dataclass
class ScriptedSwarm:
    """`present` (settable): who is there and connected."""

    peer_id: str = "own"
    present: tuple[Peer, ...] = ()
    reputation: Reputation = field(default_factory=lambda: Reputation(now=lambda: 0.0))
    found: list[Any] = field(default_factory=list)  # what a lookup finds

    def peers(self) -> tuple[Peer, ...]:
        return tuple(one for one in self.present if not self.reputation.is_banned(one.peer_id))

    def knows(self, peer_id: str) -> bool:
        return any(one.peer_id == peer_id for one in self.present)

    async def lookup(self, kind: str, round: int) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return self.found


def peer(name: str, connected: bool = True) -> Peer:
    return Peer(f"5{name}", name, (), "miner", 0.0, connected)


class ScriptedEngine:
    """Answers each order by its type; told progress while it trains."""

    state = "ready"
    silent_seconds: float | None = None

    def __init__(self, *answers: m.Message) -> None:
        self.answers = {type(one): one for one in (m.Hashed(STATE), m.Evaluated(4.5, 64), *answers)}

    async def order(self, message: Any, expect: type[Any], on_progress: Callable[[Any], None] | None = None) -> Any:
        await trio.lowlevel.checkpoint()
        if on_progress is not None:
            on_progress(PROGRESS)
        if isinstance(message, m.Seal) and message.path is not None:
            await trio.Path(message.path).write_bytes(b"x" * self.answers[m.Sealed].bytes)  # type: ignore[attr-defined]
        return self.answers[expect]


class ScriptedExchange:
    async def adopt(self, path: Path, piece_bytes: int, withheld: bool = False) -> str:
        await trio.lowlevel.checkpoint()
        return "ab" * 32


@dataclass
class PayingChain(WrittenChain):
    """Bob has a third of the incentive and is paid two units an epoch; `epoch_blocks` later comes the next one."""

    next_epoch: int = 100

    async def metagraph(self, block: int) -> Metagraph:
        view = enrolled(self.stakes, {}, block)
        paid = [replace(n, incentive=65535 // 3 * (n.uid == 1) + 50000 * (n.uid == 2)) for n in view.neurons]
        return replace(view, neurons=tuple(replace(n, emission=2 * 10**9) for n in paid))

    async def epoch(self) -> EpochInfo:
        self._answer(0)
        return EpochInfo(100, self.next_epoch, 100)


def make_node(directory: Path, role: str = "miner", engine: ScriptedEngine | None = None) -> Node:
    """Bob's, at round 0 of the golden run."""
    chain = PayingChain([5, 5, 5])
    staging = directory / "staging"
    staging.mkdir(exist_ok=True)
    metrics = Metrics()
    return Node(
        config=Config(node=NodeConfig(role=role, state_directory=directory)),
        spec=SPEC,
        history=SpecHistory(SPEC),
        hotkey=Hotkey.from_uri("//Bob"),
        chain=chain,
        agreement=Agreement(chain, SPEC),
        swarm=cast(Any, ScriptedSwarm()),
        exchange=cast(Any, ScriptedExchange()),
        blobs=cast(Any, None),
        engine=cast(Any, engine or ScriptedEngine()),
        journal=Journal(directory / "journal.json", SPEC.run_id, STATE),
        heads=Heads(),
        board=StatusBoard(Status(role)),
        metrics=metrics,
        traffic=Traffic(SPEC, metrics),
        commitment=trio.Lock(),
        staging=staging,
        parameters=1000,
        contribution_bytes=10,
    )


def certified(round: int, included: Sequence[str], left_out: Sequence[tuple[str, str]] = ()) -> Certified:
    """`left_out`: (hotkey, reason)."""
    body = Roster(
        run_id=SPEC.run_id,
        round=round,
        previous="00" * 32,
        base_state_hash=STATE,
        metagraph_block=SPEC.timing.start(round),
        spec_revision=0,
        alpha_bits=0,
        contributions=tuple(Entry(hotkey, "cd" * 32, 10) for hotkey in included),
        exclusions=tuple(Exclusion(hotkey, reason) for hotkey, reason in left_out),
        candidates=(),
    )
    return Certified("ef" * 32, body)
