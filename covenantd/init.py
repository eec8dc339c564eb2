"""`covenantd init`: a directory with a commented config, a hotkey and a p2p identity. Overwrites nothing.

For the system's service it is the config and the hotkey alone: state and sockets are where systemd puts them for the
user covenantd, in /var/lib and /run, and the p2p identity is made there by the daemon's first start.
"""

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covenantd.chain.keys import create_hotkey, load_hotkey, verify
from covenantd.config import DEFAULT_PATH, SETTINGS, Config, load_config
from covenantd.configtext import render
from covenantd.errors import CovenantError, PermissionRefused
from covenantd.runspec import read
from p2p.identity import ensure_identity

CONFIG_NAME = "covenantd.toml"
SYSTEM_DIRECTORY = DEFAULT_PATH.parent
SYSTEM_STOP_SECONDS = 90
"""Less than the unit's TimeoutStopSec by what the daemon takes to close its sockets and end its children."""

_FILES = {"run.spec": "run.json", "identity.hotkey": "hotkey.json"}
_DIRECTORIES = {"node.state_directory": "state", "node.runtime_directory": "run"}


_PEER_ID = "its PEER_ID, for those who join through it: covenantctl identity"


@dataclass(frozen=True)
class Prepared:
    """What `init` left behind. `run_id` is empty while there is no run spec, `peer_id` while there is no identity."""

    directory: Path
    config: Path
    hotkey: str  # ss58
    peer_id: str
    run_id: str
    run_name: str
    created: tuple[Path, ...]
    kept: tuple[Path, ...]
    next: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "directory": str(self.directory),
            "config": str(self.config),
            "hotkey": self.hotkey,
            "peer_id": self.peer_id,
            "run_id": self.run_id,
            "run_name": self.run_name,
            "created": [str(path) for path in self.created],
            "kept": [str(path) for path in self.kept],
            "next": list(self.next),
        }


def initialise(
    directory: Path, settings: Mapping[str, str], run_spec: Path | None = None, system: bool = False
) -> Prepared:
    """Make `directory` ready for `covenantd run`, or, with `system`, for the service, which is another user's.

    `settings`: values as text by setting name.

    What is there already is kept, and a config that is there says where the rest belongs; then `settings` must be
    empty, since they could only be written by overwriting (CovenantError). A setting that would be a mistake is a
    ConfigError. Everything is checked before anything is written.
    """
    directory = directory.absolute()
    path = directory / CONFIG_NAME
    is_new = not path.exists()
    if settings and not is_new:
        raise CovenantError(f"{path} exists and is never overwritten; edit it, or name another --dir")
    if is_new and run_spec is not None:
        settings = {**_seed_beside(run_spec), **settings}
    paths = _FILES if system else _FILES | _DIRECTORIES
    if system:
        settings = {"node.stop_seconds": str(SYSTEM_STOP_SECONDS), **settings}
    config = _new_config(directory, paths, settings) if is_new else load_config(path, environ={})
    spec = None if run_spec is None else read(run_spec, verify)
    try:
        created, kept = _write_files(directory, config, run_spec, system)
        if is_new:
            write_new(path, render({**paths, **_values(config, settings)}).encode())
            created.insert(0, path)
        else:
            kept.insert(0, path)
        hotkey = load_hotkey(config.identity.hotkey).hotkey
        peer_id = "" if system else ensure_identity(config.p2p_identity)
    except PermissionError as error:
        raise PermissionRefused(f"{error.filename or directory}: {error.strerror}") from None
    except OSError as error:
        raise CovenantError(f"{error.filename or directory}: {error.strerror}") from None
    run_id, run_name = ("", "") if spec is None else (spec.run_id, spec.name)
    steps = _next(path, config, hotkey, system)
    return Prepared(directory, path, hotkey, peer_id, run_id, run_name, tuple(created), tuple(kept), steps)


def _new_config(directory: Path, paths: Mapping[str, str], settings: Mapping[str, str]) -> Config:
    return load_config(None, {**{name: str(directory / path) for name, path in paths.items()}, **settings}, {})


def _seed_beside(run_spec: Path) -> dict[str, str]:
    """`covenantd plan` leaves the run's first blobs beside its spec: whoever has both need not fetch them."""
    blobs = run_spec.absolute().parent / "blobs"
    return {"run.seed": str(blobs)} if blobs.is_dir() else {}


def _values(config: Config, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(getattr(config, SETTINGS[name].section), SETTINGS[name].key) for name in names}


def _write_files(directory: Path, config: Config, run_spec: Path | None, system: bool) -> tuple[list[Path], list[Path]]:
    """Keys and run spec: those written, those kept."""
    hotkey, identity = config.identity.hotkey, config.p2p_identity
    keys = (hotkey,) if system else (hotkey, identity)
    for needed in (directory, *(key.parent for key in keys)):
        needed.mkdir(mode=0o700, parents=True, exist_ok=True)
    if system:
        directory.chmod(0o755)  # the daemon's user reads the config; the hotkey's own mode keeps it root's
    kept = [path for path in keys if path.exists()]
    created = [path for path in keys if path not in kept]
    if run_spec is not None:
        (created if _copied(run_spec, config.run.spec) else kept).append(config.run.spec)
    if hotkey in created:
        create_hotkey(hotkey)
    if not system:
        ensure_identity(identity)
    return created, kept


def _copied(source: Path, target: Path) -> bool:
    """Whether it had to be copied; CovenantError where another spec is in the way."""
    data = source.read_bytes()
    if target.exists():
        if target.read_bytes() != data:
            raise CovenantError(f"{target} is there and is another run's; it is never overwritten")
        return False
    write_new(target, data)
    return True


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Whole or not at all, never over an existing file (FileExistsError), with that mode whatever the umask."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)
    finally:
        temporary.unlink()


def _next(path: Path, config: Config, hotkey: str, system: bool) -> tuple[str, ...]:
    steps, quoted = [], shlex.quote(str(path))
    if not config.run.spec.exists():
        make = " (or make a run: `covenantd help swarm`)" if config.node.role == "validator" else ""
        steps.append(f"get the run spec from the run's owner and put it at {config.run.spec}{make}")
    if config.node.role != "bootstrap":
        if not config.network.bootstrap:
            steps.append(f"name a peer to join through: bootstrap = [...] under [network] in {path}")
        if config.origins.get("chain.endpoint", "default") == "default":
            steps.append(f"name the run's ledger: endpoint under [chain] in {path}")
        where = f"covenantd register --config {quoted}"
        if config.chain.kind == "bittensor":
            where = "btcli subnets register, where its coldkey is (`covenantd help bittensor`)"
        steps.append(f"have the hotkey {hotkey} registered on the chain: {where}")
    start = ["systemctl enable --now covenantd", _PEER_ID] if system else [f"covenantd run --config {quoted}"]
    return (*steps, f"covenantd check-config {quoted}", *start)
