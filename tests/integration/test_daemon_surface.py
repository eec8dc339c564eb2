"""What a whole daemon shows and obeys: metrics, health, systemd's socket, covenantctl."""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import unit_sandbox
from arena import Arena, OpenArena
from scraping import checks, scrape

from covenantd.errors import EXIT_NOT_RUNNING, EXIT_OK, EXIT_TIMEOUT, EXIT_USAGE
from covenantd.localpeers import LocalPeer
from p2p.child import Child

pytestmark = pytest.mark.swarm
MINERS = ("miner-0", "miner-1")
NAMES = (*MINERS, "validator-0")
_WATCHDOG_SECONDS = 1.0
_HUNG_SECONDS = 6.0
_STOP_SECONDS = 300  # longer than any patience here: whoever waits for it has failed


# covenantctl and metrics over two rounds


async def test_metrics_move_and_covenantctl_steers(new_arena: OpenArena) -> None:
    async with new_arena(miners=2) as arena:
        arena.start()
        await arena.ready(*NAMES)
        address = (await _ctl(arena, "status"))["http_address"]
        before = await scrape(address)
        await arena.play(0, MINERS)
        await _metrics_moved(arena, before, address)
        _logged(arena)
        await _shown(arena)
        await _paused_and_resumed(arena)
        await _drained(arena)


async def _metrics_moved(arena: Arena, before: Any, address: str) -> None:
    """Every one that a round of a miner, without trouble, has something to say about."""
    after = await scrape(address)
    grown = ["inner_steps_total", "tokens_total", "chain_block", "round_number", "dht_operations_total"]
    grown += ["chain_requests_total", "network_bytes_total", "loop_lag_seconds_count", "process_cpu_seconds_total"]
    for name in grown[:-1]:
        assert after.total(name) > before.total(name), name
    steps = arena.spec.inner_steps
    assert after.value("inner_steps_total") == steps
    inner = arena.spec.inner
    assert after.value("tokens_total") == steps * inner.batch_sequences * inner.sequence_tokens
    assert after.value("rounds_total", result="certified") == 1
    assert after.value("contributions_total", result="included") == 1
    assert after.value("aggregated_contributions") == 2
    assert after.value("network_bytes_total", direction="sent", **{"class": "contribution"}) > 0
    for kind in ("contribution", "state", "other", "control"):
        assert after.value("network_bytes_total", direction="received", **{"class": kind}) > 0, kind
    assert after.value("network_bytes_total", direction="received", **{"class": "contribution"}) < 1 << 20
    sent, dense = (after.value("contribution_bytes", stage=stage) for stage in ("encoded", "dense"))
    assert after.value("compression_ratio") == pytest.approx(dense / sent) and dense / sent >= 262
    assert 0 < after.value("loss", split="train") < 20
    for name in ("learning_rate", "gradient_norm", "error_feedback_norm"):
        assert after.value(name) > 0, name
    assert after.value("nonfinite_steps_total") == 0 == after.value("engine_restarts_total")
    for phase in ("train", "commit", "exchange", "aggregate", "outer_step"):
        assert after.value("round_phase_duration_seconds_count", phase=phase) >= 1, phase
    assert after.value("last_commit_timestamp_seconds") > 1.7e9 and after.value("checkpoint_timestamp_seconds") > 1.7e9
    assert after.value("peers", state="connected") == 3  # the other miner, the validator, the bootstrap peer
    assert after.value("state", state="running") == 1
    assert after.value("rounds_behind") == 0
    status = await arena.status("validator-0")
    assert status is not None
    seen = await scrape(status.http_address)
    assert seen.value("contributions_total", result="included") == 2 and 0 < seen.value("loss", split="heldout") < 20
    for path in ("/healthz", "/readyz"):
        code, reasons = await checks(address, path)
        assert code == 200 and not any(reasons.values()), reasons


def _logged(arena: Arena) -> None:
    """What a round's work says says of which round, in which phase; what a peer's asking leads to, of which peer."""
    (trained,) = arena.logged("miner-0", "trained")
    assert (trained["round"], trained["phase"], trained["logger"]) == (0, "train", "covenantd.miner")
    assert trained["inner_steps"] == arena.spec.inner_steps and 0 < trained["loss"] < 20
    assert {"level", "time"} <= trained.keys()
    (committed,) = arena.logged("miner-0", "committed")
    assert (committed["round"], committed["phase"], committed["receipts"]) == (0, "commit", 1)


async def _shown(arena: Arena) -> None:
    status = await _ctl(arena, "status")
    assert (status["schema"], status["role"], status["round"]) == (1, "miner", 1)
    peers = {one["hotkey"]: one for one in (await _ctl(arena, "peers"))["peers"]}
    assert peers[arena.peers["miner-1"].hotkey.hotkey]["received_bytes"] > 0
    found = await arena.call("miner-0", "reachable")  # its peers dial it, as the doctor asks
    assert [one["trouble"] for one in found["sightings"]] == ["", "", ""]
    assert {one["ip"] for one in found["sightings"]} == {"127.0.0.1"} and found["port"] > 0
    (one,) = (await _ctl(arena, "rounds"))["rounds"]
    assert (one["round"], one["result"], one["roster_size"], one["own_included"]) == (0, "certified", 2, True)
    (one,) = (await _ctl(arena, "rounds", "show", "0"))["rounds"]
    assert sorted(row["fate"] for row in one["contributions"]) == ["included", "included"]
    await _ctl(arena, "rounds", "show", "9", code=1)
    await _ctl(arena, "wait", "--for", "round>=1", "--timeout", "5")
    await _ctl(arena, "wait", "--for", "round>=99", "--timeout", "0.1", code=EXIT_TIMEOUT)
    await _ctl(arena, "wait", "--for", "weather=fine", code=EXIT_USAGE)


async def _paused_and_resumed(arena: Arena) -> None:
    """A paused miner holds still for a round, follows what the others made of it, and trains again when told to."""
    await _ctl(arena, "pause")
    await _ctl(arena, "wait", "--for", "state=paused", "--timeout", "10")
    await arena.train(1, ("miner-1",))
    await arena.certify(1)
    await arena.finish(1, *NAMES)
    skipped = (await arena.rounds("miner-0"))[1]
    assert (skipped.inner_steps, skipped.own_included, skipped.roster_size) == (0, None, 1)
    await _ctl(arena, "resume")


async def _drained(arena: Arena) -> None:
    """In the middle of a round in which it takes part again: it is finished first, then the daemon ends well."""
    await arena.train(2, MINERS)
    await _ctl(arena, "drain")
    await arena.certify(2)
    await arena.advance_to(arena.spec.timing.vote(2))
    with trio.fail_after(60):
        assert await arena.children.pop("miner-0").wait() == EXIT_OK, arena.log("miner-0")[-5000:]
    assert "drained" in arena.log("miner-0")
    journal = json.loads((arena.peers["miner-0"].directory / "state" / "journal.json").read_text())
    assert journal["round"] == 3, "the round's outer step was still taken"
    await _ctl(arena, "status", code=EXIT_NOT_RUNNING)
    await arena.finish(2, "miner-1", "validator-0")
    last = (await arena.rounds("miner-1"))[2]
    assert last.roster_size == 2 and last.state_hash == journal["state_hash"]


async def _ctl(arena: Arena, *words: str, code: int = EXIT_OK, name: str = "miner-0") -> Any:
    """`covenantctl --json` as a process of its own, on the named daemon."""
    command = [
        sys.executable,
        "-m",
        "covenantd.ctl",
        "--socket",
        str(arena.peers[name].control_socket),
        "--json",
        *words,
    ]
    with trio.fail_after(60):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout else None


# systemd's socket


@contextmanager
def _notify_socket(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
        server.bind(str(path))
        yield server


# The loop hangs as by a bug: Python code that blocks the main thread. No switch in the daemon is needed for that.
_HANGABLE = """
import signal, sys, time
sys.path.insert(0, {tests!r})
import unit_sandbox
if unit_sandbox.can_filter():
    unit_sandbox.restrict()
from covenantd.cli import main
signal.signal(signal.SIGUSR1, lambda *_: time.sleep({seconds}))
sys.exit(main())
"""


def _start_under_systemd(peer: LocalPeer, notify: Path) -> Child:
    """With the unit's environment and system calls; its hotkey is a credential, and nowhere else."""
    environment = {**os.environ, "NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": str(int(_WATCHDOG_SECONDS * 1e6))}
    environment |= unit_sandbox.environment(_credentials(peer))
    environment["COVENANTD_NODE_STOP_SECONDS"] = str(_STOP_SECONDS)
    program = _HANGABLE.format(seconds=_HUNG_SECONDS, tests=str(Path(unit_sandbox.__file__).parent))
    command = [sys.executable, "-c", program, "run", "--config", str(peer.config)]
    with peer.log.open("ab") as log:
        return Child(command, output=log, environment=environment)


def _credentials(peer: LocalPeer) -> Path:
    """As systemd leaves them: a directory that is closed to others, in it files with an ACL's mask for group bits."""
    directory = peer.directory / "credentials"
    directory.mkdir(mode=0o700)
    hotkey = (peer.directory / "hotkey.json").rename(directory / "hotkey")
    hotkey.chmod(0o440)
    return directory


class _Heard:
    """Datagrams in the order they came, as fields. They are read all the time, as systemd does: few are queued."""

    def __init__(self) -> None:
        self.fields: list[tuple[float, str, str]] = []  # when it was read, name, value
        self._more = trio.Event()

    async def listen(self, server: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(server)
            for line in server.recv(4096).decode().splitlines():
                self.fields.append((trio.current_time(), *line.partition("=")[::2]))
            self._more.set()
            self._more = trio.Event()

    def values(self, name: str) -> list[str]:
        return [value for _, one, value in self.fields if one == name]

    async def until(self, name: str, part: str, more_than: int = 0) -> None:
        with trio.fail_after(60):
            while sum(part in value for value in self.values(name)) <= more_than:
                await self._more.wait()

    async def silence(self, name: str, seconds: float) -> None:
        """Until nothing of that name has come for so long: what systemd waits for before it kills."""
        with trio.fail_after(60):
            while True:
                count = len(self.values(name))
                await trio.sleep(seconds)
                if len(self.values(name)) == count:
                    return


async def test_systemd_hears_ready_status_pings_and_stopping(new_arena: OpenArena) -> None:
    async with new_arena(miners=2) as arena:
        lonely, busy = arena.peers["miner-0"], arena.peers["miner-1"]
        arena.configure(lonely, ledger_endpoint="unix:///nowhere/ledger.sock")
        first, second = _Heard(), _Heard()
        with _notify_socket(arena.runtime / "n0") as one, _notify_socket(arena.runtime / "n1") as other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.listen, one)
                nursery.start_soon(second.listen, other)
                arena.children["miner-0"] = _start_under_systemd(lonely, arena.runtime / "n0")
                await _no_chain_no_peers(arena, first)
                arena.children["miner-1"] = _start_under_systemd(busy, arena.runtime / "n1")
                arena.start("bootstrap", "validator-0")
                await _status_of_a_round(arena, second)
                await _sigterm_finishes_the_round(arena, second)
                nursery.cancel_scope.cancel()


async def _no_chain_no_peers(arena: Arena, heard: _Heard) -> None:
    """READY means that the socket and the identity are there; the rest of the world may come later."""
    await heard.until("READY", "1")
    assert "0 peers" in heard.values("STATUS")[-1] and "syncing" not in heard.values("STATUS")[-1]
    status = await arena.status("miner-0")
    assert status is not None and status.peer_id and status.block is None
    await heard.until("WATCHDOG", "1")
    if unit_sandbox.can_filter():
        process = trio.Path(f"/proc/{arena.children['miner-0'].pid}/status")
        assert "\nSeccomp:\t2\n" in await process.read_text()

    arena.signal("miner-0", signal.SIGUSR1)
    await heard.silence("WATCHDOG", 2 * _WATCHDOG_SECONDS)
    await heard.until("WATCHDOG", "1", more_than=len(heard.values("WATCHDOG")))  # it goes on once the loop does

    child = arena.children.pop("miner-0")
    child.send_signal(signal.SIGTERM)
    await heard.until("STOPPING", "1")
    with trio.fail_after(20):
        assert await child.wait() == EXIT_OK
    assert "drained" in arena.log("miner-0"), "before the first block there is no round to finish"


async def _status_of_a_round(arena: Arena, heard: _Heard) -> None:
    names = ("miner-1", "validator-0")
    await arena.ready(*names)
    await arena.train(0, ("miner-1",))
    await heard.until("STATUS", "commit")  # told with the next pulse, which a fast chain would overtake
    await arena.certify(0)
    await arena.finish(0, *names)
    lines = heard.values("STATUS")
    assert any("round 0" in line and "commit" in line and "2 peers" in line and "loss" in line for line in lines), lines
    await heard.until("STATUS", "round 1")


async def _sigterm_finishes_the_round(arena: Arena, heard: _Heard) -> None:
    """As systemctl stop does in the middle of a round: systemd is asked for the time, the round counts."""
    await arena.train(1, ("miner-1",))
    child = arena.children.pop("miner-1")
    child.send_signal(signal.SIGTERM)
    await heard.until("STOPPING", "1")
    await heard.until("EXTEND_TIMEOUT_USEC", "")
    asked = int(heard.values("EXTEND_TIMEOUT_USEC")[0]) / 1e6
    assert _STOP_SECONDS < asked < _STOP_SECONDS + 30, "until the round is done, and to clean up"
    await arena.certify(1)
    await arena.advance_to(arena.spec.timing.vote(1))
    with trio.fail_after(60):
        assert await child.wait() == EXIT_OK, arena.log("miner-1")[-5000:]
    journal = json.loads((arena.peers["miner-1"].directory / "state" / "journal.json").read_text())
    assert journal["round"] == 2, "the round's outer step was still taken"
    await arena.finish(1, "validator-0")
    last = (await arena.rounds("validator-0"))[1]
    assert last.roster_size == 1 and last.state_hash == journal["state_hash"]
