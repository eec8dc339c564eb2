"""Every setting of the daemon, once: type, default, help, check. `assets/default.toml` comes from here.

Layers, later wins: defaults < file < `conf.d/*.toml` beside it < COVENANTD_SECTION_KEY < flags.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from covenantd.addresses import endpoint_problem, listen_problem, multiaddr_problem
from covenantd.chain.bittensor.endpoint import bittensor_endpoint_problem
from covenantd.configlayers import Layer, Problem, environment_layer, file_layers, flag_layer, merge
from covenantd.configtypes import setting, settings_of
from covenantd.errors import ConfigError
from covenantd.rates import parse_rate

DEFAULT_PATH = Path("/etc/covenantd/covenantd.toml")


def _listen(value: str) -> str | None:
    problem = multiaddr_problem(value, peer_allowed=False)
    if problem is None and value.startswith("/dns"):
        problem = "names a host; to listen takes an address, e.g. /ip4/0.0.0.0/tcp/31330"
    return _about(value, problem)


def _announce(value: tuple[str, ...]) -> str | None:
    return next((_about(one, p) for one in value if (p := multiaddr_problem(one))), None)


def _bootstrap(value: tuple[str, ...]) -> str | None:
    return next((_about(one, p) for one in value if (p := multiaddr_problem(one, peer_required=True))), None)


def _about(value: str, problem: str | None) -> str | None:
    return None if problem is None else f"{value!r} {problem}"


def _rate(value: str) -> str | None:
    try:
        parse_rate(value)
    except ValueError as error:
        return str(error)
    return None


def _threads(value: int) -> str | None:
    return None if 0 <= value <= 4096 else "must be 0 (all cores) to 4096"


def _device(value: str) -> str | None:
    good = value in ("auto", "cpu", "cuda") or (value.startswith("cuda:") and value[5:].isdecimal())
    return None if good else f"must be auto, cpu, cuda or cuda:NUMBER, not {value!r}"


def _endpoint(value: str) -> str | None:
    """Of either kind; `_mismatches` holds it against [chain] kind."""
    if value.startswith(("unix:", "tcp:")):
        return _about(value, endpoint_problem(value))
    problem = bittensor_endpoint_problem(value)
    if problem is not None and not value.startswith(("ws:", "wss:")):
        problem = f"is neither unix:///PATH nor tcp://HOST:PORT (a ledger), nor Bittensor's: it {problem}"
    return _about(value, problem)


def _second(value: str) -> str | None:
    return _endpoint(value) if value else None


def _archive(value: str) -> str | None:
    return _about(value, bittensor_endpoint_problem(value)) if value else None


@dataclass(frozen=True)
class NodeConfig:
    role: str = setting(
        "miner",
        "what this peer does: miner trains, validator scores and certifies, bootstrap only introduces peers",
        choices=("miner", "validator", "bootstrap"),
    )
    state_directory: Path = setting(Path("/var/lib/covenantd"), "model state, blobs and what must survive a restart")
    runtime_directory: Path = setting(Path("/run/covenantd"), "control socket and other sockets")
    log_level: str = setting("info", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))
    log_format: str = setting(
        "auto",
        "json, console, or auto: console on a terminal, else json",
        choices=("auto", "json", "console"),
    )
    stop_seconds: int = setting(
        0,
        "on SIGTERM, finish the round in work for at most this long before stopping; 0: stop at once, which loses "
        "no state either (a contribution under way is lost)",
        check=lambda value: None if 0 <= value <= 86400 else "must be 0 to 86400",
    )


@dataclass(frozen=True)
class RunConfig:
    spec: Path = setting(Path("/etc/covenantd/run.json"), "the run spec that every peer of the run shares")
    seed: Path = setting(
        Path("/etc/covenantd/blobs"),
        "the run's first blobs, where `covenantd plan` left them; not there: they are fetched from peers",
    )


@dataclass(frozen=True)
class IdentityConfig:
    hotkey: Path = setting(
        Path("/etc/covenantd/hotkey.json"),
        "hotkey file, mode 0600; `covenantd init` makes one, or a Bittensor wallet's, e.g. "
        "~/.bittensor/wallets/NAME/hotkeys/default",
    )
    allow_coldkey: bool = setting(
        False, "run although the hotkey's wallet holds an unencrypted coldkey: whoever breaks in here takes its funds"
    )


@dataclass(frozen=True)
class NetworkConfig:
    listen: str = setting("/ip4/0.0.0.0/tcp/31330", "where peers reach us (TCP; port 0: any free one)", check=_listen)
    announce: tuple[str, ...] = setting(
        (),
        "addresses told to others instead of the detected ones, e.g. behind a port forward",
        check=_announce,
    )
    bootstrap: tuple[str, ...] = setting(
        (), "peers to join through, each /ip4/ADDRESS/tcp/PORT/p2p/PEER_ID", check=_bootstrap
    )
    relays: tuple[str, ...] = setting(
        (),
        "peers to be reached through when nobody can connect to us, as behind a NAT; each "
        "/ip4/ADDRESS/tcp/PORT/p2p/PEER_ID of one with relay_service",
        check=_bootstrap,
    )
    relay_service: bool = setting(False, "let peers that nobody can connect to be reached through us")
    uplink: str = setting("none", "send no faster than this a second, e.g. 5MB or 40Mbit; none: no limit", check=_rate)
    downlink: str = setting("none", "receive no faster than this a second; none: no limit", check=_rate)
    hole_punching: bool = setting(
        True, "let relayed connections become direct ones where the NATs at both ends allow it"
    )
    nat_port_map: bool = setting(False, "ask the router to forward our port, by UPnP or NAT-PMP")


@dataclass(frozen=True)
class ChainConfig:
    kind: str = setting(
        "ledger",
        "the chain: ledger (covenantd's own) or bittensor (a subnet; its hotkey is registered with btcli)",
        choices=("ledger", "bittensor"),
    )
    endpoint: str = setting(
        "tcp://127.0.0.1:9945",
        "the ledger: tcp://HOST:PORT or unix:///PATH; Bittensor: a network's name (finney, test, local) or a node's "
        "ws://HOST:PORT or wss://HOST",
        check=_endpoint,
    )
    second: str = setting(
        "",
        "another endpoint of the same chain, of somebody else: a joining peer goes on only if both tell the same "
        "finalized block; empty: the one is believed",
        check=_second,
    )
    archive: str = setting(
        "",
        "Bittensor only: a node that keeps old states, asked for what the endpoint has forgotten; empty: the network's "
        "public ones, if it has any",
        check=_archive,
    )


@dataclass(frozen=True)
class EngineConfig:
    threads: int = setting(0, "CPU threads for training; 0: all cores", check=_threads)
    device: str = setting("auto", "auto, cpu, cuda or cuda:NUMBER", check=_device)

    @property
    def training_threads(self) -> int:
        """At least 1: `threads`, or as many as there are cores that we may use."""
        return self.threads or len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class HttpConfig:
    listen: str = setting(
        "127.0.0.1:9464",
        "HOST:PORT of /metrics, /healthz and /readyz; empty: off",
        check=lambda value: _about(value, listen_problem(value)),
    )


@dataclass(frozen=True)
class TestingConfig:
    __test__ = False  # not a test class, whatever pytest thinks of its name

    behavior: str = setting("honest", "for tests only; noise: send random contributions", choices=("honest", "noise"))
    faults: bool = setting(False, "for tests only: allow fault injection over the control socket")


@dataclass(frozen=True)
class Config:
    """All settings, with the origin of each value by name, e.g. {"node.role": "/etc/…/covenantd.toml:4"}."""

    node: NodeConfig = field(default_factory=NodeConfig)
    run: RunConfig = field(default_factory=RunConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    testing: TestingConfig = field(default_factory=TestingConfig)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    file: Path | None = field(default=None, compare=False)
    flags: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # as given; a reload keeps them

    @property
    def p2p_identity(self) -> Path:
        """The transport's own key, made at the first start when `covenantd init` has not made one."""
        return self.node.state_directory / "p2p-identity.key"

    @property
    def control_socket(self) -> Path:
        return self.node.runtime_directory / "control.sock"


SETTINGS = settings_of(Config)
_SECTIONS = {
    "node": NodeConfig,
    "run": RunConfig,
    "identity": IdentityConfig,
    "network": NetworkConfig,
    "chain": ChainConfig,
    "engine": EngineConfig,
    "http": HttpConfig,
    "testing": TestingConfig,
}


def read_config(
    path: Path | None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Config, list[Problem]]:
    """The config and every problem found; settings with a problem keep their value of the layer below.

    `flags`: values as text by setting name, e.g. {"testing.behavior": "noise"}; path None: no file.
    """
    layers: list[Layer] = [] if path is None else file_layers(path)
    layers += [environment_layer(SETTINGS, environ), flag_layer(flags or {})]
    values, origins, problems = merge(SETTINGS, layers)
    sections = {
        section: kind(**{one.key: values[one.name] for one in SETTINGS.values() if one.section == section})
        for section, kind in _SECTIONS.items()
    }
    kept = MappingProxyType(dict(flags or {}))
    config = Config(**sections, origins=MappingProxyType(origins), file=path, flags=kept)
    return config, problems + _mismatches(config)


def _mismatches(config: Config) -> list[Problem]:
    """Settings that are good one by one and not together."""
    kind = config.chain.kind
    wanted = "finney or wss://HOST" if kind == "bittensor" else "tcp://HOST:PORT or unix:///PATH"
    found = []
    for name, address in (("endpoint", config.chain.endpoint), ("second", config.chain.second)):
        if address and address.startswith(("unix:", "tcp:")) != (kind == "ledger"):
            where = config.origins["chain.kind" if kind == "bittensor" else f"chain.{name}"]
            said = f"chain.{name} {address!r} is no address of a {kind} chain, e.g. {wanted}"
            found.append(Problem(where, said))
    return found


def load_config(
    path: Path | None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """As `read_config`, but raises ConfigError, one line a problem."""
    config, problems = read_config(path, flags, environ)
    if problems:
        raise ConfigError("\n".join(str(problem) for problem in problems))
    return config


def missing_files(config: Config) -> list[Problem]:
    """What the config points to that is not there, and the command that makes it."""
    spec, hotkey = config.run.spec, config.identity.hotkey
    problems = []
    if not spec.is_file():
        help = "copy the run's spec there, or make one with `covenantd plan`"
        problems.append(_missing(config, "run.spec", spec, help))
    if not hotkey.is_file():
        directory = hotkey.parent if config.file is None else config.file.absolute().parent
        help = f"make one with `covenantd init --dir {directory}`"
        problems.append(_missing(config, "identity.hotkey", hotkey, help))
    return problems


def _missing(config: Config, name: str, path: Path, help: str) -> Problem:
    there = "is not a file" if path.exists() else "does not exist"
    return Problem(config.origins.get(name, "default"), f"{name}: {path} {there}; {help}")
