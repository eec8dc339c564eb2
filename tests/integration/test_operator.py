"""An operator's day with a real daemon: every verb, systemd's view, Prometheus, the page, drain, upgrade, refusal."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trio
from arena import Arena, OpenArena
from prometheus_fixture import Prometheus

from covenantd.errors import EXIT_CONFIG
from covenantd.statedirectory import FORMAT, NAME
from covenantd.status import RoundSummary, Status

pytestmark = pytest.mark.swarm
_MAX_DAEMON_BYTES = 450 << 20


async def ctl(arena: Arena, name: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "covenantd.ctl", "--socket", str(arena.peers[name].control_socket), *words]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


async def answer(arena: Arena, name: str, *words: str) -> Any:
    done = await ctl(arena, name, "--json", *words)
    assert done.returncode == 0, (words, done.stderr)
    return json.loads(done.stdout)


async def listen(path: Path, said: list[str], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """As systemd does: the queue of a datagram socket is short, so it must be read all the time."""
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        await systemd.bind(str(path))
        task_status.started()
        while True:
            said.append((await systemd.recv(4096)).decode())


async def test_an_operators_day(
    new_arena: OpenArena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    said: list[str] = []
    await nursery.start(listen, tmp_path / "notify", said)
    async with new_arena(miners=1, threads=0) as arena:  # as a new config has it: all cores
        arena.start("bootstrap", "validator-0")
        with monkeypatch.context() as service:
            service.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
            service.setenv("WATCHDOG_USEC", "2000000")
            arena.start("miner-0")
        await arena.ready("miner-0", "validator-0")
        await arena.play(0, ("miner-0",))
        assert said[0].startswith("READY=1\nSTATUS=miner") and "WATCHDOG=1" in said
        assert any("round 0, " in one for one in said if one.startswith("STATUS="))
        await every_verb_answers(arena, tmp_path)
        await the_page_shows_it(arena)
        await prometheus_scrapes_it(arena, tmp_path)
        assert resident_bytes(arena.children["miner-0"].pid) < _MAX_DAEMON_BYTES
        await sighup_reloads(arena)
        assert any(one.startswith("RELOADING=1\nMONOTONIC_USEC=") for one in said)
        await drained_and_upgraded(arena)
        assert any(one.startswith("STOPPING=1") for one in said)
        await newer_state_is_refused(arena)
    nursery.cancel_scope.cancel()


async def every_verb_answers(arena: Arena, directory: Path) -> None:
    hotkey = arena.peers["miner-0"].hotkey.hotkey
    assert Status.from_dict(await answer(arena, "miner-0", "status")).uid is not None
    (shown,) = (await answer(arena, "miner-0", "rounds", "show", "0"))["rounds"]
    assert [one.fate for one in RoundSummary.from_dict(shown).contributions] == ["included"]
    why = await answer(arena, "miner-0", "why")
    told = why["told"][arena.peers["validator-0"].hotkey.hotkey]
    assert told["rounds"] == 1 and 0 <= told["share"] <= 1, "the validator tells a miner what it holds of it"
    assert why["hotkey"] == hotkey and why["rounds"] == [{"round": 0, "result": "certified", "fate": "included"}]
    assert "gain" in (await answer(arena, "validator-0", "why", hotkey))["opinion"], "a validator says what it thinks"
    chain = await answer(arena, "miner-0", "chain")
    assert chain["neuron"]["uid"] == why["uid"] and chain["genesis"] == arena.spec.chain.genesis
    assert (await answer(arena, "miner-0", "identity"))["hotkey"] == hotkey
    states = (await answer(arena, "miner-0", "snapshot", "list"))["snapshots"]
    assert states[0]["round"] == 1 and states[0]["current"]
    saved = await answer(arena, "miner-0", "snapshot", "save", str(directory / "theta.bin"))
    assert saved["state_hash"] == states[0]["state_hash"]
    assert (await trio.Path(saved["path"]).stat()).st_size == states[0]["bytes"]
    assert (await answer(arena, "miner-0", "snapshot", "verify"))["ok"]
    met = await answer(arena, "miner-0", "peers", "connect", arena.bootstrap_dial)
    assert met["peer_id"] == arena.bootstrap_dial.rpartition("/")[2]
    assert (await answer(arena, "miner-0", "limits", "set", "uplink", "10MB"))["link"]["uplink_bytes_per_second"] == 1e7
    peers = (await answer(arena, "miner-0", "peers"))["peers"]
    assert {one["role"] for one in peers} == {"validator", "bootstrap"}
    report = await answer(arena, "miner-0", "bugreport", "--output", str(directory / "report.tar.gz"))
    assert (await trio.Path(report["path"]).stat()).st_size > 1000
    for words in (("top", "--once"), ("why",), ("chain",), ("identity",), ("limits",), ("config", "show", "--origin")):
        done = await ctl(arena, "miner-0", *words)
        assert done.returncode == 0 and done.stdout and b"\x1b" not in done.stdout, (words, done.stderr)
    for words in (("snapshot", "list"), ("snapshot", "verify", "1"), ("peers", "bans"), ("log-level",), ("rounds",)):
        assert (await ctl(arena, "miner-0", *words)).returncode == 0, words
    assert (await answer(arena, "bootstrap", "identity"))["role"] == "bootstrap"
    assert (await ctl(arena, "bootstrap", "why")).returncode == 2, "a bootstrap peer has no part in rounds"


async def the_page_shows_it(arena: Arena) -> None:
    status = await arena.status("miner-0")
    assert status is not None

    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"http://{status.http_address}{path}", timeout=20) as reply:
            body: bytes = reply.read()
            return body

    assert b"<title>covenantd</title>" in await trio.to_thread.run_sync(get, "/")
    assert Status.from_dict(json.loads(await trio.to_thread.run_sync(get, "/status.json"))).hotkey == status.hotkey
    assert len(json.loads(await trio.to_thread.run_sync(get, "/rounds.json"))["rounds"]) == 1
    metrics = (await trio.to_thread.run_sync(get, "/metrics")).decode()
    for line in ('rounds_total{result="certified"} 1.0', 'contributions_total{result="included"} 1.0'):
        assert f"covenantd_{line}" in metrics


async def prometheus_scrapes_it(arena: Arena, directory: Path) -> None:
    status = await arena.status("miner-0")
    if status is None or shutil.which("prometheus") is None:
        return  # tests/covenantd/test_monitoring.py is skipped then, and says so
    prometheus = Prometheus(directory / "prometheus", status.http_address, "groups: []")
    try:
        await trio.to_thread.run_sync(prometheus.until, "covenantd_round_number == 1")
        (ours,) = await trio.to_thread.run_sync(prometheus.query, "covenantd_weight")
        assert float(ours["value"][1]) == status.weight
        (loss,) = await trio.to_thread.run_sync(prometheus.query, 'covenantd_loss{split="train"}')
        assert float(loss["value"][1]) > 0
    finally:
        await trio.to_thread.run_sync(prometheus.close)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def sighup_reloads(arena: Arena) -> None:
    config = arena.peers["miner-0"].config
    config.write_text(config.read_text().replace("[node]\n", '[node]\nlog_level = "debug"\n', 1))
    arena.signal("miner-0", signal.SIGHUP)
    with trio.fail_after(30):
        while (await answer(arena, "miner-0", "log-level"))["level"] != "debug":  # noqa: ASYNC110 (a process)
            await trio.sleep(0.05)


async def drained_and_upgraded(arena: Arena) -> None:
    """As the guide says, in the middle of a round: it is finished, and its successor takes part in the next one."""
    await the_engine_is_traced(arena)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drained, arena)
        await arena.until(lambda s: s["miner-0"].state == "draining", "miner-0", what="the drain to be taken")
        await arena.certify(1)
        await arena.advance_to(arena.spec.timing.vote(1))
    child = arena.children.pop("miner-0")
    with trio.fail_after(5):
        assert await child.wait() == 0
    arena.start("miner-0")
    await arena.until(
        lambda s: s["miner-0"].round == 2 and s["miner-0"].state != "syncing", "miner-0", what="the new one"
    )
    await arena.play(2, ("miner-0",))
    rounds = await arena.rounds("miner-0")
    assert [rounds[number].own_included for number in (0, 1, 2)] == [True, True, True]


async def drained(arena: Arena) -> None:
    with trio.fail_after(90):
        assert (await answer(arena, "miner-0", "drain", "--wait"))["state"] == "gone"


async def the_engine_is_traced(arena: Arena) -> None:
    """Asked for between rounds by somebody who does not stay to see it, taken in the next round."""
    done = await ctl(arena, "miner-0", "profile", "--steps", "2", "--timeout", "1")
    assert done.returncode == 5, done.stderr
    (path,) = (word for word in done.stderr.decode().split() if word.endswith(".json"))
    await arena.train(1, ("miner-0",))
    assert len(json.loads(await trio.Path(path).read_text())["traceEvents"]) > 100
    assert (await ctl(arena, "validator-0", "profile")).returncode == 1, "a validator does not train"


async def newer_state_is_refused(arena: Arena) -> None:
    await arena.kill("miner-0", signal.SIGTERM)
    peer = arena.peers["miner-0"]
    (peer.directory / "state" / NAME).write_text(json.dumps({"format": FORMAT + 1}))
    arena.start("miner-0")
    child = arena.children.pop("miner-0")
    with trio.fail_after(60):
        assert await child.wait() == EXIT_CONFIG
    assert "written by a newer covenantd" in arena.log("miner-0").splitlines()[-1]


@pytest.mark.slow
async def test_a_daemon_that_waits_takes_under_a_hundredth_of_a_core(new_arena: OpenArena) -> None:
    async with new_arena(miners=1) as arena:
        arena.start()
        await arena.ready("miner-0", "validator-0")
        names = ("miner-0", "validator-0", "bootstrap")
        await trio.sleep(30)  # until nobody looks for anybody new
        before = {name: processor_seconds(arena.children[name].pid) for name in names}
        await trio.sleep(60)
        spent = {name: processor_seconds(arena.children[name].pid) - before[name] for name in names}
        resident = {name: resident_bytes(arena.children[name].pid) for name in names}
        assert max(spent.values()) < 0.6, spent
        assert max(resident.values()) < _MAX_DAEMON_BYTES, resident


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
