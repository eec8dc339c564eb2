"""What the exchange benchmark holds to be met, on made-up rows; and its physical bound, by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import exchange
from tests.bench._exchange_bounds import bounds
from tests.bench._exchange_cases import Case
from tests.netlab.lab import Link


def row(ours: float | None = 1.05, **others: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": "x-8", "loss": 0.0, "peers": 8, "bound_seconds": 20.0, **others}
    measured = {"error": "late"} if ours is None else {"over_bound": ours, "seconds": 20.0 * ours}
    return {**plain, "ours": measured}


def unmet(*rows: dict[str, Any]) -> list[str]:
    return [one["what"].partition(": ")[2].split()[0] for one in bounds(list(rows)) if not one["met"]]


def over(value: float) -> dict[str, float]:
    return {"over_bound": value}


def test_ours_must_finish_and_be_near_the_bound() -> None:
    assert unmet(row()) == []
    assert unmet(row(1.16)) == ["time"]
    assert unmet(row(None), row()) == ["ours"]
    assert unmet({"name": "x", "loss": 0.0, "peers": 4, "bound_seconds": 1.0}) == ["ours"]


@pytest.mark.parametrize("loss", [{}, {"loss": 1.0, "yardstick": 0.95}])
def test_ours_must_be_ahead_of_every_rival_with_loss_and_without(loss: dict[str, float]) -> None:
    ahead = {rival: over(1.2) for rival in ("mesh", "bucket", "libtorrent", "hivemind")}
    assert unmet(row(**loss, **ahead)) == []
    for rival in ahead:
        assert unmet(row(**loss, **{**ahead, rival: over(1.01)})) == [rival]
        assert unmet(row(**loss, **{**ahead, rival: {"error": "late"}})) == []


def test_the_bucket_counts_only_where_the_bound_lets_peers_be_faster() -> None:
    assert unmet(row(bucket=over(0.4))) == []  # it has a server's uplink: no peers alone can be that fast
    assert unmet(row(bucket=over(1.04))) == ["bucket"]


def test_with_loss_the_yardstick_is_what_plain_tcp_carries() -> None:
    assert unmet(row(1.5, loss=1.0, yardstick=0.8)) == []  # 1 / 1.5 / 0.8 = 0.83
    assert unmet(row(1.5, loss=1.0, yardstick=0.9)) == ["share"]


def test_the_simulator_must_foretell_eight_and_sixteen() -> None:
    assert unmet(row(predicted_seconds=20.0)) == []
    assert unmet(row(predicted_seconds=18.0)) == ["off"]
    assert unmet(row(predicted_seconds=25.0, peers=16)) == ["off"]
    assert unmet(row(predicted_seconds=25.0, peers=4)) == []


def test_the_bound_is_the_slowest_of_uplink_downlink_and_all_uplinks() -> None:
    def seconds(*links: Link) -> float:
        return Case("x", links, 1_000_000, 1).bound_seconds

    assert seconds(*[Link(8, 80)] * 4) == pytest.approx(3.0)  # N(N-1)P / sum U: 12 * 8 Mbit / 32
    assert seconds(Link(1, 800), *[Link(800, 800)] * 3) == pytest.approx(8.0)  # P / U_min
    assert seconds(Link(80, 4), *[Link(80, 80)] * 3) == pytest.approx(6.0)  # (N-1)P / D_min


def test_a_piece_of_the_benchmark_replaces_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "KEPT", tmp_path / "exchange.json")
    links = {"links_scaled_by": 1.0, "payload_bytes": 9}
    old = [{"name": "a", **links, "ours": over(1.2), "mesh": over(3)}, {"name": "b", **links, "ours": over(1)}]
    (tmp_path / "exchange.json").write_text(json.dumps({"cases": old}))
    assert exchange._merged([{"name": "a", **links, "ours": over(1.1)}]) == [
        {"name": "a", **links, "ours": over(1.1), "mesh": over(3)},
        old[1],
    ]
    other = {"name": "a", "links_scaled_by": 0.5, "payload_bytes": 9, "ours": over(1.1)}
    assert exchange._merged([other]) == [other, old[1]]  # other links: nothing of the old row can stand beside it
