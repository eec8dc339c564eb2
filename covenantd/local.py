"""`covenantd swarm`: a whole swarm on this machine, from nothing to a trained model and the proof that all agree."""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from covenantd import plan, runspec
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.protocol import Metagraph
from covenantd.controlclient import open_control
from covenantd.controlwire import ControlError
from covenantd.errors import EXIT_FAILED, EXIT_OK, ConfigError, TryAgain
from covenantd.localpeers import (
    PEER_GRACE_SECONDS,
    Ground,
    LocalPeer,
    bootstrap_address,
    last_line,
    ledger_genesis,
    make_peer,
    running_ledger,
    start_daemon,
    write_config,
)
from covenantd.localview import SwarmView, summary_table
from covenantd.runspec import RunSpec, Scoring
from covenantd.status import RoundSummary, Status
from covenantd.stopping import stop_signals
from covenantd.summary import Summary, summarise, write
from model.config import CompressionConfig, InnerConfig
from p2p.blobs import BlobStore
from p2p.child import Child

_POLL_SECONDS = 0.5
_START_FACTOR = 2.0  # daemons take about twice as long to come up as making the run took
_LEAST_START_SECONDS = 8.0
_STALL_ROUNDS = 6  # without progress for as long as that many rounds, something is wrong


@dataclass(frozen=True)
class SwarmOptions:
    directory: Path
    miners: int
    rounds: int
    preset: str
    block_seconds: float
    alpha: float
    seed: int
    noise_miners: int = 0
    compression: CompressionConfig = CompressionConfig()
    json: bool = False


@dataclass(frozen=True)
class LocalSwarm:
    """The swarm as it was laid out, before its daemons run."""

    ground: Ground
    spec: RunSpec
    parameters: int
    bootstrap: LocalPeer
    miners: tuple[LocalPeer, ...]
    validators: tuple[LocalPeer, ...]

    @property
    def workers(self) -> tuple[LocalPeer, ...]:
        return (*self.miners, *self.validators)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--miners", type=_positive, default=3, metavar="N", help="miners (3)")
    parser.add_argument("--rounds", type=_positive, default=8, metavar="N", help="rounds (8)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="run directory (./covenantd-swarm-TIME)")
    parser.add_argument("--json", action="store_true", help="print summary.json as one line, the last on stdout")
    parser.add_argument("--preset", default="nano", help="model preset (nano)")
    parser.add_argument(
        "--block-seconds", type=plan.number(0.01, 3600), default=0.5, metavar="S", help="the ledger's pace (0.5)"
    )
    parser.add_argument("--alpha", type=plan.number(1e-9, 1e9), default=2.0, help="outer learning rate (2.0)")
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
        alpha=args.alpha,
        compression=args.codec,
        seed=args.seed,
        noise_miners=min(args.noise_miners, args.miners),
        json=args.json,
    )
    return trio.run(_main, options)


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
    if options.directory.exists() and any(options.directory.iterdir()):
        raise ConfigError(f"{options.directory} is not empty: name another --dir")
    with tempfile.TemporaryDirectory(prefix="covenantd-") as runtime, SwarmView(options.rounds) as view:
        summary, laid = await _run(options, Path(runtime), view, started)
    view.console.print(summary_table(summary, [peer.name for peer in laid.workers]))
    view.console.print(f"{options.directory}: summary.json, loss.svg, and a directory a daemon", style="dim")
    if options.json:
        print(json.dumps(summary.as_dict()), flush=True)
    return EXIT_OK if summary.state_hashes_equal else EXIT_FAILED


async def _run(options: SwarmOptions, runtime: Path, view: SwarmView, started: float) -> tuple[Summary, LocalSwarm]:
    options.directory.mkdir(parents=True, exist_ok=True)
    view.say("making the run: tokenizer, tokens, initial weights; measuring an inner step")
    made = await plan.genesis(options.directory / "genesis", options.preset, options.seed, _quiet)
    making_seconds = time.monotonic() - started
    peers = _make_peers(options, runtime)
    pace = plan.pace(
        made.inner_step_seconds,
        plan.Load(options.miners, 1, os.cpu_count() or 1),
        Scoring(),
        InnerConfig().batch_sequences,
    )
    blocks_per_round = plan.timing(pace, 1, options.block_seconds).blocks_per_round
    genesis = ledger_genesis(peers[1], peers[2], tempo_blocks=blocks_per_round)
    ledger_socket = runtime / "ledger.sock"
    async with running_ledger(options.directory / "ledger", ledger_socket, genesis, options.block_seconds):
        endpoint = f"unix://{ledger_socket}"
        start_seconds = max(_LEAST_START_SECONDS, _START_FACTOR * making_seconds)
        laid = await _lay_out(options, runtime, endpoint, made, pace, peers, start_seconds)
        view.say(
            f"run {laid.spec.run_id[:16]}: {pace.inner_steps} inner steps a round, "
            f"{blocks_per_round * options.block_seconds:.0f} s a round; starting {len(laid.workers) + 1} daemons"
        )
        async with AsyncExitStack() as stack:
            children = {peer.name: start_daemon(peer) for peer in (laid.bootstrap, *laid.workers)}
            stack.push_async_callback(_stop_all, list(children.values()))
            statuses, first = await _watch(options, laid, children, view)
            rounds = {peer.name: await _rounds_of(peer) for peer in laid.workers}
            weights = await _weights(endpoint, laid)
            view.say("stopping")
    seconds = time.monotonic() - started
    summary = summarise(laid.spec.run_id, laid.parameters, rounds, options.rounds, first, weights, seconds)
    write(options.directory, summary)
    return summary, laid


def _quiet(line: str) -> None:
    pass


def _make_peers(options: SwarmOptions, runtime: Path) -> tuple[LocalPeer, tuple[LocalPeer, ...], tuple[LocalPeer, ...]]:
    def make(name: str, role: str, behavior: str = "honest") -> LocalPeer:
        return make_peer(options.directory, runtime, name, role, behavior)

    honest = options.miners - options.noise_miners
    miners = [make(f"miner-{i}", "miner", "honest" if i < honest else "noise") for i in range(options.miners)]
    return make("bootstrap", "bootstrap"), tuple(miners), (make("validator-0", "validator"),)


async def _lay_out(
    options: SwarmOptions,
    runtime: Path,
    endpoint: str,
    made: plan.Genesis,
    pace: plan.Pace,
    peers: tuple[LocalPeer, tuple[LocalPeer, ...], tuple[LocalPeer, ...]],
    start_seconds: float,
) -> LocalSwarm:
    """Run spec and configs. The bootstrap peer alone gets the run's blobs: everybody else fetches them."""
    bootstrap, miners, validators = peers
    seed = options.directory / plan.BLOBS
    wishes = plan.Wishes(
        name=f"local-{options.preset}",
        piece_bytes=64 << 10,
        alpha=options.alpha,
        roster_size=max(20, options.miners),
        netuid=1,
        owner=bootstrap.hotkey.hotkey,
        compression=options.compression,
    )
    blobs = plan.adopt(made, BlobStore(seed), wishes.piece_bytes)
    chain = LedgerChain(endpoint, wishes.netuid)
    origin, head = await chain.block(0), await chain.block()
    await chain.aclose()
    when = plan.timing(pace, head.number + round(start_seconds / options.block_seconds), options.block_seconds)
    spec = plan.compose(made, blobs, wishes, pace, when, origin.hash)
    runspec.write(options.directory / plan.SPEC, spec, bootstrap.hotkey)
    threads = max(1, (os.cpu_count() or 1) // (len(miners) + len(validators)))
    ground = Ground(options.directory, runtime, options.directory / plan.SPEC, seed, endpoint, threads)
    listen, dial = bootstrap_address(bootstrap)
    write_config(bootstrap, ground, listen, ())
    for peer in (*miners, *validators):
        write_config(peer, ground, "/ip4/127.0.0.1/tcp/0", (dial,))
    return LocalSwarm(ground, spec, int(made.data["parameters"]), bootstrap, miners, validators)


async def _watch(
    options: SwarmOptions, laid: LocalSwarm, children: Mapping[str, Child], view: SwarmView
) -> tuple[dict[str, Status | None], float | None]:
    """Until every worker holds θ of the last round. Raises TryAgain when a daemon dies or nothing moves."""
    timing = laid.spec.timing
    patience = _STALL_ROUNDS * timing.blocks_per_round * timing.block_seconds + 60
    progress_at, done, heldout_first = trio.current_time(), -1, None
    while True:
        statuses = await _poll(laid)
        view.show(statuses)
        _check_alive(laid, children)
        now_done = min((s.round or 0) if s else 0 for name, s in statuses.items() if name != laid.bootstrap.name)
        validator = statuses[laid.validators[0].name]
        if heldout_first is None and validator and (validator.round or 0) == 0:
            heldout_first = validator.heldout_loss
        if now_done >= options.rounds:
            return statuses, heldout_first
        if now_done > done:
            progress_at, done = trio.current_time(), now_done
        elif trio.current_time() > progress_at + patience:
            raise TryAgain(f"no round was finished for {patience:.0f} s; logs: {laid.ground.directory}/*/daemon.log")
        await trio.sleep(_POLL_SECONDS)


async def _poll(laid: LocalSwarm) -> dict[str, Status | None]:
    statuses: dict[str, Status | None] = {peer.name: None for peer in (laid.bootstrap, *laid.workers)}

    async def ask(peer: LocalPeer) -> None:
        try:
            async with open_control(peer.control_socket, 5) as control:
                statuses[peer.name] = await control.status()
        except ControlError:
            pass  # not up yet, or too busy to answer: its row says "starting"; a dead one is found by its exit

    async with trio.open_nursery() as nursery:
        for peer in (laid.bootstrap, *laid.workers):
            nursery.start_soon(ask, peer)
    return statuses


def _check_alive(laid: LocalSwarm, children: Mapping[str, Child]) -> None:
    for peer in (laid.bootstrap, *laid.workers):
        returncode = children[peer.name].returncode
        if returncode is not None:
            raise TryAgain(f"{peer.name} ended with {returncode}: {last_line(peer.log)}; its log: {peer.log}")


async def _rounds_of(peer: LocalPeer) -> list[RoundSummary]:
    async with open_control(peer.control_socket, 5) as control:
        answer: Any = await control.call("rounds")
    return [RoundSummary.from_dict(one) for one in answer["rounds"]]


async def _weights(endpoint: str, laid: LocalSwarm) -> dict[str, float]:
    """What the validator has set on chain, as shares; miners that it gave nothing show 0."""
    chain = LedgerChain(endpoint, laid.spec.chain.netuid)
    metagraph = await chain.metagraph((await chain.block()).number)
    await chain.aclose()
    return shares(metagraph, laid.validators[0].hotkey.hotkey, [p.hotkey.hotkey for p in laid.miners])


def shares(metagraph: Metagraph, validator: str, miners: Sequence[str]) -> dict[str, float]:
    neuron = metagraph.neuron(validator)
    row = metagraph.weights.get(neuron.uid, {}) if neuron else {}
    total = sum(row.values())
    uids = [n.uid for n in metagraph.neurons if n.hotkey in miners]
    return {str(uid): row.get(uid, 0) / total for uid in uids} if total else {}


async def _stop_all(children: Sequence[Child]) -> None:
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            for child in children:
                nursery.start_soon(child.stop, PEER_GRACE_SECONDS)
