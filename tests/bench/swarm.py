"""A local swarm: time of each phase, start-up, memory, and what the daemon costs in training throughput."""

import argparse
import statistics
from typing import Any

import trio

from tests.bench._swarm_run import SwarmRun, run_swarm

HELP = "phases of a round, start-up and memory of `covenantd swarm`, and the daemon's overhead on training"
PHASES = ("syncing", "waiting", "train", "seal", "commit", "exchange", "certify", "aggregate", "outer_step")
MAX_FIRST_LOSS_SECONDS = 30.0
MAX_PSS_BYTES = 3e9
MIN_THROUGHPUT_RATIO = 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--miners", type=int, default=3, metavar="N")
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="of the swarm that is watched (4)")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="daemon and engine alone, in turns (5)")
    parser.add_argument("--steps", type=int, default=30, metavar="H", help="inner steps of each such measurement (30)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of both engines (1)")
    parser.add_argument("--skip-overhead", action="store_true", help="only watch a swarm")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tests.bench._overhead import overhead

    swarm = run_swarm(args.miners, args.rounds)
    measured = None if args.skip_overhead else trio.run(overhead, args.pairs, args.steps, args.threads)
    return {
        "phase_seconds": phases(swarm),
        "pss_megabytes": {kind: count / 1e6 for kind, count in sorted(swarm.pss.items())},
        **({} if measured is None else {"overhead": measured["pairs"]}),
        "state_hashes_equal": swarm.summary["state_hashes_equal"],
        "wire_ratio": swarm.summary["wire_ratio"],
        "bounds": bounds(swarm, None if measured is None else measured["ratio"]),
    }


def phases(swarm: SwarmRun) -> list[dict[str, Any]]:
    """A row a peer and round; the last round may be missing, since the swarm stops when it is done."""
    rows = [
        {"peer": peer, "round": number, **{name: one["phases"].get(name, 0.0) for name in PHASES}}
        for (peer, number), one in sorted(swarm.rounds.items())
    ]
    for role in ("miner", "validator"):
        own = [row for row in rows if row["peer"].startswith(role)]
        if own:
            medians = {name: statistics.median(row[name] for row in own) for name in PHASES}
            rows.append({"peer": f"{role}s' median", "round": None, **medians})
    return rows


def bounds(swarm: SwarmRun, ratio: float | None) -> list[dict[str, Any]]:
    first, pss = swarm.first_loss, sum(swarm.pss.values())
    rows = [
        (
            "seconds to the first loss",
            first,
            MAX_FIRST_LOSS_SECONDS,
            first is not None and first <= MAX_FIRST_LOSS_SECONDS,
        ),
        ("of which after daemons started", _after_daemons(swarm), None, True),
        ("PSS of all processes, bytes", pss, MAX_PSS_BYTES, 0 < pss <= MAX_PSS_BYTES),
    ]
    if ratio is not None:
        rows.append(("throughput, daemon over engine", ratio, MIN_THROUGHPUT_RATIO, ratio >= MIN_THROUGHPUT_RATIO))
    return [{"what": what, "value": value, "bound": bound, "met": met} for what, value, bound, met in rows]


def _after_daemons(swarm: SwarmRun) -> float | None:
    if swarm.first_loss is None or swarm.daemons_started is None:
        return None
    return swarm.first_loss - swarm.daemons_started
