"""The exchange on shaped links: every peer of N has one payload, all must get all; how far from the physical bound.

Beside ours, on the same links in the same run: a full mesh without relaying, a bucket (nginx WebDAV on a host without
limits), libtorrent and, among four, hivemind's averaging. Before: `apt-get install nginx-light` and
`pip install -e .[bench]`; what is not there is not run, and said. The whole takes more than an hour; piece by piece,
`--case` and `--only` replace what they measure in the kept result.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.bench._exchange_bounds import RIVALS, bounds
from tests.bench._exchange_cases import FEW_PEERS, Case, mixed, run_method, uniform, yardstick_mbit
from tests.netlab.lab import why_not
from tests.p2p.exchange_simulator import predicted_seconds

HELP = "time to spread N payloads among N peers on shaped links, over the physical bound, ours and others"
METHODS = ("ours", *RIVALS)
KEPT = Path(__file__).parent / "results" / "exchange.json"
QUICK_BOUND_SECONDS, QUICK_MOST_SECONDS = 8.0, 20.0
BOUND_SECONDS, LOSSY_BOUND_SECONDS = 45.0, 30.0
HIVEMIND_PEERS = 4
NO_HIVEMIND = (
    "with more than 4 peers: to spread N payloads by averages, each sends 4(N-1)P, at least 4x the bound, and is three "
    "processes with torch"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="one uniform and one mixed case of 6 peers; not kept")
    parser.add_argument("--case", nargs="*", metavar="NAME", help="these cases alone, e.g. uniform-8 mixed-4-loss1")
    seconds = f"the bound of each case ({BOUND_SECONDS:g}; with loss {LOSSY_BOUND_SECONDS:g})"
    parser.add_argument("--seconds", type=float, metavar="S", help=seconds)
    parser.add_argument("--only", nargs="*", choices=METHODS, help="these methods alone")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (reason := why_not()) is not None:
        raise SystemExit(f"exchange: {reason}")
    missing = {one: why for one in METHODS if (why := _why_not_run(one)) is not None}
    for method, why in {**missing, "hivemind": NO_HIVEMIND}.items():
        print(f"not run: {method}, {why}", file=sys.stderr, flush=True)
    methods = [one for one in args.only or METHODS if one not in missing]
    most_seconds = QUICK_MOST_SECONDS if args.quick else None
    rows = [_measure(case, methods, most_seconds) for case in _cases(args)]
    if not args.quick:
        rows = _merged(rows)
    flat = [_flat(row) for row in rows]
    not_run = {**missing, "hivemind": NO_HIVEMIND}
    kept = {} if not args.quick else {"kept": False}
    return {"not_run": not_run, "cases": rows, "times_over_bound": flat, "bounds": bounds(rows), **kept}


def _cases(args: argparse.Namespace) -> list[Case]:
    if args.quick:
        return [kind(6, args.seconds or QUICK_BOUND_SECONDS) for kind in (uniform, mixed)]
    plain, lossy = args.seconds or BOUND_SECONDS, args.seconds or LOSSY_BOUND_SECONDS
    sizes = [(count, kind) for count in (4, 8, 12) for kind in (uniform, mixed)]
    cases = [kind(count, plain) for count, kind in sizes]
    cases += [kind(count, lossy, loss_percent=1.0) for count, kind in sizes]
    cases.append(uniform(16, plain))
    return [case for case in cases if not args.case or case.name in args.case]


def _why_not_run(method: str) -> str | None:
    if method == "bucket" and shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") is None:
        return "nginx is not here: apt-get install nginx-light"
    if method == "libtorrent" and importlib.util.find_spec("libtorrent") is None:
        return "libtorrent is not here: pip install -e .[bench]"
    return None


def _measure(case: Case, methods: list[str], most_seconds: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": case.name,
        "loss": case.loss,
        "peers": len(case.links),
        "links_scaled_by": round(case.scale, 3),
        "payload_bytes": case.payload_bytes,
        "bound_seconds": round(case.bound_seconds, 2),
        "load_before": round(os.getloadavg()[0], 1),  # of the machine: two cores that others use slow everybody
    }
    if case.loss:
        row["yardstick"] = round(yardstick_mbit(case) / case.links[-1].up_mbit, 3)
    else:
        row["predicted_seconds"] = round(_predicted(case), 2)
    for method in methods:
        if method not in _worth_it(case):
            continue
        try:
            row[method] = run_method(method, case, most_seconds or case.bound_seconds * 6 + 20)
        except (OSError, TimeoutError) as error:
            row[method] = {"error": str(error)}
        print(f"{case.name} {method}: {row[method]}", file=sys.stderr, flush=True)
    return row


def _worth_it(case: Case) -> tuple[str, ...]:
    """Many peers are there for the simulator's sake."""
    if len(case.links) > FEW_PEERS:
        return ("ours",)
    return METHODS if len(case.links) <= HIVEMIND_PEERS else tuple(one for one in METHODS if one != "hivemind")


def _predicted(case: Case) -> float:
    ups, downs = ([getattr(link, side) for link in case.links] for side in ("up_mbit", "down_mbit"))
    return predicted_seconds(ups, downs, case.links[0].one_way_ms, case.payload_bytes, case.piece_bytes)


def _merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows in place of the kept ones; of a case on the same links, other methods' results stay."""
    kept = {row["name"]: row for row in json.loads(KEPT.read_text())["cases"]} if KEPT.exists() else {}
    for row in rows:
        old = kept.get(row["name"], {})
        same = all(old.get(key) == row[key] for key in ("links_scaled_by", "payload_bytes"))
        kept[row["name"]] = {**old, **row} if same else row
    return list(kept.values())


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    names = [one for one in ("ours", *RIVALS) if one in row]
    measured = {method: row[method].get("over_bound") for method in names}
    cpu = {f"{method} cpu-s/GB": row[method].get("cpu_seconds_per_gb") for method in names}
    about = {"case": row["name"], "rates x": row["links_scaled_by"], "bound s": row["bound_seconds"]}
    return {**about, "predicted s": row.get("predicted_seconds"), **measured, **cpu}
