"""`covenantd help TOPIC`: the operator's guide, a screen each. The texts are `assets/help-TOPIC.txt`."""

from collections.abc import Callable
from importlib import resources

from covenantd.conditions import HELP
from covenantd.configtext import default_toml

_ASSETS = resources.files("covenantd") / "assets"


def _text(name: str) -> str:
    return (_ASSETS / f"help-{name}.txt").read_text(encoding="utf-8").replace("CONDITIONS", HELP)


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _guide(name: str, about: str) -> tuple[str, Callable[[], str]]:
    return about, lambda: _text(name)


TOPICS: dict[str, tuple[str, Callable[[], str]]] = {
    "install": _guide("install", "install it, run it as a service"),
    "join": _guide("join", "join a run that others started"),
    "swarm": _guide("swarm", "start a private swarm, on one machine or three"),
    "bittensor": _guide("bittensor", "take part through a Bittensor subnet"),
    "gpu": _guide("gpu", "train on an NVIDIA GPU"),
    "firewall": _guide("firewall", "ports, NAT, port forwards"),
    "bbr": _guide("bbr", "TCP congestion control for long links"),
    "control": _guide("control", "covenantctl and its conditions"),
    "monitoring": _guide("monitoring", "top, web page, Prometheus, Grafana, logs"),
    "backup": _guide("backup", "what to keep a copy of"),
    "upgrade": _guide("upgrade", "a new version without losing a round"),
    "troubleshooting": _guide("troubleshooting", "trouble, by what you see"),
    "config": ("every setting, with its default", default_toml),
    "environment": _guide("environment", "environment variables"),
    "exit-codes": _guide("exit-codes", "what the exit codes mean"),
    "alerts": ("alert rules for Prometheus", lambda: _asset("alerts.yml")),
    "dashboard": ("a dashboard for Grafana, as JSON", lambda: _asset("grafana.json")),
}


def overview() -> str:
    width = max(map(len, TOPICS))
    lines = [f"  {name:<{width}}  {about}" for name, (about, _) in TOPICS.items()]
    return "\n".join(["covenantd help TOPIC:", *lines]) + "\n"
