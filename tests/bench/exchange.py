"""The exchange on shaped links: every peer of N has one payload, all must get all; how far from the physical bound.

Beside ours run a full mesh without relaying, a bucket (nginx WebDAV on a host without limits) and libtorrent, on the
same links in the same run, where they are installed. hivemind's averaging is not among them: it averages tensors in
its own wire format and cannot hand N different payloads to N peers.
"""

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.bench._exchange_cases import Case, mixed, run_method, uniform, yardstick_mbit
from tests.netlab.lab import why_not

HELP = "time to spread N payloads among N peers on shaped links, over the physical bound, ours and others"
METHODS = ("ours", "mesh", "bucket", "libtorrent")
MAX_OVER_BOUND = 1.15
MIN_OF_YARDSTICK = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="one uniform and one mixed case of 6 peers")
    parser.add_argument("--peers", type=int, nargs="*", metavar="N", help="sizes of the swarm (4 8 12)")
    parser.add_argument("--seconds", type=float, metavar="S", help="the bound of each case (30; quick: 15)")
    parser.add_argument("--only", nargs="*", choices=METHODS, help="these methods alone")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (reason := why_not()) is not None:
        raise SystemExit(f"exchange: {reason}")
    methods = [one for one in args.only or METHODS if _is_here(one)]
    rows = [_measure(case, methods) for case in _cases(args)]
    flat = [_flat(row) for row in rows]
    return {"methods": methods, "cases": rows, "times_over_bound": flat, "bounds": _bounds(rows)}


def _cases(args: argparse.Namespace) -> list[Case]:
    seconds = args.seconds or (15.0 if args.quick else 30.0)
    if args.quick:
        return [uniform(6, seconds), mixed(6, seconds)]
    sizes = args.peers or [4, 8, 12]
    plain = [kind(count, seconds) for count in sizes for kind in (uniform, mixed)]
    return [*plain, uniform(sizes[0], seconds, loss_percent=1.0), mixed(sizes[0], seconds, loss_percent=1.0)]


def _is_here(method: str) -> bool:
    if method == "bucket":
        return shutil.which("nginx") is not None or Path("/usr/sbin/nginx").exists()
    return method != "libtorrent" or importlib.util.find_spec("libtorrent") is not None


def _measure(case: Case, methods: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": case.name,
        "loss": case.loss,
        "peers": len(case.links),
        "links_scaled_by": round(case.scale, 3),
        "payload_bytes": case.payload_bytes,
        "bound_seconds": round(case.bound_seconds, 2),
    }
    if case.loss:
        row["yardstick"] = round(yardstick_mbit(case) / case.links[-1].up_mbit, 3)
    for method in methods:
        try:
            row[method] = run_method(method, case, case.bound_seconds * 8 + 30)
        except (OSError, TimeoutError) as error:
            row[method] = {"error": str(error)}
        print(f"{case.name} {method}: {row[method]}", file=sys.stderr, flush=True)
    return row


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    measured = {method: row[method].get("over_bound") for method in METHODS if method in row}
    cpu = {f"{method} cpu-s/GB": row[method].get("cpu_seconds_per_gb") for method in METHODS if method in row}
    return {"case": row["name"], "bound s": row["bound_seconds"], **measured, **cpu}


def _bounds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bounds = []
    for row in rows:
        ours = row.get("ours", {}).get("over_bound")
        if ours is None:
            continue
        if row["loss"]:
            share = round(1 / ours / row["yardstick"], 3)
            what = f"{row['name']}: share of what plain TCP bbr carries, at least"
            bounds.append({"what": what, "value": share, "bound": MIN_OF_YARDSTICK, "met": share >= MIN_OF_YARDSTICK})
            continue
        what = f"{row['name']}: time over the bound, at most"
        bounds.append({"what": what, "value": ours, "bound": MAX_OVER_BOUND, "met": ours <= MAX_OVER_BOUND})
        for method in ("mesh", "libtorrent"):
            other = row.get(method, {}).get("over_bound")
            if other is not None:
                bounds.append({"what": f"{row['name']}: {method} over ours", "value": other / ours, "bound": 1.0})
                bounds[-1]["met"] = other >= ours
    return bounds
