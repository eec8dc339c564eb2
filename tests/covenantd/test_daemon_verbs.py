"""Verbs about the daemon itself, asked by the real covenantctl: log level, config, bans, limits."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from covenantd import logs
from covenantd.board import StatusBoard
from covenantd.config import load_config
from covenantd.control import serve_control
from covenantd.controlverbs import standard_verbs
from covenantd.daemonverbs import daemon_verbs
from covenantd.errors import ConfigError
from covenantd.linkverbs import link_verbs
from covenantd.liveconfig import LiveConfig
from covenantd.status import PeerStatus, RoundSummary, Status
from p2p.blobs import BlobStore
from p2p.errors import PeerUnreachable
from p2p.exchange import Exchange
from p2p.reputation import Reputation
from p2p.swarm import SwarmSettings
from p2p.testing import MemoryNetwork

PEER = "12D3KooWGatU9DoRkc8GDR4fq6TZKXSiYdmbwWAYKMPBTG3oFjhW"
STATUS = Status("miner", hotkey="5Own", peers=(PeerStatus("5Grw", PEER, "miner", ("/ip4/1.2.3.4/tcp/1",), True),))
CONFIG = """\
[node]
log_level = "info"
[chain]
endpoint = "tcp://127.0.0.1:9945"
"""


@dataclass
class FakeSwarm:
    """The little of a Swarm that operators reach."""

    peer_id: str = "12D3KooOwn"
    settings: SwarmSettings = field(default_factory=lambda: SwarmSettings("ab" * 32, "miner"))
    reputation: Reputation = field(default_factory=Reputation)

    async def connect(self, address: str) -> str:
        if PEER not in address:
            raise PeerUnreachable("nobody answers")
        return "5Grw"

    def by_hotkey(self, hotkey: str) -> Any:
        return STATUS.peers[0] if hotkey == "5Grw" else None

    def by_peer_id(self, peer_id: str) -> Any:
        return STATUS.peers[0] if peer_id == PEER else None


@dataclass
class Daemon:
    directory: Path
    live: LiveConfig
    swarm: FakeSwarm
    board: StatusBoard
    exchange: Exchange

    async def ctl(self, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "covenantd.ctl", "--socket", str(self.directory / "control.sock"), *words]
        root = str(Path(__file__).parents[2])
        return await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": root, **environment},
        )


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture
async def daemon(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Daemon]:
    file = tmp_path / "covenantd.toml"
    file.write_text(f'{CONFIG}\n[identity]\nhotkey = "hotkey.json"\n')
    live = LiveConfig(load_config(file, {"node.state_directory": str(tmp_path)}, {}))
    board, swarm = StatusBoard(STATUS), FakeSwarm()
    board.add_round(RoundSummary(1, "certified"))

    async def reload() -> dict[str, Any]:
        return live.reload().as_dict()

    network = MemoryNetwork(nursery)
    exchange = Exchange(network.transport("own"), BlobStore(tmp_path / "blobs"))
    verbs = standard_verbs(board, {}) | daemon_verbs(live, board, swarm, reload)  # type: ignore[arg-type]
    verbs |= link_verbs(swarm, exchange)  # type: ignore[arg-type]
    await nursery.start(serve_control, tmp_path / "control.sock", verbs)
    yield Daemon(tmp_path, live, swarm, board, exchange)
    nursery.cancel_scope.cancel()


async def test_log_level_at_run_time(daemon: Daemon) -> None:
    assert (await daemon.ctl("log-level")).stdout == b"info\n"
    assert (await daemon.ctl("log-level", "debug")).stdout == b"debug\n"
    assert logging.getLogger().level == logging.DEBUG
    shown = json.loads((await daemon.ctl("--json", "config", "show")).stdout)["settings"]
    level = next(one for one in shown if one["name"] == "node.log_level")
    assert (level["value"], level["origin"]) == ("debug", "covenantctl log-level")
    assert (await daemon.ctl("log-level", "loud")).returncode == 2


async def test_config_with_origins_and_reload(daemon: Daemon) -> None:
    shown = (await daemon.ctl("config", "show", "--origin")).stdout.decode()
    level, state = (next(x for x in shown.splitlines() if x.startswith(n)) for n in ("node.log_l", "node.state"))
    assert f"{daemon.directory}/covenantd.toml:2" in level and "needs a restart" not in level
    assert "flag node.state_directory" in state and "needs a restart" in state
    assert (await daemon.ctl("config", "reload")).stdout == b"nothing has changed\n"
    (daemon.directory / "covenantd.toml").write_text(CONFIG.replace("info", "error").replace("9945", "9946"))
    done = (await daemon.ctl("config", "reload")).stdout.decode()
    assert "taken up: node.log_level" in done and "only after a restart: identity.hotkey, chain.endpoint" in done
    assert logging.getLogger().level == logging.ERROR
    assert daemon.live.config.chain.endpoint.endswith("9945"), "what runs is shown, not what the file says"
    (daemon.directory / "covenantd.toml").write_text("[node]\nlog_levle = 1\n")
    broken = await daemon.ctl("config", "reload")
    assert broken.returncode == 1 and b"log_level" in broken.stderr
    assert daemon.live.config.node.log_level == "error"


async def test_peers_are_shown_banned_and_forgiven(daemon: Daemon) -> None:
    assert PEER.encode() in (await daemon.ctl("peers", "show", "5Grw")).stdout
    assert (await daemon.ctl("peers", "bans")).stdout == b"nobody is banned\n"
    assert (await daemon.ctl("peers", "ban", "5Grw")).returncode == 0
    assert daemon.swarm.reputation.is_banned(PEER)
    assert b"banned by the operator" in (await daemon.ctl("peers", "bans")).stdout
    assert (await daemon.ctl("peers", "unban", PEER)).returncode == 0
    assert not daemon.swarm.reputation.is_banned(PEER)
    for words, code in {("unban", PEER): 1, ("ban", "nonsense"): 2, ("ban",): 2, ("show", "5X"): 1}.items():
        assert (await daemon.ctl("peers", *words)).returncode == code, words


async def test_identity_and_limits(daemon: Daemon) -> None:
    assert b"5Own" in (await daemon.ctl("identity")).stdout
    limits = json.loads((await daemon.ctl("limits", "--json")).stdout)["limits"]
    assert limits["exchange"]["streams_per_peer"] > 0 and limits["control"]["max_clients"] == 50
    assert b"exchange.send_budget_bytes" in (await daemon.ctl("limits")).stdout


async def test_the_link_is_capped_and_freed(daemon: Daemon) -> None:
    shown = (await daemon.ctl("limits", "set", "uplink", "40Mbit")).stdout.decode()
    assert "5 MB/s (40 Mbit/s)" in shown and daemon.exchange.limits == (5e6, None)
    assert (await daemon.ctl("limits", "set", "downlink", "1.5MB/s")).returncode == 0
    assert (await daemon.ctl("limits", "set", "uplink", "none")).returncode == 0
    assert daemon.exchange.limits == (None, 1.5e6)
    link = json.loads((await daemon.ctl("limits", "--json")).stdout)["link"]
    assert link["downlink_bytes_per_second"] == 1.5e6 and link["uplink_queue_seconds"] is None


async def test_how_long_what_is_sent_waits_for_the_link_is_shown(daemon: Daemon) -> None:
    daemon.exchange._queue.seconds = 0.0421
    assert "; what is sent waits 42 ms for the link" in (await daemon.ctl("limits")).stdout.decode()


async def test_limits_that_are_none_of_these_are_refused(daemon: Daemon) -> None:
    for words in (("set",), ("set", "uplink"), ("set", "sideways", "1MB"), ("set", "uplink", "fast"), ("uplink",)):
        assert (await daemon.ctl("limits", *words)).returncode == 2, words


async def test_a_peer_is_connected_to_by_hand(daemon: Daemon) -> None:
    done = await daemon.ctl("peers", "connect", f"/ip4/192.0.2.1/tcp/31330/p2p/{PEER}")
    assert done.returncode == 0 and b"hotkey 5Grw" in done.stdout
    other = PEER[:-1] + "i"
    cases = {
        (): (2, b"ADDRESS"),
        ("192.0.2.1:31330",): (2, b"is not a multiaddr"),
        ("/ip4/192.0.2.1/tcp/31330",): (2, b"must end in /p2p/PEER_ID"),
        (f"/ip4/192.0.2.1/tcp/31330/p2p/{other}",): (1, b"nobody answers"),
    }
    for words, (code, message) in cases.items():
        done = await daemon.ctl("peers", "connect", *words)
        assert done.returncode == code and message in done.stderr, (words, done.stderr)
    daemon.swarm.reputation.ban(PEER, "test")
    done = await daemon.ctl("peers", "connect", f"/ip4/192.0.2.1/tcp/31330/p2p/{PEER}")
    assert done.returncode == 1 and b"unban" in done.stderr


def test_recent_lines_are_bounded(tmp_path: Path) -> None:
    logs.configure("info", "json", (tmp_path / "log").open("w"), {})
    for number in range(logs._RECENT_LINES + 10):
        logging.getLogger("test").info("%d %s", number, "y" * 5000)
    lines = logs.recent.lines()
    assert len(lines) == logs._RECENT_LINES and max(map(len, lines)) <= logs._MAX_LINE_CHARS


def test_a_reload_that_cannot_read_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "covenantd.toml"
    file.write_text(CONFIG)
    applied: list[str] = []
    live = LiveConfig(load_config(file, {}, {}), lambda config: applied.append(config.node.log_level))
    file.unlink()
    with pytest.raises(ConfigError):
        live.reload()
    file.write_text(CONFIG.replace("info", "warning"))
    assert live.reload().applied == ("node.log_level",) and applied == ["warning"]
    assert live.reload().applied == ()
