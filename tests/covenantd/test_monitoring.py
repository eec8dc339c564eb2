"""What ships for Prometheus and Grafana, against our real metrics and the real Prometheus."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_fixture import Prometheus, needs_prometheus
from test_metrics import moved

from covenantd.health import Health
from covenantd.http import serve_http, standard_routes

ASSETS = resources.files("covenantd") / "assets"
ALERTS = (ASSETS / "alerts.yml").read_text()
DASHBOARD: dict[str, Any] = json.loads((ASSETS / "grafana.json").read_text())
CASES = (Path(__file__).parent / "alert_cases.yml").read_text()
NAME = re.compile(r"\b((?:covenantd|process)_[a-z_]+)\b")
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def exposed() -> set[str]:
    lines = moved().render().decode().splitlines()
    return {match[1] for line in lines if (match := re.match(r"([a-z_]+)[ {]", line))}


def expressions() -> list[str]:
    """Of every panel and variable."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return found + [one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]


def named(text: str) -> set[str]:
    return set(NAME.findall(text))


def test_every_metric_that_the_dashboard_and_the_alerts_name_exists() -> None:
    assert len(expressions()) > 40
    for text in (*expressions(), *re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n        (?:for|labels):", ALERTS)):
        assert named(text) <= exposed(), text


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    trimmed = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed() if name.startswith("covenantd_")}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for text in expressions() for name in named(text)}
    assert trimmed - shown == set()


def test_label_values_that_are_asked_for_exist() -> None:
    text = moved().render().decode()
    for name, label, value in re.findall(r"(covenantd_[a-z_]+)\{[^}]*?([a-z]+)=\"([a-z_]+)\"", ALERTS):
        assert re.search(rf"{name}\{{[^}}]*{label}=\"{value}\"", text), (name, label, value)


def test_the_dashboard_fits_its_grid_and_asks_only_the_chosen_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not taken & cells and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def names_of_alerts() -> list[str]:
    return re.findall(r"alert: (\w+)", ALERTS)


@promtool
def test_promtool_accepts_rules_and_metrics(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yml"
    path.write_text(ALERTS)
    checked = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and f"{len(names_of_alerts())} rules found" in checked.stdout, checked.stderr
    metrics = moved().render()
    lint = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False)
    assert (lint.returncode, lint.stderr) == (0, b"")


@promtool
def test_alerts_fire_when_something_is_wrong_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(ALERTS)

    rows = [f"{{eval_time: 4h, alertname: {name}, exp_alerts: []}}" for name in names_of_alerts()]
    nothing_fires = "[" + ", ".join(rows) + "]"

    def run(cases: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "cases.yml").write_text(cases.replace("RULES", "alerts.yml"))
        command = ["promtool", "test", "rules", str(tmp_path / "cases.yml")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    silent = run(CASES.replace("WELL", nothing_fires).replace("ILL", "[]"))
    assert silent.returncode == 0, silent.stderr + silent.stdout
    loud = run(CASES.replace("WELL", "[]").replace("ILL", nothing_fires))
    fired = set(re.findall(r"alertname: ?(\w+)", loud.stderr + loud.stdout))
    assert fired == set(names_of_alerts()), "promtool reports each that fires as unexpected"


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    started: list[Prometheus] = []

    def start(target: str) -> Prometheus:
        started.append(Prometheus(tmp_path / "prometheus", target, ALERTS))
        return started[-1]

    yield start
    for one in started:
        one.close()


@needs_prometheus
async def test_prometheus_scrapes_us(start_prometheus: Callable[[str], Prometheus], nursery: trio.Nursery) -> None:
    """Every series that we expose arrives, and every expression of dashboard and alerts is understood."""
    metrics = moved()
    address = await nursery.start(serve_http, "127.0.0.1:0", standard_routes(metrics, Health()))
    prometheus = await trio.to_thread.run_sync(start_prometheus, address)
    await trio.to_thread.run_sync(prometheus.until, 'up{job="covenantd"} == 1')
    await trio.to_thread.run_sync(prometheus.until, "covenantd_round_number == 3")
    series = await trio.to_thread.run_sync(prometheus.query, 'count by (__name__) ({job="covenantd"})')
    assert exposed() <= {one["metric"]["__name__"] for one in series}
    for text in expressions():
        if not text.startswith("label_values"):
            asked = re.sub(r"\$(job|instance)", ".+", text).replace("$__rate_interval", "1m")
            await trio.to_thread.run_sync(prometheus.query, asked)
    rules = await trio.to_thread.run_sync(prometheus.get, "/api/v1/rules")
    assert {rule["name"] for rule in rules["groups"][0]["rules"]} == set(names_of_alerts())
    assert all(rule["health"] != "err" for rule in rules["groups"][0]["rules"])
    nursery.cancel_scope.cancel()


def test_urls_are_only_those_of_the_daemon() -> None:
    assert not re.search(r"https?://(?!INSTANCE)", json.dumps(DASHBOARD) + ALERTS)
