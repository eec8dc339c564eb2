"""The embedded ledger: writes a second, time of an epoch, and blocks on time under a crowd of pollers."""

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.blocks import genesis_block, make_block
from covenantd.chain.ledger.epoch import run_epoch
from covenantd.chain.ledger.genesis import parse_genesis
from covenantd.chain.ledger.state import State, StateDigest, WeightsRow
from covenantd.chain.yuma.subnet import MODES
from tests.bench._pollers import crowd
from tests.bench._writers import writes_per_second

HELP = "the ledger: transactions a second, epoch time at 256 and 1024 neurons, 1-second blocks under 200 pollers"
MAX_EPOCH_SECONDS = 1.0
MAX_BLOCK_SECONDS = 1.25
VALIDATORS = 64  # as many as the chain permits; beyond them, everybody


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of writing (10)")
    parser.add_argument("--poll-seconds", type=float, default=60.0, metavar="S", help="of polling (60)")
    parser.add_argument("--pollers", type=int, default=200, metavar="N", help="daemons that poll (200)")
    parser.add_argument("--writers", type=int, default=400, metavar="N", help="writes in flight at once (400)")
    parser.add_argument("--neurons", type=int, nargs="+", default=[256, 1024], metavar="N")


def run(args: argparse.Namespace) -> dict[str, Any]:
    epochs = [
        epoch_row(size, validators, mode)
        for size in args.neurons
        for validators in (min(VALIDATORS, size), size)
        for mode in MODES
    ]
    with tempfile.TemporaryDirectory(prefix="bench-chain-") as directory:
        writes = trio.run(writes_per_second, Path(directory) / "writes", args.writers, args.seconds)
        polled = trio.run(crowd, Path(directory) / "polls", args.pollers, args.poll_seconds)
    return {"writes": writes, "epochs": epochs, "crowd": polled, "bounds": bounds(epochs, polled)}


def bounds(epochs: list[dict[str, Any]], polled: dict[str, Any]) -> list[dict[str, Any]]:
    slowest = max(row["seconds"] for row in epochs)
    rows = [("slowest epoch, seconds", slowest, MAX_EPOCH_SECONDS)]
    rows += [("longest block under pollers, seconds", polled["longest_block_seconds"], MAX_BLOCK_SECONDS)]
    return [{"what": what, "value": value, "bound": bound, "met": value <= bound} for what, value, bound in rows]


def epoch_row(size: int, validators: int, mode: str) -> dict[str, Any]:
    """Processor time, so that neighbours do not count. `seconds`: an epoch, the second one, which has bonds to start
    from; `block_seconds`: the whole block it comes in, its changes hashed."""
    state = full_subnet(size, validators, mode)
    digest = StateDigest({})
    head = genesis_block(digest, 1)
    run_epoch(state, 1)
    began = time.process_time()
    run_epoch(state, 2)
    ended = time.process_time()
    head, _, _ = make_block(state, digest, head, 5, [])  # takes up what the epochs changed
    for _ in range(2):
        start = time.process_time()
        head, _, _ = make_block(state, digest, head, 5, [])
    block_seconds = time.process_time() - start
    return {
        "neurons": size,
        "validators": validators,
        "mode": mode,
        "seconds": ended - began,
        "block_seconds": block_seconds,
    }


def full_subnet(size: int, validators: int, mode: str) -> State:
    """Every validator has weighed everybody."""
    dice = random.Random(size)
    neurons = [
        {"hotkey": Hotkey.from_uri(f"//{uid}").hotkey, "stake": dice.randint(10**9, 10**15) if uid < validators else 0}
        for uid in range(size)
    ]
    rules = {"max_neurons": size, "max_validators": validators, "tempo_blocks": 1, "yuma": mode}
    state = parse_genesis({"neurons": neurons, **rules}).state()
    for uid in range(validators):
        values = tuple(dice.randint(1, 65535) for _ in range(size))
        state.weights.put(uid, WeightsRow(tuple(range(size)), values, block=1))
    return state
