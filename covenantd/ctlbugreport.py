"""`covenantctl bugreport`: one tar.gz with what a developer asks for first, and no secret. Also of a daemon that does
not run: then from what it left on disk."""

import io
import json
import os
import platform
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient

_README = """\
A bug report of covenantd, made by `covenantctl bugreport`.

  status.json    what the daemon said of itself, its peers' addresses included
  rounds.json    its last rounds
  rounds.jsonl   the same, as they are on disk, where no daemon ran
  config.json    its settings with their origin; values that look like secrets are replaced by [redacted]
  doctor.json    what `covenantd doctor` found on this host
  metrics.txt    its metrics
  versions.json  of covenantd, Python, the libraries and the system
  log.jsonl      the last lines of its log; where no daemon ran: see journalctl -u covenantd
  engine.log     the end of the engine's log

Key files are never read for it. Look through it before you pass it on.
"""
_JSON_PARTS = {"status.json": "status", "rounds.json": "rounds", "config.json": "config", "versions.json": "versions"}
_TEXT_PARTS = {"log.jsonl": "log", "engine.log": "engine_log", "metrics.txt": "metrics", "rounds.jsonl": "rounds_log"}
_DAEMON_SECONDS = 60.0


def default_name() -> str:
    return time.strftime("covenantd-bugreport-%Y%m%d-%H%M%S.tar.gz")


def gather(connect: Callable[[], BlockingClient], config: Path) -> dict[str, Any]:
    """The running daemon's report, else one from disk by the settings in `config`; with a doctor's findings."""
    try:
        client = connect()
    except ControlError as error:
        if error.code not in ("not running", "timeout", "protocol"):
            raise
        print(f"covenantctl: {error}\ncovenantctl: reporting from what is on disk", file=sys.stderr)
        return {**_from_disk(config), "unreachable": str(error), "doctor": _doctor(config)}
    try:
        data: dict[str, Any] = client.call("bugreport", timeout_seconds=_DAEMON_SECONDS)
        file = client.call("config")["file"]
    finally:
        client.close()
    return {**data, "doctor": _doctor(Path(file) if file else config)}


def _doctor(config: Path) -> list[dict[str, Any]]:
    from covenantd.doctor import examine, patient_of
    from covenantd.redact import redact_value

    print("covenantctl: examining this host, as covenantd doctor does", file=sys.stderr)
    findings = [one.as_dict() for one in examine(patient_of(config))]
    return [{name: redact_value(name, value) for name, value in one.items()} for one in findings]


def _from_disk(path: Path) -> dict[str, Any]:
    from covenantd import reporting
    from covenantd.config import Config, read_config
    from covenantd.errors import CovenantError
    from covenantd.liveconfig import LiveConfig
    from covenantd.redact import redact_text
    from covenantd.roundlog import NAME

    try:
        config, problems = read_config(path)
    except CovenantError as error:
        config, problems = Config(), [str(error)]  # type: ignore[list-item]
    state = config.node.state_directory
    return {
        "config": LiveConfig(config).shown(),
        "problems": [redact_text(str(one)) for one in problems],
        "versions": reporting.versions(),
        "engine_log": redact_text(reporting.file_tail(state / "engine.log", reporting.ENGINE_LOG_BYTES)),
        "rounds_log": redact_text(reporting.file_tail(state / NAME, reporting.ROUNDS_BYTES)),
    }


def write_bundle(path: Path, data: Mapping[str, Any]) -> list[str]:
    """Never over an existing file, readable by its owner alone. The names in it. Raises OSError."""
    folder = path.name.removesuffix(".gz").removesuffix(".tar") or "bugreport"
    machine = {"machine": platform.machine(), "cpus": os.cpu_count()}
    data = {**data, "versions": {**data.get("versions", {}), **machine}}
    files = {"README.txt": _README, "doctor.json": _json(data.get("doctor"))}
    if "unreachable" in data:
        files["not-running.json"] = _json({"daemon": data["unreachable"], "config_problems": data["problems"]})
    files |= {name: _json(data[key]) for name, key in _JSON_PARTS.items() if key in data}
    files |= {name: str(data[key]) for name, key in _TEXT_PARTS.items() if key in data}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for name, text in files.items():
            _add(bundle, f"{folder}/{name}", text.encode())
    return list(files)


def _add(bundle: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
    bundle.addfile(member, io.BytesIO(content))


def _json(data: Any) -> str:
    return json.dumps(data, indent=2) + "\n"
