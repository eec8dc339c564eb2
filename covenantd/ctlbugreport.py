"""`covenantctl bugreport`: one tar.gz with what a developer asks for first, and no secret."""

import io
import json
import os
import platform
import tarfile
import time
from pathlib import Path
from typing import Any

_README = """\
A bug report of covenantd, made by `covenantctl bugreport`.

  status.json    what the daemon said of itself, its peers' addresses included
  rounds.json    its last rounds
  config.json    its settings with their origin; values that look like secrets are replaced by [redacted]
  versions.json  of covenantd, Python, the libraries and the system
  log.jsonl      the last lines of its log
  engine.log     the end of the engine's log

Key files are never read for it. Look through it before you pass it on.
"""
_PARTS = {"status.json": "status", "rounds.json": "rounds", "config.json": "config", "versions.json": "versions"}


def default_name() -> str:
    return time.strftime("covenantd-bugreport-%Y%m%d-%H%M%S.tar.gz")


def write_bundle(path: Path, data: dict[str, Any]) -> list[str]:
    """Never over an existing file, readable by its owner alone. The names in it. Raises OSError."""
    folder = path.name.removesuffix(".gz").removesuffix(".tar") or "bugreport"
    files = {"README.txt": _README, **{name: _json(data.get(key)) for name, key in _PARTS.items()}}
    files["versions.json"] = _json({**data.get("versions", {}), "machine": platform.machine(), "cpus": os.cpu_count()})
    files["log.jsonl"] = str(data.get("log", ""))
    files["engine.log"] = str(data.get("engine_log", ""))
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
