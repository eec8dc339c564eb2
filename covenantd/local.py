"""`covenantd swarm`: a whole swarm on this machine, from nothing to a trained model and the proof that all agree."""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio
from rich.console import Console

from covenantd import plan
from covenantd.errors import EXIT_FAILED, EXIT_OK, ConfigError, TryAgain
from covenantd.localdaemons import running_daemons
from covenantd.localpeers import ledger_genesis, running_ledger
from covenantd.localswarm import (
    LocalSwarm,
    SwarmOptions,
    lay_out,
    make_peers,
    start,
    until_ready,
    watch,
    weights_on_chain,
)
from covenantd.localview import SwarmView, summary_table
from covenantd.runspec import Scoring
from covenantd.stopping import stop_signals
from covenantd.summary import Summary, summarise, write
from model.config import CompressionConfig, InnerConfig
from p2p.errors import NO_ROOM

_LATEST_START_SECONDS = 120.0  # round 0 begins as soon as all are ready, or at the latest then
_LATEST_START_FACTOR = 6.0  # times what making the run took, if that is later
_PIPE_WIDTH = 120  # of the summary, where no terminal says how wide it is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--miners", type=_positive, default=3, metavar="N", help="miners (3)")
    parser.add_argument("--rounds", type=_positive, default=8, metavar="N", help="rounds (8)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="run directory (./covenantd-swarm-TIME)")
    parser.add_argument("--json", action="store_true", help="print summary.json as one line, the last on stdout")
    parser.add_argument("--preset", default="nano", help="model preset (nano)")
    parser.add_argument(
        "--block-seconds", type=plan.number(0.01, 3600), default=0.5, metavar="S", help="the ledger's pace (0.5)"
    )
    parser.add_argument("--alpha", type=plan.number(1e-9, 1e9), metavar="A", help=plan.ALPHA_HELP)
    parser.add_argument("--codec", type=plan.codec, default=CompressionConfig(), metavar="CODEC", help=plan.CODEC_HELP)
    parser.add_argument("--seed", type=int, default=0, help="of the model's initial weights (0)")
    parser.add_argument("--noise-miners", type=int, default=0, metavar="N", help=argparse.SUPPRESS)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def main(args: argparse.Namespace) -> int:
    directory = args.dir or Path(f"covenantd-swarm-{time.strftime('%Y%m%d-%H%M%S')}")
    options = SwarmOptions(
        directory=directory.absolute(),
        miners=args.miners,
        rounds=args.rounds,
        preset=args.preset,
        block_seconds=args.block_seconds,
        alpha=plan.alpha_of(args),
        compression=args.codec,
        seed=args.seed,
        noise_miners=min(args.noise_miners, args.miners),
        json=args.json,
    )
    try:
        return trio.run(_main, options)
    except* OSError as group:
        raise _trouble_with(options.directory, group) from None


def _trouble_with(directory: Path, group: BaseExceptionGroup[OSError]) -> Exception:
    """What an operator can mend, said so; anything else as it was."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OSError)
    where = str(error.filename or directory)
    if error.errno in NO_ROOM:
        return TryAgain(f"no room on disk for {where}: {error.strerror}; free space there, or name another --dir")
    if directory.is_relative_to(where) or Path(where).is_relative_to(directory):
        return ConfigError(f"{where}: {error.strerror}; name another --dir")
    return error


async def _main(options: SwarmOptions) -> int:
    interrupted = trio.Event()
    code = EXIT_FAILED
    async with trio.open_nursery() as nursery, stop_signals(nursery, interrupted.set):
        code = await _swarm(options)
    if interrupted.is_set():
        raise KeyboardInterrupt
    return code


async def _swarm(options: SwarmOptions) -> int:
    started = time.monotonic()
    options.directory.mkdir(parents=True, exist_ok=True)
    if any(options.directory.iterdir()):
        raise ConfigError(f"{options.directory} is not empty: name another --dir")
    with tempfile.TemporaryDirectory(prefix="covenantd-") as runtime, SwarmView(options.rounds) as view:
        summary, laid = await _run(options, Path(runtime), view, started)
    _tell(summary, [peer.name for peer in laid.workers], options.json)
    write(options.directory, summary)  # once it is told: a disk that is full now takes nothing away
    view.console.print(f"{options.directory}: summary.json, loss.svg, and a directory a daemon", style="dim")
    if not summary.certified_rounds:
        raise TryAgain(
            f"no round was certified, so the model has not moved; see {laid.validators[0].log}: what kept the "
            "validator from it? (a machine much busier than when the run was made can be too slow for it)"
        )
    return EXIT_OK if summary.state_hashes_equal else EXIT_FAILED


def _tell(summary: Summary, names: Sequence[str], as_json: bool) -> None:
    """The table on stdout; with --json on stderr, and the JSON is stdout's last line."""
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=_PIPE_WIDTH)
    console.print(summary_table(summary, names))
    if as_json:
        print(json.dumps(summary.as_dict()), flush=True)


async def _run(options: SwarmOptions, runtime: Path, view: SwarmView, started: float) -> tuple[Summary, LocalSwarm]:
    view.say("making the run: tokenizer, tokens, initial weights; measuring an inner step")
    made = await plan.genesis(options.directory / "genesis", options.preset, options.seed, _quiet)
    latest_start_seconds = max(_LATEST_START_SECONDS, _LATEST_START_FACTOR * (time.monotonic() - started))
    peers = make_peers(options, runtime)
    pace = plan.pace(
        made.inner_step_seconds,
        plan.Load(options.miners, 1, os.cpu_count() or 1),
        Scoring(),
        InnerConfig().batch_sequences,
    )
    round_blocks = plan.timing(pace, 1, options.block_seconds).blocks_per_round
    genesis = ledger_genesis(peers[1], peers[2], tempo_blocks=round_blocks)
    socket = runtime / "ledger.sock"
    async with running_ledger(options.directory / "ledger", socket, genesis, options.block_seconds, allow_advance=True):
        laid = await lay_out(options, runtime, f"unix://{socket}", made, pace, peers, latest_start_seconds)
        view.say(
            f"run {laid.spec.run_id[:16]}: {pace.inner_steps} inner steps a round, "
            f"{round_blocks * options.block_seconds:.0f} s a round; starting {len(laid.workers) + 1} daemons"
        )
        async with running_daemons(view.say) as daemons:
            await start(laid, daemons)
            await until_ready(laid, daemons, view)
            first = await watch(options, laid, daemons, view)
            rounds, weights = await daemons.rounds(), await weights_on_chain(laid, view)
            view.say("stopping")
        await laid.chain.aclose()
    seconds = time.monotonic() - started
    return summarise(laid.spec.run_id, laid.parameters, rounds, options.rounds, first, weights, seconds), laid


def _quiet(line: str) -> None:
    pass
