"""Bug reports, of daemons that run and of those that do not: what helps is in them, no secret, and they fit a frame."""

import json
import logging
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from covenantd import ctl, doctor, logs, reporting
from covenantd.board import KEPT_ROUNDS, StatusBoard
from covenantd.config import load_config
from covenantd.control import serve_control
from covenantd.controlverbs import standard_verbs
from covenantd.controlwire import MAX_REPLY_BYTES
from covenantd.daemonverbs import daemon_verbs
from covenantd.errors import ConfigError
from covenantd.liveconfig import LiveConfig
from covenantd.metrics import Metrics
from covenantd.operate import _SHOWN_ADDRESSES
from covenantd.reporting import file_tail, last_bytes, report_verb
from covenantd.status import MAX_SHOWN, ContributionStatus, PeerStatus, Rank, RoundSummary, Status
from p2p.peerbook import MAX_ADDRESS_CHARS
from p2p.swarm import SwarmSettings

CONFIG = (
    '[node]\nruntime_directory = "run"\n[chain]\nendpoint = "tcp://127.0.0.1:9"\n[identity]\nhotkey = "hotkey.json"\n'
)
HOTKEY = "5" + "F" * 47
Bugreport = Callable[..., Awaitable[tuple[int, str, str]]]
PEER_ID = "12D3KooWGatU9DoRkc8GDR4fq6TZKXSiYdmbwWAYKMPBTG3oFjhW"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A peer's directory: config, logs with secrets in them, rounds on disk."""
    (tmp_path / "covenantd.toml").write_text(CONFIG.replace("[node]\n", f'[node]\nstate_directory = "{tmp_path}"\n'))
    (tmp_path / "engine.log").write_text("x" * 200_000 + '\nsecretPhrase: "word word word"\nlast line\n')
    (tmp_path / "rounds.jsonl").write_text('{"round": 6}\n{"round": 7, "error": "wss://me:hunter2@node"}\n')
    return tmp_path


@pytest.fixture
async def daemon(home: Path, nursery: trio.Nursery) -> AsyncIterator[Path]:
    live = LiveConfig(load_config(home / "covenantd.toml", {}, {}))
    board = StatusBoard(Status("miner", hotkey="5Own"))
    board.add_round(RoundSummary(1, "certified"))

    async def reload() -> dict[str, Any]:
        raise AssertionError("not asked for")

    verbs = standard_verbs(board, {}) | daemon_verbs(live, board, None, reload)  # type: ignore[arg-type]
    verbs["bugreport"] = report_verb(live, board, Metrics())
    await nursery.start(serve_control, home / "run" / "control.sock", verbs)
    yield home
    nursery.cancel_scope.cancel()


@pytest.fixture
def bugreport(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bugreport:
    """bugreport(words of covenantctl) -> exit code, stdout, stderr. The doctor's look at the chain, which waits for
    one that is not there, is left out."""

    def no_chain(*arguments: object) -> None:
        raise ConfigError("no chain in this test")

    async def run(*words: str) -> tuple[int, str, str]:
        code = await trio.to_thread.run_sync(ctl.main, ["--dir", str(home), "bugreport", *words])
        return code, *capsys.readouterr()

    monkeypatch.setattr(doctor, "LedgerChain", no_chain)
    monkeypatch.chdir(home)
    return run


def files_in(path: Path) -> dict[str, str]:
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as bundle:
        return {m.name.partition("/")[2]: bundle.extractfile(m).read().decode() for m in bundle.getmembers()}  # type: ignore[union-attr]


async def test_of_a_daemon_that_runs(daemon: Path, bugreport: Bugreport) -> None:
    logs.configure("info", "json", (daemon / "log").open("w"), {})
    logging.getLogger("test").warning("chain at wss://me:hunter2@node.example?api_key=abc is slow")
    code, out, _ = await bugreport("--json", "--output", "report.tar.gz")
    assert code == 0
    files = files_in(daemon / "report.tar.gz")
    assert set(files) == set(json.loads(out)["files"])
    whole = "".join(files.values())
    assert "hunter2" not in whole and "=abc" not in whole and "word word" not in whole
    assert "is slow" in files["log.jsonl"] and "last line" in files["engine.log"]
    assert json.loads(files["status.json"])["hotkey"] == "5Own"
    assert json.loads(files["versions.json"])["python"] == sys.version.split()[0]
    found = {one["name"]: one for one in json.loads(files["doctor.json"])}
    assert found["daemon"]["level"] == "ok" and found["hotkey"]["level"] == "failure"
    assert "covenantd_rounds_total" in files["metrics.txt"]
    assert (await bugreport("--output", "report.tar.gz"))[0] == 1, "never over another"


async def test_of_a_daemon_that_does_not_run(home: Path, bugreport: Bugreport) -> None:
    code, _, err = await bugreport("--json", "--output", "report.tar.gz")
    assert code == 0 and "no daemon at" in err
    files = files_in(home / "report.tar.gz")
    assert {"config.json", "doctor.json", "engine.log", "rounds.jsonl", "versions.json"} < set(files)
    assert "last line" in files["engine.log"] and '{"round": 6}' in files["rounds.jsonl"]
    assert "hunter2" not in "".join(files.values()) and "word word" not in files["engine.log"]
    settings = {one["name"]: one["value"] for one in json.loads(files["config.json"])}
    assert settings["chain.endpoint"] == "tcp://127.0.0.1:9"
    assert "no daemon at" in json.loads(files["not-running.json"])["daemon"]
    assert any(one["name"] == "daemon" for one in json.loads(files["doctor.json"]))


async def test_of_a_daemon_that_cannot_run_for_its_config(home: Path, bugreport: Bugreport) -> None:
    (home / "covenantd.toml").write_text("[node\n")
    assert (await bugreport("--output", "report.tar.gz"))[0] == 0
    problems = json.loads(files_in(home / "report.tar.gz")["not-running.json"])["config_problems"]
    assert problems and "covenantd.toml" in problems[0]


def crowded() -> StatusBoard:
    """As many of everything as there may be, each as large as it may be."""
    address = "/dns/" + "a" * (MAX_ADDRESS_CHARS - 5)
    peers = [
        PeerStatus(HOTKEY, PEER_ID, "validator", _SHOWN_ADDRESSES * (address,), i % 2 == 0, 2**50, 2**50)
        for i in range(SwarmSettings("ab" * 32, "miner").max_peers)
    ]
    contributions = MAX_SHOWN * (ContributionStatus(HOTKEY, "equivocated", 2**40),)
    ranking = MAX_SHOWN * (Rank(65535, HOTKEY, 0.5, True),)
    board = StatusBoard(Status("miner", peers=tuple(peers), contributions=contributions, ranking=ranking))
    for number in range(KEPT_ROUNDS):
        board.add_round(RoundSummary(number, "certified", contributions=contributions, phases={"train": 1.5}))
    return board


async def test_the_largest_of_them_fits_a_frame(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, live = crowded(), LiveConfig(load_config(home / "covenantd.toml", {}, {}))
    monkeypatch.setattr(logs.recent, "_lines", logs._RECENT_LINES * ["ü" * logs._MAX_LINE_CHARS])
    (home / "engine.log").write_text("line\n" * 10**6)
    report = await report_verb(live, board, Metrics()).handler({})
    assert isinstance(report, dict)
    assert len(msgpack.packb({"ok": report})) < MAX_REPLY_BYTES
    assert len(report["rounds"]) > 10 and report["rounds"][-1]["round"] == KEPT_ROUNDS - 1, "the newest"
    peers = report["status"]["peers"]
    assert len(peers) > 100 and all(one["connected"] for one in peers)
    assert report["status"]["peers_left_out"] == len(board.status.peers) - len(peers)
    for part in ("log", "engine_log", "metrics"):
        assert len(report[part].encode()) > 10_000
    for verb in ("status", "peers", "rounds"):
        answer = await standard_verbs(board, {})[verb].handler({})
        assert len(msgpack.packb({"ok": answer})) < MAX_REPLY_BYTES, verb
    few = StatusBoard(replace(board.status, peers=board.status.peers[:3]))
    assert reporting._status(few)["peers_left_out"] == 0


def test_the_tail_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"ab\xffcd\nefgh\n")
    assert file_tail(tmp_path / "log", 8) == "efgh\n", "no half line, whose beginning may be what says it is a secret"
    assert file_tail(tmp_path / "log", 100) == "ab\ufffdcd\nefgh\n" and file_tail(tmp_path / "none", 4) == ""
    assert last_bytes("ab\ncd\n", 5) == "cd\n" and last_bytes("abcd", 4) == "abcd" and last_bytes("abcd", 2) == "cd"
