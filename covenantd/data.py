"""`covenantd data`: a text of one's own as the tokens of a run; `covenantd plan --data DIR` starts one on them."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from covenantd.errors import EXIT_CONFIG, EXIT_OK, EXIT_TRY_AGAIN, ConfigError, CovenantError, TryAgain
from model.config import PRESETS

_SECONDS = 6 * 3600.0
_MAX_VOCABULARY = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8; without: the bundled plays of Shakespeare")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to; made if it is not there")
    preset = f"the model it is for: {', '.join(PRESETS)} (nano)"
    parser.add_argument("--preset", choices=list(PRESETS), metavar="PRESET", default="nano", help=preset)
    parser.add_argument("--vocabulary", type=int, metavar="N", help="fewer tokens than the model has room for")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def main(args: argparse.Namespace) -> int:
    """Raises ConfigError, TryAgain, CovenantError."""
    room = min(PRESETS[args.preset].vocabulary_size, _MAX_VOCABULARY)
    vocabulary = room if args.vocabulary is None else args.vocabulary
    if vocabulary > room:
        raise ConfigError(f"--vocabulary {vocabulary}: a model of preset {args.preset} has room for {room} tokens")
    command = [sys.executable, "-m", "model.dataset", "--vocabulary", str(vocabulary), "--out", str(args.out)]
    command += [] if args.text is None else ["--text", str(args.text)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TryAgain(f"{args.out}: it took longer than {_SECONDS / 3600:g} h; give a shorter --text") from None
    if done.returncode != EXIT_OK:
        last = (done.stderr.strip().splitlines() or [f"model.dataset ended with {done.returncode}"])[-1]
        raise _KINDS.get(done.returncode, CovenantError)(last.removeprefix("data: "))
    data = json.loads(done.stdout)
    if args.json:
        print(json.dumps({"schema": 1, "path": str(args.out.absolute()), **data}))
        return EXIT_OK
    print(f"{args.out}: {data['train_tokens']} tokens to train on in {len(data['train_shards'])} shards, ", end="")
    print(f"{data['heldout_tokens']} held out, vocabulary {data['vocabulary_size']}")
    return EXIT_OK


_KINDS: dict[int, type[CovenantError]] = {EXIT_CONFIG: ConfigError, EXIT_TRY_AGAIN: TryAgain}
