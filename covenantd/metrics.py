"""Every metric of the daemon, on a registry of its own. Names are an interface: dashboards and alerts use them.

Base units, no per-peer labels (their number would be the attacker's to choose).
"""

from collections.abc import Mapping
from typing import TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from covenantd import __version__
from covenantd.status import STATES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PHASES = ("syncing", "waiting", "train", "seal", "commit", "exchange", "certify", "aggregate", "outer_step")
ROUND_RESULTS = ("certified", "void", "unknown")
PEER_STATES = ("known", "connected", "banned")
DIRECTIONS = ("sent", "received")
TRAFFIC_CLASSES = ("control", "contribution", "state", "other")
DISCONNECT_REASONS = ("lost", "banned")
CALL_RESULTS = ("ok", "refused", "error")
CHAIN_CALLS = ("block", "metagraph", "publish_commitment", "set_weights", "epoch")
DHT_OPERATIONS = ("store", "fetch")
RECORD_REASONS = ("oversized", "malformed", "run", "kind", "round", "hotkey", "peer", "signature")
CONTRIBUTION_RESULTS = (
    *("included", "void", "missing", "invalid", "harmful", "useless", "full", "base", "equivocated"),  # in a roster
    *("early", "late", "stranger", "size"),  # commits a certifier refused
    *RECORD_REASONS,
    "other",
)
REJECTION_SCOPES = (
    *(f"record-{reason}" for reason in (*RECORD_REASONS, "expired", "future", "protocol")),
    "violation",  # a frame too long, garbage, a field that is not what it must be
    "exchange",  # bytes that do not match their hash, requests beyond the protocol
    "other",
)
_Metric = TypeVar("_Metric", Gauge, Counter, Histogram)
_PHASE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Attributes are named as the metrics, less the prefix and `_total`."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._daemon()
        self._rounds()
        self._training()
        self._contributions()
        self._network()
        self._chain()

    def render(self) -> bytes:
        """All of it in the text format, as CONTENT_TYPE says."""
        return generate_latest(self.registry)

    def set_state(self, state: str) -> None:
        for one in STATES:
            self.state.labels(one).set(one == state)

    def set_health(self, checks: Mapping[str, bool]) -> None:
        for name, ok in checks.items():
            self.health_check.labels(name).set(ok)

    def add_network_bytes(self, direction: str, traffic_class: str, count: int) -> None:
        """One of DIRECTIONS, one of TRAFFIC_CLASSES."""
        self.network_bytes.labels(direction, traffic_class).inc(count)

    def count_contribution(self, result: str, count: int = 1) -> None:
        """One of CONTRIBUTION_RESULTS. Others' words cannot make new series: they count as "other"."""
        self.contributions.labels(result if result in CONTRIBUTION_RESULTS else "other").inc(count)

    def count_rejection(self, scope: str) -> None:
        """One of REJECTION_SCOPES, else "other"."""
        self.limit_rejections.labels(scope if scope in REJECTION_SCOPES else "other").inc()

    def _daemon(self) -> None:
        build = Info("covenantd_build", "What runs here; always 1", registry=self.registry)
        build.info({"version": __version__})
        self.state = self._gauge("state", "1 for the state the daemon is in, else 0", ["state"], STATES)
        self.health_check = self._gauge("health_check", "1 where the named check passes, else 0", ["check"])
        self.engine_restarts = self._counter("engine_restarts_total", "Times the engine process was started anew")
        self.loop_lag = self._histogram(
            "loop_lag_seconds", "How much later than asked the daemon's event loop woke up", _LAG_BUCKETS
        )

    def _rounds(self) -> None:
        self.round_number = self._gauge("round_number", "Round of the model state held")
        self.rounds = self._counter("rounds_total", "Rounds that ended, by result", ["result"], ROUND_RESULTS)
        self.rounds_behind = self._gauge("rounds_behind", "Decided rounds not yet applied here")
        self.round_phase_duration = self._histogram(
            "round_phase_duration_seconds", "Time spent in each phase of a round", _PHASE_BUCKETS, ["phase"], PHASES
        )
        self.last_commit_timestamp = self._gauge(
            "last_commit_timestamp_seconds", "When the last outer step was taken, seconds since the epoch"
        )
        self.checkpoint_timestamp = self._gauge(
            "checkpoint_timestamp_seconds", "When the state on disk was last written, seconds since the epoch"
        )

    def _training(self) -> None:
        self.inner_steps = self._counter("inner_steps_total", "Inner optimiser steps taken")
        self.tokens = self._counter("tokens_total", "Tokens trained on")
        self.loss = self._gauge("loss", "Latest mean cross-entropy in nats per token", ["split"])
        self.learning_rate = self._gauge("learning_rate", "Inner learning rate now")
        self.gradient_norm = self._gauge("gradient_norm", "Norm of the last gradient before clipping")
        self.error_feedback_norm = self._gauge("error_feedback_norm", "Norm of what has not been sent yet")
        self.compute_utilization = self._gauge(
            "compute_utilization_ratio", "Share of the last round that was spent on inner steps, 0 to 1"
        )
        self.gpu_memory = self._gauge("gpu_memory_bytes", "Largest memory of the engine on the GPU; 0 on a CPU")
        self.nonfinite_steps = self._counter("nonfinite_steps_total", "Inner steps skipped for a NaN or infinity")

    def _contributions(self) -> None:
        self.contributions = self._counter(
            "contributions_total",
            "Contributions and their commits, our own and those we checked, by what became of them",
            ["result"],
            CONTRIBUTION_RESULTS,
        )
        self.contribution_bytes = self._gauge(
            "contribution_bytes", "Size of our last contribution: as dense fp32, and as sent", ["stage"]
        )
        self.aggregated_contributions = self._gauge("aggregated_contributions", "Contributions in the last outer step")
        self.compression_ratio = self._gauge("compression_ratio", "Dense fp32 bytes over bytes sent")

    def _network(self) -> None:
        self.peers = self._gauge("peers", "Peers, by state", ["state"], PEER_STATES)
        self.peer_disconnects = self._counter(
            "peer_disconnects_total", "Peers we lost or dropped, by reason", ["reason"], DISCONNECT_REASONS
        )
        self.network_bytes = self._counter(
            "network_bytes_total",
            "Bytes of blobs, questions and answers to and from peers, less the DHT's and the exchange's own messages",
            ["direction", "class"],
        )
        for direction in DIRECTIONS:
            for traffic_class in TRAFFIC_CLASSES:
                self.network_bytes.labels(direction, traffic_class)
        self.dht_operations = self._counter(
            "dht_operations_total", "DHT operations, by kind and result", ["operation", "result"]
        )
        self._cross(self.dht_operations, DHT_OPERATIONS)
        self.dht_operations.remove("fetch", "refused")  # nobody refuses those
        self.limit_rejections = self._counter(
            "limit_rejections_total",
            "What peers were refused for a limit or a rule, by its scope",
            ["scope"],
            REJECTION_SCOPES,
        )

    def _chain(self) -> None:
        self.chain_block = self._gauge("chain_block", "Newest finalized block seen")
        self.chain_requests = self._counter(
            "chain_requests_total", "Calls to the chain, by call and result", ["call", "result"]
        )
        self._cross(self.chain_requests, CHAIN_CALLS)
        self.score = self._gauge("score", "Our score as last seen, 0 to 1")
        self.emission = self._counter(
            "emission_total", "What the chain paid the hotkey since the start, in units of the subnet's token"
        )
        self.weight = self._gauge("weight", "Our share of the weights on chain, 0 to 1")

    def _cross(self, calls: Counter, names: tuple[str, ...]) -> None:
        for name in names:
            for result in CALL_RESULTS:
                calls.labels(name, result)

    def _gauge(self, name: str, help: str, labels: list[str] | None = None, values: tuple[str, ...] = ()) -> Gauge:
        return _with(Gauge(f"covenantd_{name}", help, labels or [], registry=self.registry), values)

    def _counter(self, name: str, help: str, labels: list[str] | None = None, values: tuple[str, ...] = ()) -> Counter:
        return _with(Counter(f"covenantd_{name}", help, labels or [], registry=self.registry), values)

    def _histogram(
        self,
        name: str,
        help: str,
        buckets: tuple[float, ...],
        labels: list[str] | None = None,
        values: tuple[str, ...] = (),
    ) -> Histogram:
        metric = Histogram(f"covenantd_{name}", help, labels or [], buckets=buckets, registry=self.registry)
        return _with(metric, values)


def _with(metric: _Metric, values: tuple[str, ...]) -> _Metric:
    """Series that exist from the start: a rate over one that appears later misses its first count."""
    for value in values:
        metric.labels(value)
    return metric
