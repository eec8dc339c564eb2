"""`covenantd check-config`: the config, and the files it points to, before a daemon meets them."""

from pathlib import Path

from covenantd.chain.keys import load_hotkey, verify
from covenantd.chain.wallet import refuse_bare_coldkey
from covenantd.config import SETTINGS, Config, missing_files, read_config
from covenantd.configlayers import Problem
from covenantd.configtext import toml_value
from covenantd.errors import ConfigError, CovenantError
from covenantd.runspec import read


def problems_of(path: Path) -> tuple[Config, list[Problem]]:
    """The config as far as it can be read, and everything wrong with it, its hotkey and its run spec."""
    try:
        config, problems = read_config(path)
    except ConfigError as error:
        where, _, message = str(error).partition(": ")
        return Config(), [Problem(where, message)]
    return config, problems + missing_files(config) + _spec_problem(config) + _hotkey_problem(config)


def _spec_problem(config: Config) -> list[Problem]:
    if not config.run.spec.is_file():
        return []  # said by missing_files
    try:
        read(config.run.spec, verify)
    except CovenantError as error:
        return [Problem(config.origins["run.spec"], f"run.spec: {error}")]
    return []


def _hotkey_problem(config: Config) -> list[Problem]:
    if not config.identity.hotkey.is_file():
        return []
    try:
        load_hotkey(config.identity.hotkey)
        refuse_bare_coldkey(config.identity.hotkey, config.identity.allow_coldkey)
    except CovenantError as error:
        return [Problem(config.origins["identity.hotkey"], f"identity.hotkey: {error}")]
    return []


def summary_text(config: Config) -> str:
    """For a config without problems."""
    spec = read(config.run.spec, verify)
    rows = [
        ("role", config.node.role),
        ("run", f"{spec.name} ({spec.run_id[:16]})"),
        ("hotkey", load_hotkey(config.identity.hotkey).hotkey),
        ("listen", config.network.listen),
        ("bootstrap", ", ".join(config.network.bootstrap) or "none: others must come to us"),
        ("chain", config.chain.endpoint),
        ("http", config.http.listen or "off"),
        ("state", str(config.node.state_directory)),
    ]
    return "\n".join(f"  {name:<9}  {value}" for name, value in rows)


def origins_text(config: Config) -> str:
    """Every setting, its value and where it comes from."""
    rows = []
    for one in SETTINGS.values():
        value = toml_value(getattr(getattr(config, one.section), one.key))
        rows.append((f"{one.name} = {value}", config.origins.get(one.name, "default")))
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"{left:<{width}}  # {origin}" for left, origin in rows)
