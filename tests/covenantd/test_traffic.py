"""What blobs are for: who fetches and who serves knows it, before and after a restart."""

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from node_fixture import OWN, certified, make_node
from run_fixture import SPEC

from covenantd import catchup, daemon, gather, revisions
from covenantd.metrics import TRAFFIC_CLASSES, Metrics
from covenantd.traffic import Traffic
from p2p.blobs import BlobStore
from p2p.errors import BlobUnavailable
from p2p.exchange_settings import Priority
from p2p.reputation import Reputation

STATE, ROSTER, PAST, CHANGE = (letter * 64 for letter in "abcd")


def test_what_was_said_of_a_blob_decides_and_is_forgotten_with_it() -> None:
    traffic = Traffic(SPEC, Metrics())
    traffic.is_state(STATE)
    traffic.is_control((ROSTER,))
    traffic.is_past((ROSTER, PAST))
    expected = {
        SPEC.dataset.tokenizer: Priority.DATASET,
        SPEC.genesis_state: Priority.SNAPSHOT,
        STATE: Priority.SNAPSHOT,
        ROSTER: Priority.CONTROL,
        PAST: Priority.CATCH_UP,
        "f" * 64: None,
    }
    assert {blob_id: traffic.priority_of(blob_id) for blob_id in expected} == expected
    traffic.retain((STATE,))
    assert traffic.priority_of(PAST) is None and traffic.priority_of(STATE) == Priority.SNAPSHOT
    assert traffic.priority_of(SPEC.dataset.tokenizer) == Priority.DATASET


def test_bytes_count_by_what_the_blob_is_for() -> None:
    metrics = Metrics()
    traffic = Traffic(SPEC, metrics)
    traffic.is_state(STATE)
    traffic.is_control((ROSTER, CHANGE))
    traffic.is_past((PAST,))
    for size, blob_id in enumerate((STATE, ROSTER, CHANGE, PAST, SPEC.dataset.tokenizer, "f" * 64)):
        traffic.count("out", blob_id, 10**size)
    sent = {kind: metrics.network_bytes.labels("sent", kind)._value.get() for kind in TRAFFIC_CLASSES}
    assert sent == {"state": 1, "control": 110, "contribution": 101_000, "other": 10_000}


class AskedExchange:
    def __init__(self) -> None:
        self.asked: dict[str, Priority] = {}

    async def fetch(self, blob_id: str, holders: object, *, priority: Priority, **rest: Any) -> Path:
        self.asked[blob_id] = priority
        raise BlobUnavailable(blob_id)


async def test_every_fetch_says_how_much_it_matters(tmp_path: Path) -> None:
    node, exchange = make_node(tmp_path), AskedExchange()
    node.exchange = cast(Any, exchange)
    with suppress(ExceptionGroup):
        await catchup._dataset(node, SPEC.dataset)
    body = certified(0, [OWN]).body
    for fetch in (
        lambda: catchup._state(node, STATE),
        lambda: gather.certified_roster(node, ROSTER),
        lambda: revisions._fetch(node, CHANGE, 30.0),
        lambda: gather.contributions(node, body, 30.0, Priority.CATCH_UP),
        lambda: gather.contribution(node, OWN, PAST),
    ):
        with suppress(BlobUnavailable):
            await fetch()
    assert exchange.asked.pop(body.contributions[0].blob_id) == Priority.CATCH_UP
    assert [exchange.asked.pop(one) for one in (STATE, ROSTER, CHANGE, PAST)] == [
        Priority.SNAPSHOT,
        Priority.CONTROL,
        Priority.CONTROL,
        Priority.CONTRIBUTION,
    ]
    assert set(exchange.asked.values()) == {Priority.DATASET}
    assert node.traffic.priority_of(ROSTER) == node.traffic.priority_of(CHANGE) == Priority.CONTROL


async def test_the_daemons_exchange_knows_peers_and_what_blobs_are_for(tmp_path: Path) -> None:
    told = {"A": SimpleNamespace(up=2_500_000)}
    swarm = SimpleNamespace(
        transport=SimpleNamespace(peer_id="own", flows=tuple),
        reputation=Reputation(),
        knows="AB".__contains__,
        by_peer_id=told.get,
    )
    metrics = Metrics()
    exchange = daemon._exchange(cast(Any, swarm), BlobStore(tmp_path), metrics, Traffic(SPEC, metrics))
    assert exchange.admit("A") and not exchange.admit("C")
    assert exchange.uplink_of("A") == 2_500_000 and exchange.uplink_of("B") == 0
    assert exchange._serving.priority_of(SPEC.dataset.heldout_shard) == Priority.DATASET
    assert exchange._serving.priority_of("f" * 64) == Priority.CONTRIBUTION
