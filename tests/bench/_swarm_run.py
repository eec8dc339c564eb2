"""One run of `covenantd swarm`, watched from outside."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from covenantd.controlwire import ControlError
from covenantd.ctl import socket_path
from covenantd.ctlclient import BlockingClient
from tests.bench._memory import pss_bytes

_LOOK_SECONDS = 1.0
_RUN_SECONDS = 1200.0


@dataclass
class SwarmRun:
    """Times in seconds since the command was started."""

    daemons_started: float | None = None
    first_loss: float | None = None
    pss: dict[str, int] = field(default_factory=dict)  # at its peak since the daemons started
    rounds: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)  # by peer and round
    summary: dict[str, Any] = field(default_factory=dict)


def run_swarm(miners: int, rounds: int) -> SwarmRun:
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        directory = Path(scratch) / "swarm"
        command = [sys.executable, "-m", "covenantd.cli", "swarm", "--json", "--dir", str(directory)]
        command += ["--miners", str(miners), "--rounds", str(rounds)]
        started = time.monotonic()
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "400", "TMPDIR": scratch},
        ) as process:
            try:
                return _watch(process, directory, started)
            finally:
                process.terminate()  # it takes its daemons along


def _watch(process: subprocess.Popen[str], directory: Path, started: float) -> SwarmRun:
    seen, said = SwarmRun(), list[str]()
    assert process.stdout and process.stderr
    reader = threading.Thread(target=_read, args=(process.stderr, seen, said, started), daemon=True)
    reader.start()
    while process.poll() is None and time.monotonic() < started + _RUN_SECONDS:
        if seen.daemons_started is not None:
            _look(process.pid, directory, seen)
        time.sleep(_LOOK_SECONDS)
    if process.poll() != 0:
        raise RuntimeError("covenantd swarm failed:\n" + "".join(said[-20:]))
    seen.summary = json.loads(process.stdout.read().splitlines()[-1])
    return seen


def _read(stream: IO[str], seen: SwarmRun, said: list[str], started: float) -> None:
    for line in stream:
        said.append(line)
        if seen.daemons_started is None and re.search(r"starting \d+ daemons", line):
            seen.daemons_started = time.monotonic() - started
        if seen.first_loss is None and "first loss" in line:
            seen.first_loss = time.monotonic() - started


def _look(pid: int, directory: Path, seen: SwarmRun) -> None:
    pss = pss_bytes(pid)
    if sum(pss.values()) > sum(seen.pss.values()):
        seen.pss = pss
    for config in directory.glob("*/covenantd.toml"):
        name = config.parent.name
        if name != "bootstrap":
            with contextlib.suppress(ControlError):  # not up yet, or leaving
                for one in _rounds(config.parent):
                    seen.rounds[name, one["round"]] = one


def _rounds(directory: Path) -> list[dict[str, Any]]:
    client = BlockingClient(socket_path(None, str(directory), {}), 5.0)
    try:
        return list(client.call("rounds")["rounds"])
    finally:
        client.close()
