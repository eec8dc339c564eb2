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
    parser.add_argument("--steps", type=int, default=200, metavar="H", help="inner steps of each measurement (200)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of both engines (1)")
    parser.add_argument("--only", choices=("watch", "overhead"), help="half of it: watch a swarm, or the overhead")


def run(args: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"bounds": []}
    if args.only != "overhead":
        _add_watched(result, run_swarm(args.miners, args.rounds))
    if args.only != "watch":
        _add_overhead(result, args)
    result["bounds"] = result.pop("bounds")  # shown last
    return result


def _add_watched(result: dict[str, Any], swarm: SwarmRun) -> None:
    first, pss = swarm.first_loss, sum(swarm.pss.values())
    result["phase_seconds"] = phases(swarm)
    result["pss_megabytes"] = {kind: count / 1e6 for kind, count in sorted(swarm.pss.items())}
    result["state_hashes_equal"] = swarm.summary["state_hashes_equal"]
    result["wire_ratio"] = swarm.summary["wire_ratio"]
    result["seconds_to_daemons_started"] = swarm.daemons_started
    soon = first is not None and first <= MAX_FIRST_LOSS_SECONDS
    result["bounds"] += [
        _bound("seconds to the first loss, at most", first, MAX_FIRST_LOSS_SECONDS, soon),
        _bound("PSS of all processes in bytes, at most", pss, MAX_PSS_BYTES, 0 < pss <= MAX_PSS_BYTES),
    ]


def _add_overhead(result: dict[str, Any], args: argparse.Namespace) -> None:
    from tests.bench._overhead import overhead  # it imports torch

    pairs = trio.run(overhead, args.pairs, args.steps, args.threads)
    ratio = statistics.median(row["ratio"] for row in pairs)
    best = [max(row[name] for row in pairs) for name in ("daemon_tokens_per_second", "alone_tokens_per_second")]
    result["overhead"] = pairs
    result["ratio_spread"] = [min(row["ratio"] for row in pairs), max(row["ratio"] for row in pairs)]
    result["ratio_of_the_best_runs"] = best[0] / best[1]  # what is left when the machine is noisy
    met = ratio >= MIN_THROUGHPUT_RATIO
    result["bounds"].append(_bound("throughput, daemon over engine, at least", ratio, MIN_THROUGHPUT_RATIO, met))


def _bound(what: str, value: float | None, bound: float, met: bool) -> dict[str, Any]:
    return {"what": what, "value": value, "bound": bound, "met": met}


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
