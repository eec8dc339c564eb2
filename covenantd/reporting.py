"""The daemon's part of a bug report: what it says of itself, redacted, each part within a budget of bytes."""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from covenantd import __version__, logs
from covenantd.board import StatusBoard
from covenantd.control import Verb
from covenantd.liveconfig import LiveConfig
from covenantd.metrics import Metrics
from covenantd.redact import redact_text
from covenantd.status import SCHEMA

ENGINE_LOG_BYTES = 100 << 10
ROUNDS_BYTES = 150 << 10
_LOG_BYTES = 250 << 10
_METRICS_BYTES = 100 << 10
_PEERS_BYTES = 250 << 10
# with the rest of a status and the settings they fit a reply frame of the control socket: 1 MiB


def report_verb(live: LiveConfig, board: StatusBoard, metrics: Metrics) -> Verb:
    async def handler(args: Mapping[str, Any]) -> object:
        engine_log = live.config.node.state_directory / "engine.log"
        tail = await trio.to_thread.run_sync(file_tail, engine_log, ENGINE_LOG_BYTES)
        rounds = [one.as_dict() for one in reversed(board.rounds)]
        return {
            "schema": SCHEMA,
            "status": _status(board),
            "rounds": list(reversed(_fitting(rounds, ROUNDS_BYTES))),
            "config": live.shown(),
            "versions": versions(),
            "log": last_bytes(redact_text("\n".join(logs.recent.lines())), _LOG_BYTES),
            "engine_log": last_bytes(redact_text(tail), ENGINE_LOG_BYTES),
            "metrics": last_bytes(metrics.render().decode(), _METRICS_BYTES),
        }

    return Verb(handler, writes=True)  # logs are not for everybody who may read a status


def _status(board: StatusBoard) -> dict[str, Any]:
    """Connected peers first; how many of the others are left out is said."""
    status = board.status.as_dict()
    peers = sorted(status["peers"], key=lambda peer: not peer["connected"])
    shown = _fitting(peers, _PEERS_BYTES)
    return {**status, "peers": shown, "peers_left_out": len(peers) - len(shown)}


def _fitting(rows: Sequence[dict[str, Any]], most_bytes: int) -> list[dict[str, Any]]:
    """The first of them that fit, as JSON."""
    shown, used = [], 0
    for row in rows:
        used += len(json.dumps(row)) + 2
        if used > most_bytes:
            break
        shown.append(row)
    return shown


def file_tail(path: Path, most_bytes: int) -> str:
    """The end of a file, from the beginning of a line; empty if there is none."""
    try:
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - most_bytes)
            file.seek(start)
            text = file.read(most_bytes).decode("utf-8", "replace")
    except OSError:
        return ""  # no engine has run yet
    return text.partition("\n")[2] if start else text


def last_bytes(text: str, most: int) -> str:
    """From the beginning of a line; of one line that is longer, its end."""
    data = text.encode()
    if len(data) <= most:
        return text
    tail = data[-most:].decode("utf-8", "ignore")
    return tail.partition("\n")[2] or tail


def versions() -> dict[str, str]:
    from importlib import metadata

    found = {"covenantd": __version__, "python": sys.version.split()[0], "system": platform.platform()}
    for name in ("torch", "hivemind", "bittensor", "trio", "msgpack", "numpy", "blake3"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
