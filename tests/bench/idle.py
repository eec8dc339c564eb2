"""What a daemon costs that waits for its run to begin: processor time and memory, its helpers' apart."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from covenantd import plan
from tests.arena import TIMING, Arena, open_arena
from tests.bench._cpu import cpu_seconds
from tests.bench._memory import descendants

HELP = "an idle miner, validator and bootstrap peer: share of a core, resident memory"
MAX_CORE_SHARE = 0.01
MAX_RESIDENT_BYTES = 450 << 20
_NAMES = ("miner-0", "validator-0", "bootstrap")
_PARTS = {"p2pd": "p2pd", "model.worker": "engine"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settle", type=float, default=30.0, metavar="S", help="before it is looked at (30)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="looked at (60)")
    parser.add_argument("--block-seconds", type=float, default=6.0, metavar="S", help="a block this often (6)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-idle-") as directory:
        rows = trio.run(_measure, Path(directory), args)
    load = os.getloadavg()[0]
    return {"seconds": args.seconds, "load_average": load, "processes": rows, "bounds": bounds(rows)}


def bounds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    daemons = [row for row in rows if row["process"] == "daemon"]
    share, resident = (max(row[name] for row in daemons) for name in ("core_share", "resident_bytes"))
    return [
        {
            "what": "busiest daemon, share of a core",
            "value": share,
            "bound": MAX_CORE_SHARE,
            "met": share < MAX_CORE_SHARE,
        },
        {
            "what": "largest daemon, resident bytes",
            "value": resident,
            "bound": MAX_RESIDENT_BYTES,
            "met": resident < MAX_RESIDENT_BYTES,
        },
    ]


async def _measure(directory: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    runtime = directory / "run"
    runtime.mkdir()
    timing = replace(TIMING, start_block=100_000)
    async with open_arena(directory, runtime, _made(directory / "made"), miners=1, timing=timing) as arena:
        arena.start()
        await arena.ready("miner-0", "validator-0")
        await _blocks(arena, args.settle, args.block_seconds)
        before = _spent(arena)
        await _blocks(arena, args.seconds, args.block_seconds)
        after = _spent(arena)
        return [
            {
                "peer": name,
                "process": part,
                "core_share": (spent - before[name, part]) / args.seconds,
                "resident_bytes": _resident_bytes(_pids(arena, name)[part]),
            }
            for (name, part), spent in after.items()
        ]


def _made(directory: Path) -> plan.Genesis:
    directory.mkdir()
    command = [sys.executable, "-m", "model.genesis", "--preset", "nano", "--out", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return plan.Genesis(directory, json.loads(done.stdout.splitlines()[-1]))


async def _blocks(arena: Arena, seconds: float, block_seconds: float) -> None:
    with trio.move_on_after(seconds):
        while True:
            await arena.chain.advance(1)
            await trio.sleep(block_seconds)


def _spent(arena: Arena) -> dict[tuple[str, str], float]:
    return {(name, part): cpu_seconds(pid) for name in _NAMES for part, pid in _pids(arena, name).items()}


def _pids(arena: Arena, name: str) -> dict[str, int]:
    """The daemon's process and those of its helpers."""
    own = arena.children[name].pid
    found = {"daemon": own}
    for pid in descendants(own)[1:]:
        command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        found |= {part: pid for words, part in _PARTS.items() if words in command}
    return found


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
