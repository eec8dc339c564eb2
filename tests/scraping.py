"""A daemon's HTTP pages as a scraper or a load balancer sees them."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import trio
from prometheus_client.parser import text_string_to_metric_families

_SECONDS = 10


@dataclass(frozen=True)
class Scrape:
    """Samples of one scrape by name and labels."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float:
        """`name` without the prefix. KeyError: there is no such series."""
        return self.samples[f"covenantd_{name}", frozenset(labels.items())]

    def total(self, name: str) -> float:
        """Over all series of that name."""
        return sum(value for (one, _), value in self.samples.items() if one == f"covenantd_{name}")

    def labels(self, name: str, label: str) -> set[str]:
        """All values of a label."""
        return {dict(labels)[label] for one, labels in self.samples if one == f"covenantd_{name}"}


async def get(address: str, path: str) -> tuple[int, str, str]:
    """(status, content type, body) of http://ADDRESS/PATH."""
    return await trio.to_thread.run_sync(_get, f"http://{address}{path}")


def _get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


async def scrape(address: str) -> Scrape:
    """/metrics, read by Prometheus' own parser."""
    status, kind, body = await get(address, "/metrics")
    assert status == 200 and kind.startswith("text/plain; version=0.0.4"), (status, kind)
    families = list(text_string_to_metric_families(body))
    assert len({family.name for family in families}) == len(families), "a family that comes twice is a parse error"
    return Scrape({(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples})


async def checks(address: str, path: str) -> tuple[int, dict[str, Any]]:
    """/healthz or /readyz: (status, reasons by check, None where all is well)."""
    status, _, body = await get(address, path)
    return status, {name: one["reason"] for name, one in json.loads(body)["checks"].items()}
