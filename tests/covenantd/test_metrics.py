"""Metric names are an interface; here they are, as a scraper sees them."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from covenantd.metrics import Metrics

NAMES = """
build_info state engine_restarts_total round_number rounds_total rounds_behind round_phase_duration_seconds
last_commit_timestamp_seconds inner_steps_total tokens_total loss learning_rate gradient_norm error_feedback_norm
nonfinite_steps_total contributions_total contribution_bytes aggregated_contributions compression_ratio peers
peer_disconnects_total network_bytes_total dht_operations_total limit_rejections_total chain_block
chain_requests_total score weight checkpoint_timestamp_seconds loop_lag_seconds health_check
compute_utilization_ratio gpu_memory_bytes emission_total
"""
LABELS = {
    "covenantd_rounds_total": {"result"},
    "covenantd_round_phase_duration_seconds_count": {"phase"},
    "covenantd_loss": {"split"},
    "covenantd_contributions_total": {"result"},
    "covenantd_contribution_bytes": {"stage"},
    "covenantd_peers": {"state"},
    "covenantd_peer_disconnects_total": {"reason"},
    "covenantd_network_bytes_total": {"direction", "class"},
    "covenantd_dht_operations_total": {"operation", "result"},
    "covenantd_limit_rejections_total": {"scope"},
    "covenantd_chain_requests_total": {"call", "result"},
    "covenantd_state": {"state"},
    "covenantd_health_check": {"check"},
    "covenantd_build_info": {"version"},
}


def moved() -> Metrics:
    """Every metric with a value, by hand: `test_metrics_move` has the daemon's code do it."""
    m = Metrics()
    m.set_state("running")
    m.set_health({"engine": True, "chain": False})
    m.add_network_bytes("sent", "contribution", 5000)
    for counter in (m.engine_restarts, m.inner_steps, m.tokens, m.nonfinite_steps, m.emission):
        counter.inc(2)
    for gauge in (
        *(m.round_number, m.rounds_behind, m.last_commit_timestamp, m.checkpoint_timestamp, m.learning_rate),
        *(m.gradient_norm, m.error_feedback_norm, m.aggregated_contributions, m.compression_ratio, m.chain_block),
        *(m.score, m.weight, m.compute_utilization, m.gpu_memory),
    ):
        gauge.set(3)
    m.rounds.labels("certified").inc()
    m.round_phase_duration.labels("train").observe(4.2)
    m.loop_lag.observe(0.002)
    m.loss.labels("heldout").set(3.5)
    m.contributions.labels("included").inc()
    m.contribution_bytes.labels("encoded").set(5000)
    m.peers.labels("connected").set(3)
    m.peer_disconnects.labels("stalled").inc()
    m.dht_operations.labels("fetch", "ok").inc()
    m.limit_rejections.labels("streams").inc()
    m.chain_requests.labels("metagraph", "ok").inc()
    return m


def samples(m: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(m.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_every_name_is_there_once_moved_and_no_other_of_ours() -> None:
    found = {name for name in samples(moved()) if name.startswith("covenantd_")}
    trimmed = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in found}
    assert trimmed == {f"covenantd_{name}" for name in NAMES.split()}


def test_labels_are_the_named_ones_and_no_peer_is_among_them() -> None:
    for name, values in samples(moved()).items():
        if name.startswith("covenantd_"):
            expected = LABELS.get(name, {"phase"} if name.startswith("covenantd_round_phase") else set())
            assert all(set(labels) - {"le"} == expected for labels, _ in values), name


def test_series_with_known_labels_exist_from_the_start() -> None:
    found = samples(Metrics())
    assert ({"result": "void"}, 0) in found["covenantd_rounds_total"]
    assert ({"direction": "received", "class": "state"}, 0) in found["covenantd_network_bytes_total"]


def test_state_is_one_hot() -> None:
    m = Metrics()
    m.set_state("paused")
    m.set_state("behind")
    assert [labels["state"] for labels, value in samples(m)["covenantd_state"] if value] == ["behind"]


def test_a_scrape_of_a_fresh_daemon_reads_like_this() -> None:
    """Names, help and the series that are there from the start. A deliberate change goes into the file, too."""
    golden = Path(__file__).parents[1] / "golden" / "metrics.txt"
    said = [line for line in Metrics().render().decode().splitlines() if "process_" not in line]
    said = [line for line in said if not line.startswith("covenantd_build_info{")]
    assert said == golden.read_text().splitlines()


def test_two_daemons_in_one_process_do_not_meet() -> None:
    a, b = Metrics(), Metrics()
    a.inner_steps.inc(5)
    assert samples(b)["covenantd_inner_steps_total"] == [({}, 0)]
