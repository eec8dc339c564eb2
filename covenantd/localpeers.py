"""The processes of a swarm on one machine: a ledger, a bootstrap peer, miners and a validator, each a real daemon."""

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.keys import Hotkey, create_hotkey
from covenantd.configtext import render
from covenantd.errors import TryAgain
from p2p.child import Child

LEDGER_GRACE_SECONDS = 5.0
PEER_GRACE_SECONDS = 10.0
ANY_PORT = "/ip4/127.0.0.1/tcp/0"
_START_SECONDS = 60.0
_VALIDATOR_STAKE_RAO = 1000 * 10**9


@dataclass(frozen=True)
class LocalPeer:
    """One daemon-to-be: its directory holds config, hotkey, p2p identity, state and log."""

    name: str
    role: str
    directory: Path
    runtime: Path  # short: sockets live here
    hotkey: Hotkey
    behavior: str = "honest"

    @property
    def config(self) -> Path:
        return self.directory / "covenantd.toml"

    @property
    def control_socket(self) -> Path:
        return self.runtime / "control.sock"

    @property
    def log(self) -> Path:
        return self.directory / "daemon.log"


@dataclass(frozen=True)
class Ground:
    """What all peers of a local swarm share."""

    directory: Path
    runtime: Path
    spec: Path
    seed: Path
    ledger_endpoint: str
    threads: int
    faults: bool = False


def make_peer(ground_directory: Path, runtime: Path, name: str, role: str, behavior: str = "honest") -> LocalPeer:
    """Keys and directories; the config comes later, when the bootstrap address is known."""
    directory = ground_directory / name
    directory.mkdir(parents=True)
    (runtime / name).mkdir(mode=0o700)
    hotkey = create_hotkey(directory / "hotkey.json")
    return LocalPeer(name, role, directory, runtime / name, hotkey, behavior)


def write_config(peer: LocalPeer, ground: Ground, listen: str, bootstrap: Sequence[str]) -> None:
    values: dict[str, Any] = {
        "node.role": peer.role,
        "node.state_directory": peer.directory / "state",
        "node.runtime_directory": peer.runtime,
        "node.log_format": "json",
        "run.spec": ground.spec,
        "run.seed": ground.seed if peer.role == "bootstrap" else peer.directory / "no-seed",
        "identity.hotkey": peer.directory / "hotkey.json",
        "network.listen": listen,
        "network.bootstrap": tuple(bootstrap),
        "chain.endpoint": ground.ledger_endpoint,
        "engine.threads": ground.threads,
        "http.listen": "127.0.0.1:0",
        "testing.behavior": peer.behavior,
        "testing.faults": ground.faults,
    }
    peer.config.write_text(render(values))


def ledger_genesis(miners: Sequence[LocalPeer], validators: Sequence[LocalPeer], tempo_blocks: int) -> dict[str, Any]:
    """Everybody is registered from the start; only validators have stake, so only they get a permit."""
    neurons = [{"hotkey": peer.hotkey.hotkey, "stake": _VALIDATOR_STAKE_RAO} for peer in validators]
    neurons += [{"hotkey": peer.hotkey.hotkey} for peer in miners]
    return {"tempo_blocks": tempo_blocks, "neurons": neurons, "salt": secrets.token_hex(8)}


@asynccontextmanager
async def running_ledger(
    directory: Path, socket_path: Path, genesis: dict[str, Any], block_seconds: float, allow_advance: bool = False
) -> AsyncIterator[Child]:
    """A ledger that serves; stopped and reaped on the way out. Raises TryAgain if it does not start."""
    await trio.Path(directory).mkdir(parents=True, exist_ok=True)
    await trio.Path(directory / "genesis.json").write_text(json.dumps(genesis))
    command = [sys.executable, "-m", "covenantd.chain.ledger", "--database", str(directory / "ledger.db")]
    command += ["--socket", str(socket_path), "--block-seconds", str(block_seconds)]
    command += ["--genesis", str(directory / "genesis.json"), *(["--allow-advance"] if allow_advance else [])]
    with (directory / "ledger.log").open("ab") as log:
        child = Child(command, output=log)
    try:
        await _until_exists(socket_path, child, directory / "ledger.log")
        yield child
    finally:
        await child.stop(LEDGER_GRACE_SECONDS)


def start_daemon(peer: LocalPeer) -> Child:
    with peer.log.open("ab") as log:
        return Child([sys.executable, "-m", "covenantd.cli", "run", "--config", str(peer.config)], output=log)


async def _until_exists(path: Path, child: Child, log: Path) -> None:
    with trio.move_on_after(_START_SECONDS):
        while child.returncode is None:
            if await trio.Path(path).exists():
                return
            await trio.sleep(0.05)
    raise TryAgain(f"the ledger did not start: {last_line(log)}; its log: {log}")


def last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return "(no log)"
    return lines[-1] if lines else "(nothing logged)"
