"""One peer of the exchange benchmark on hivemind's averaging: all average a vector of all payloads, zero but for one's
own. See `_exchange_node`. Two bytes ride in a float: three would not come back exactly from a division by N. So each
peer sends 4(N-1)P, four times what it need; the seconds count finding the group, 4 at least.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import hivemind
import numpy
import torch

from tests.bench._cpu import cpu_seconds
from tests.bench._exchange_node import say
from tests.bench._exchange_payload import payload

_PORT = 4001
_STEP_SECONDS = 600.0


def family_cpu_seconds() -> float:
    """Ours, and that of hivemind's processes and of p2pd below them."""
    parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    family, fresh = set[int](), {os.getpid()}
    while fresh:
        family |= fresh
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
    return sum(cpu_seconds(pid) for pid in family)


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it ended meanwhile


def floats(index: int, size_bytes: int) -> numpy.ndarray:
    """The payload, two bytes a float."""
    return numpy.frombuffer(payload(index, size_bytes // 2 * 2), "<u2").astype(numpy.float32)


def first_address(directory: Path) -> list[str]:
    """Where peer 0 listens, once it does."""
    while not (directory.parent / "first").exists():
        time.sleep(0.1)
    return (directory.parent / "first").read_text().split()


def play(args: argparse.Namespace) -> None:
    initial = first_address(args.directory) if args.index else []
    listen = [f"/ip4/{args.host}/tcp/{_PORT}"]
    dht = hivemind.DHT(initial_peers=initial, host_maddrs=listen, start=True)
    if not args.index:
        fresh = args.directory.parent / "first.new"
        fresh.write_text("\n".join(map(str, dht.get_visible_maddrs())))
        fresh.rename(args.directory.parent / "first")
    say({"address": args.host})
    sys.stdin.readline()
    own = floats(args.index, args.bytes)
    vector = torch.zeros(args.count * len(own))
    vector[args.index * len(own) : (args.index + 1) * len(own)] = torch.from_numpy(own)
    averager = hivemind.DecentralizedAverager(
        [vector],
        dht,
        prefix="exchange",
        target_group_size=args.count,
        min_group_size=args.count,
        min_matchmaking_time=4.0,
        bandwidth=args.up_mbit,
        start=True,
    )
    say({"ready": True})
    sys.stdin.readline()
    start, cpu = time.monotonic(), family_cpu_seconds()
    if averager.step(timeout=_STEP_SECONDS) is None:
        sys.exit("no averaging took place")
    seconds = time.monotonic() - start
    with averager.get_tensors() as (mean,):
        got = (mean * args.count).round().numpy().reshape(args.count, -1)
    if not all(numpy.array_equal(got[index], floats(index, args.bytes)) for index in range(args.count)):
        sys.exit("what came is not what was sent")
    say({"seconds": seconds, "received_bytes": 2 * 2 * args.bytes * (args.count - 1)})  # as the algorithm has it
    sys.stdin.readline()
    say({"cpu_seconds": family_cpu_seconds() - cpu})
    sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--up-mbit", type=float, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--piece-bytes", type=int, required=True)
    play(parser.parse_args())


if __name__ == "__main__":
    main()
