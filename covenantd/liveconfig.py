"""The config of a running daemon: shown with origins, read again on `config reload` and SIGHUP."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from covenantd import logs
from covenantd.config import SETTINGS, Config, load_config
from covenantd.redact import redact_value

RELOADABLE = ("node.log_level", "node.log_format")
"""All others are built into connections, sockets and files at the start."""


@dataclass(frozen=True)
class Reloaded:
    """Names of settings whose value in the files changed."""

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"applied": list(self.applied), "needs_restart": list(self.needs_restart)}


class LiveConfig:
    """`config` is what the daemon runs with now, not what the files say."""

    def __init__(self, config: Config, apply: Callable[[Config], None] | None = None) -> None:
        self.config = config
        self._apply = apply or _configure_logs

    def reload(self) -> Reloaded:
        """Read files, environment and flags again; take up what can be. Raises ConfigError, and nothing changes."""
        found = load_config(self.config.file, self.config.flags)
        changed = [name for name in SETTINGS if value_of(found, name) != value_of(self.config, name)]
        applied = tuple(name for name in changed if name in RELOADABLE)
        if applied:
            self.config = _with(self.config, found, applied)
            self._apply(self.config)
        return Reloaded(applied, tuple(name for name in changed if name not in RELOADABLE))

    def set_log_level(self, level: str) -> None:
        """Until the next reload or restart. ValueError: no such level."""
        logs.set_level(level)
        origins = {**self.config.origins, "node.log_level": "covenantctl log-level"}
        node = replace(self.config.node, log_level=level)
        self.config = replace(self.config, node=node, origins=origins)

    def shown(self) -> list[dict[str, Any]]:
        """Every setting: name, redacted value, default, origin, whether a reload takes it up."""
        return [
            {
                "name": one.name,
                "value": _plain(redact_value(one.name, value_of(self.config, one.name))),
                "default": _plain(one.default),
                "origin": self.config.origins.get(one.name, "default"),
                "reloadable": one.name in RELOADABLE,
            }
            for one in SETTINGS.values()
        ]


def value_of(config: Config, name: str) -> Any:
    return getattr(getattr(config, SETTINGS[name].section), SETTINGS[name].key)


def _with(config: Config, found: Config, names: tuple[str, ...]) -> Config:
    node = replace(config.node, **{SETTINGS[name].key: value_of(found, name) for name in names})
    origins = {**config.origins, **{name: found.origins.get(name, "default") for name in names}}
    return replace(config, node=node, origins=origins)


def _configure_logs(config: Config) -> None:
    logs.configure(config.node.log_level, config.node.log_format)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | str) else str(value)
