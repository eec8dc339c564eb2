"""`covenantd export`: the model of a state directory as Hugging Face reads it (safetensors, config.json, tokenizer).

Reads only, and beside a running daemon, too: a state's file is never changed, at most removed.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from covenantd import runspec
from covenantd.chain.keys import verify
from covenantd.config import DEFAULT_PATH, Config, load_config
from covenantd.errors import EXIT_OK, CovenantError, TryAgain
from covenantd.journal import Journal
from covenantd.runspec import RunSpec
from p2p.blobs import whole_file
from p2p.manifest import manifest_of

MODEL = "model.safetensors"
_SECONDS = 6 * 3600.0  # the largest model from the slowest disk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", default=DEFAULT_PATH, help=str(DEFAULT_PATH))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to; made if it is not there")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--round", type=int, metavar="R", help="the state that round R began with, not the newest")
    which.add_argument("--snapshot", type=Path, metavar="FILE", help="a state that `covenantctl snapshot save` wrote")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def main(args: argparse.Namespace) -> int:
    """Raises CovenantError."""
    if (args.out / MODEL).exists():
        raise CovenantError(f"{args.out / MODEL} exists and is never overwritten; name another --out")
    config = load_config(args.config)
    spec = runspec.read(config.run.spec, verify)
    state, known = _state(config, spec, args.round) if args.snapshot is None else (args.snapshot, None)
    found = _measured(state, spec.piece_bytes)
    if known not in (None, found):
        raise CovenantError(f"{state} is damaged: it should have the hash {known}; a running daemon repairs it")
    _written(spec, state, _blob(config, spec.dataset.tokenizer, "the run's tokenizer"), args.out)
    data: dict[str, Any] = {"schema": 1, "path": str(args.out.absolute()), "run_id": spec.run_id, "state_hash": found}
    print(json.dumps(data) if args.json else f"{data['path']}: state {found[:16]} of {spec.name}")
    return EXIT_OK


def _state(config: Config, spec: RunSpec, round: int | None) -> tuple[Path, str]:
    memory = Journal(config.node.state_directory / "journal.json", spec.run_id, spec.genesis_state).memory
    states = {0: spec.genesis_state, **{past.round + 1: past.state_hash for past in memory.past}}
    states[memory.round] = memory.state_hash
    wanted = memory.round if round is None else round
    if wanted not in states:
        raise CovenantError(f"nothing is known here of the state of round {wanted}; the newest is {memory.round}")
    return _blob(config, states[wanted], f"the state of round {wanted}"), states[wanted]


def _blob(config: Config, blob_id: str, what: str) -> Path:
    path = whole_file(config.node.state_directory / "blobs", blob_id)
    if not path.is_file():
        raise CovenantError(f"{what} is not in {path.parent}: a daemon that runs fetches it, and keeps the newest")
    return path


def _measured(path: Path, piece_bytes: int) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return manifest_of(file.fileno(), piece_bytes).blob_id
    except FileNotFoundError:
        raise CovenantError(f"{path} is not there, or is no longer; try again") from None
    except PermissionError:
        raise  # said with whose it is, by whoever reports
    except OSError as error:
        raise CovenantError(f"{path} cannot be read: {error.strerror}") from None


def _written(spec: RunSpec, state: Path, tokenizer: Path, out: Path) -> None:
    command = [sys.executable, "-m", "model.hf", "--theta", str(state), "--model", json.dumps(asdict(spec.model))]
    command += ["--tokenizer", str(tokenizer), "--context", str(spec.inner.sequence_tokens), "--out", str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TryAgain(f"{out}: writing took longer than {_SECONDS / 3600:g} h: is the disk well?") from None
    if done.returncode != 0:
        raise CovenantError((done.stderr.strip().splitlines() or [f"model.hf ended with {done.returncode}"])[-1])
