"""Every metric is moved here by the code that moves it in a daemon, and by no hand: see MOVED."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from node_fixture import OWN, TRAINED, PayingChain, ScriptedEngine, ScriptedSwarm, certified, make_node, peer
from run_fixture import HOTKEYS, TIMING

from covenantd import daemon, miner
from covenantd.certifier import Certifier
from covenantd.chain.protocol import Block
from covenantd.chronicle import Chronicle
from covenantd.commitdesk import CommitDesk
from covenantd.coordinator import Coordinator
from covenantd.counted import CountedChain, CountedRecords, CountedTransport
from covenantd.errors import ChainError, ChainRefused
from covenantd.gauges import Gauges
from covenantd.health import Health
from covenantd.http import standard_routes
from covenantd.journal import PastRound, SealedContribution
from covenantd.metrics import CHAIN_CALLS, DHT_OPERATIONS, Metrics
from covenantd.node import Node
from covenantd.operate import Operations, operate
from covenantd.round import Phase, State
from model import messages as m
from p2p.asking import answering, ask
from p2p.blobs import BlobStore
from p2p.errors import PeerUnreachable, RecordRejected
from p2p.exchange import PROTOCOL
from p2p.testing import MemoryNetwork

Samples = dict[str, float]
"""By name without the prefix, and labels as in a scrape, in their order: rounds_total{result="void"}."""
BLOCK = Block(40, "ab" * 32, 1e9)


@dataclass
class Bench:
    node: Node
    nursery: trio.Nursery

    @property
    def metrics(self) -> Metrics:
        return self.node.metrics

    def samples(self) -> Samples:
        """Of ours alone: those of the process move by themselves."""
        found = [s for family in self.metrics.registry.collect() for s in family.samples]
        return {_series(one): one.value for one in found if one.name.startswith("covenantd_")}


def _series(sample: Any) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
    return sample.name.removeprefix("covenantd_") + (f"{{{labels}}}" if labels else "")


# What moves them


async def looked_at(bench: Bench) -> None:
    """Twice a second; meanwhile B goes, C is banned, the engine is started three times in all."""
    swarm = ScriptedSwarm(present=(peer("A"), peer("B"), peer("C")))
    gauges = Gauges(cast(Any, swarm), bench.metrics)
    gauges.look("running", 1)
    swarm.present = (peer("A"), peer("B", connected=False), peer("C"))
    swarm.reputation.ban("C", "test")
    gauges.look("running", 3)


class Answering:
    """A chain and a DHT: each call answers, then refuses, then fails."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any) -> Any:
            await trio.lowlevel.checkpoint()
            self.calls[name] = self.calls.get(name, 0) + 1
            if self.calls[name] == 1:
                return name != "fetch"
            if name in DHT_OPERATIONS:
                if self.calls[name] == 2:
                    return False
                raise PeerUnreachable("nobody")
            raise ChainRefused("no", "no") if self.calls[name] == 2 else ChainError("not now")

        return call


async def chain_called(bench: Bench) -> None:
    chain = CountedChain(cast(Any, Answering()), bench.metrics)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "block": chain.block,
        "metagraph": lambda: chain.metagraph(1),
        "publish_commitment": lambda: chain.publish_commitment(()),
        "set_weights": lambda: chain.set_weights({}),
        "epoch": chain.epoch,
    }
    assert set(calls) == set(CHAIN_CALLS)
    for call in calls.values():
        await call()
        with pytest.raises(ChainRefused):
            await call()
        with pytest.raises(ChainError):
            await call()


async def dht_used(bench: Bench) -> None:
    records = CountedRecords(cast(Any, Answering()), bench.metrics)
    assert await records.store("k", "s", b"", 1.0) and not await records.store("k", "s", b"", 1.0)
    with pytest.raises(PeerUnreachable):
        await records.store("k", "s", b"", 1.0)
    await records.fetch("k")
    await records.fetch("k")
    with pytest.raises(PeerUnreachable):
        await records.fetch("k")


async def blobs_moved(bench: Bench) -> None:
    """As the exchange of a daemon tells it."""
    node, network = bench.node, MemoryNetwork(bench.nursery)
    swarm = cast(Any, ScriptedSwarm())
    swarm.transport = network.transport("own")
    exchange = daemon._exchange(swarm, BlobStore(node.staging / "blobs"), bench.metrics, node.traffic)
    node.traffic.is_state("12" * 32)
    for blob_id in ("12" * 32, "34" * 32, node.spec.dataset.tokenizer):
        for way in ("out", "in"):
            exchange.on_bytes(way, "peer", blob_id, 100)
    exchange.on_violation("peer", "more than was asked for")


async def asked_and_answered(bench: Bench) -> None:
    """Frames of a question and its answer, and nothing of the exchange's streams."""
    network = MemoryNetwork(bench.nursery)
    own, other = CountedTransport(network.transport("own"), bench.metrics), network.transport("other")

    async def handler(peer_id: str, message: object) -> object:
        return message

    await other.handle("/q", answering(handler, lambda *_: None, 1000, 10))
    await own.handle("/q", answering(handler, lambda *_: None, 1000, 10))
    await own.handle(PROTOCOL, answering(handler, lambda *_: None, 1000, 10))
    assert await ask(own, "other", "/q", {"a": b"x" * 100}, 10) == {"a": b"x" * 100}
    told = dict(bench.samples())
    assert 100 < told['network_bytes_total{class="control",direction="sent"}'] < 200
    assert await ask(other, "own", PROTOCOL, {"a": b"x" * 100}, 10) == {"a": b"x" * 100}
    assert bench.samples() == told


async def trained(bench: Bench) -> None:
    bench.node.engine = cast(Any, ScriptedEngine(TRAINED))
    assert await miner.train(bench.node, 0) == TRAINED.inner_steps
    bench.node.engine = cast(Any, ScriptedEngine(replace(TRAINED, loss=math.nan)))
    await miner.train(bench.node, 0)


async def sealed(bench: Bench) -> None:
    bench.node.engine = cast(Any, ScriptedEngine(m.Sealed(0, "", 10, 0.5)))
    assert await miner.seal(bench.node, 0, 3, in_time=True)


async def rounds_ended(bench: Bench) -> None:
    node, chronicle = bench.node, Chronicle(bench.node)
    for round, found in enumerate((None, certified(1, [], [(OWN, "missing")]), certified(2, [OWN, HOTKEYS[0]]))):
        node.journal.update(sealed=SealedContribution(round, "ab" * 32, 12, 3, "12" * 32))
        node.journal.finish_round(PastRound(round, "cd" * 32 if found else None, "12" * 32, ()))
        chronicle.phase_ended(Phase.TRAIN)
        await chronicle.look_up_standing(round)
        cast(PayingChain, node.chain).next_epoch += 100
        chronicle.round_finished(round, found, "12" * 32)
    node.journal.update(round=5)
    chronicle.past_rounds()
    await chronicle.evaluate()
    chronicle.show(State(TIMING, True, round=1, head=TIMING.vote(3)), draining=False)


async def commits_refused(bench: Bench) -> None:
    """A peer's garbage at a certifier's desk."""
    desk = CommitDesk(bench.node)
    with pytest.raises(RecordRejected):
        await desk._receive("peer", {"commit": b"garbage"})


async def head_followed(bench: Bench) -> None:
    async def heads() -> Any:
        yield BLOCK

    cast(Any, bench.node.chain).heads = heads
    await Coordinator(bench.node, cast(Certifier, None))._follow_chain()


async def scraped(bench: Bench) -> None:
    health = Health()
    health.add("good", lambda: None)
    await standard_routes(bench.metrics, health)["/metrics"]()


async def pulsed(bench: Bench) -> None:
    """The pulse of a daemon that answers on its control socket."""
    node, swarm = bench.node, cast(Any, ScriptedSwarm())
    swarm.transport = MemoryNetwork(bench.nursery).transport("own")
    exchange = daemon._exchange(swarm, BlobStore(node.staging / "blobs"), bench.metrics, node.traffic)
    config = replace(
        node.config,
        node=replace(node.config.node, runtime_directory=node.staging),
        http=replace(node.config.http, listen=""),
    )
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 30
        nursery.start_soon(operate, Operations(config, node.board, bench.metrics, Health(), swarm, exchange), {}, None)
        while not bench.samples()["loop_lag_seconds_count"]:  # noqa: ASYNC110
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


Mover = Callable[[Bench], Awaitable[None]]
Expected = dict[str, float | None]
"""What each series is afterwards; None: something else than before."""


def each(name: str, label: str, **values: float | None) -> Expected:
    return {f'{name}{{{label}="{value}"}}': by for value, by in values.items()}


MOVED: dict[Mover, Expected] = {
    looked_at: {
        **each("peers", "state", known=2, connected=1, banned=1),
        **each("peer_disconnects_total", "reason", lost=1),
        **each("state", "state", running=1),
        "engine_restarts_total": 2,
    },
    chain_called: {
        f'chain_requests_total{{call="{call}",result="{result}"}}': 1
        for call in CHAIN_CALLS
        for result in ("ok", "refused", "error")
    },
    dht_used: {
        'dht_operations_total{operation="store",result="ok"}': 1,
        'dht_operations_total{operation="store",result="refused"}': 1,
        'dht_operations_total{operation="store",result="error"}': 1,
        'dht_operations_total{operation="fetch",result="ok"}': 2,
        'dht_operations_total{operation="fetch",result="error"}': 1,
    },
    blobs_moved: {
        **{
            f'network_bytes_total{{class="{kind}",direction="{way}"}}': 100
            for kind in ("state", "contribution", "other")
            for way in ("sent", "received")
        },
        'limit_rejections_total{scope="exchange"}': 1,
    },
    asked_and_answered: {
        'network_bytes_total{class="control",direction="sent"}': None,
        'network_bytes_total{class="control",direction="received"}': None,
    },
    trained: {
        "inner_steps_total": 6,
        "tokens_total": 192,
        "nonfinite_steps_total": 4,
        'loss{split="train"}': 5.0,
        "learning_rate": 3e-4,
        "gradient_norm": 1.5,
        "gpu_memory_bytes": 2000,
    },
    sealed: {
        "error_feedback_norm": 0.5,
        **each("contribution_bytes", "stage", encoded=10, dense=4000),
        "compression_ratio": 400,
    },
    rounds_ended: {
        **each("rounds_total", "result", certified=2, void=1, unknown=2),
        **each("contributions_total", "result", included=1, void=1, missing=1),
        **each("round_phase_duration_seconds_count", "phase", train=3, outer_step=3),
        'loss{split="heldout"}': 4.5,
        "round_number": 1,
        "rounds_behind": 2,
        "aggregated_contributions": 2,
        "last_commit_timestamp_seconds": None,
        "checkpoint_timestamp_seconds": None,
        "compute_utilization_ratio": None,
        "weight": 21845 / 65535,
        "score": 21845 / 50000,
        "emission_total": 4,
    },
    commits_refused: each("contributions_total", "result", malformed=1),
    head_followed: {"chain_block": 40},
    scraped: each("health_check", "check", good=1),
    pulsed: {"loop_lag_seconds_count": None},
}
UNMOVED = {"build"}
"""What never moves: it says what runs here."""


@pytest.mark.parametrize("mover", MOVED, ids=lambda mover: mover.__name__)
async def test_it_moves(mover: Mover, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            bench = Bench(make_node(tmp_path), nursery)
            before = bench.samples()
            await mover(bench)
            after = bench.samples()
            nursery.cancel_scope.cancel()
    for series, value in MOVED[mover].items():
        assert after[series] != before.get(series, 0.0), series
        assert value is None or after[series] == pytest.approx(value), series


def test_every_metric_is_among_them() -> None:
    """By what a daemon registers: a metric that is new, and moved by nothing here, fails."""
    families = {family.name.removeprefix("covenantd_") for family in Metrics().registry.collect()}
    ours = {name for name in families if not name.startswith("process_")}
    series = {name.partition("{")[0] for expected in MOVED.values() for name in expected}
    moved = {name.removesuffix("_total").removesuffix("_count") for name in series}
    assert moved == ours - UNMOVED


def test_no_series_with_a_fixed_label_is_for_show() -> None:
    """Each of `network_bytes_total`, `rounds_total` and the calls that exists from the start can move."""
    series = {name for expected in MOVED.values() for name in expected}
    for family in Metrics().registry.collect():
        if family.name.removeprefix("covenantd_") in ("network_bytes", "rounds", "dht_operations", "chain_requests"):
            assert {_series(one) for one in family.samples} <= series
