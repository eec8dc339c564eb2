"""A local swarm: laid out, started, watched to its end. `covenantd swarm` is in `covenantd.local`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from covenantd import plan, roster, runspec
from covenantd.agreement import persistently
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.protocol import Metagraph
from covenantd.errors import TryAgain
from covenantd.localdaemons import Daemons
from covenantd.localpeers import ANY_PORT, Ground, LocalPeer, make_peer, write_config
from covenantd.localview import SwarmView
from covenantd.runspec import RunSpec
from covenantd.status import Status
from model.config import CompressionConfig
from p2p.blobs import BlobStore

_POLL_SECONDS = 0.5
_BOOTSTRAP_SECONDS = 120.0
_HURRIED_BLOCKS = 100  # made in one go
_STALL_ROUNDS = 6  # without progress for as long as that many rounds, something is wrong
_WEIGHTS_SECONDS = 30.0


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
    chain: LedgerChain
    spec: RunSpec
    parameters: int
    bootstrap: LocalPeer
    miners: tuple[LocalPeer, ...]
    validators: tuple[LocalPeer, ...]

    @property
    def workers(self) -> tuple[LocalPeer, ...]:
        return (*self.miners, *self.validators)


def make_peers(options: SwarmOptions, runtime: Path) -> tuple[LocalPeer, tuple[LocalPeer, ...], tuple[LocalPeer, ...]]:
    def make(name: str, role: str, behavior: str = "honest") -> LocalPeer:
        return make_peer(options.directory, runtime, name, role, behavior)

    honest = options.miners - options.noise_miners
    miners = [make(f"miner-{i}", "miner", "honest" if i < honest else "noise") for i in range(options.miners)]
    return make("bootstrap", "bootstrap"), tuple(miners), (make("validator-0", "validator"),)


async def lay_out(
    options: SwarmOptions,
    runtime: Path,
    endpoint: str,
    made: plan.Genesis,
    pace: plan.Pace,
    peers: tuple[LocalPeer, tuple[LocalPeer, ...], tuple[LocalPeer, ...]],
    latest_start_seconds: float,
) -> LocalSwarm:
    """The run spec. The bootstrap peer alone gets the run's blobs: everybody else fetches them."""
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
    when = plan.timing(pace, head.number + round(latest_start_seconds / options.block_seconds), options.block_seconds)
    spec = plan.compose(made, blobs, wishes, pace, when, origin.hash)
    runspec.write(options.directory / plan.SPEC, spec, bootstrap.hotkey)
    threads = max(1, (os.cpu_count() or 1) // (len(miners) + len(validators)))
    ground = Ground(options.directory, runtime, options.directory / plan.SPEC, seed, endpoint, threads)
    return LocalSwarm(ground, chain, spec, int(made.data["parameters"]), bootstrap, miners, validators)


async def start(laid: LocalSwarm, daemons: Daemons) -> None:
    """The bootstrap peer first: it takes any free port and keeps it, should it have to be started again."""
    write_config(laid.bootstrap, laid.ground, ANY_PORT, ())
    daemons.start(laid.bootstrap)
    dial = await _address(laid.bootstrap, daemons)
    write_config(laid.bootstrap, laid.ground, dial.partition("/p2p/")[0], ())
    for peer in laid.workers:
        write_config(peer, laid.ground, ANY_PORT, (dial,))
    daemons.start(*laid.workers)


async def _address(peer: LocalPeer, daemons: Daemons) -> str:
    with trio.move_on_after(_BOOTSTRAP_SECONDS):
        while True:
            status = (await daemons.look())[peer.name]
            if status is not None and status.addresses:
                return status.addresses[0]
            await trio.sleep(_POLL_SECONDS / 5)
    raise TryAgain(f"{peer.name} does not come up; its log: {peer.log}")


async def until_ready(laid: LocalSwarm, daemons: Daemons, view: SwarmView) -> None:
    """Then the ledger is hurried on to round 0, for which a slow machine would else be late, and a fast one wait."""
    last = laid.spec.timing.start_block - 1
    while (head := (await laid.chain.block()).number) < last:
        statuses = await daemons.look()
        view.show(statuses)
        if all(_is_ready(statuses[peer.name]) for peer in laid.workers):
            enrolled = roster.certifiers(await laid.chain.metagraph(head))
            if all(peer.hotkey.hotkey in enrolled for peer in laid.validators):
                await laid.chain.advance(min(last - head, _HURRIED_BLOCKS))
                continue
        await trio.sleep(_POLL_SECONDS)


def _is_ready(status: Status | None) -> bool:
    """It has the state and knows somebody."""
    return (
        status is not None and status.state == "waiting" and status.engine == "ready" and bool(status.connected_peers)
    )


async def watch(options: SwarmOptions, laid: LocalSwarm, daemons: Daemons, view: SwarmView) -> float | None:
    """Until every worker holds θ of the last round; returns the held-out loss of θ_0. Raises TryAgain when a daemon
    cannot be kept running or nothing moves."""
    timing = laid.spec.timing
    patience = _STALL_ROUNDS * timing.blocks_per_round * timing.block_seconds + 60
    progress_at, done, heldout_first = trio.current_time(), -1, None
    while True:
        statuses = await daemons.look()
        view.show(statuses)
        validator = statuses[laid.validators[0].name]
        if heldout_first is None and validator and validator.state_hash == laid.spec.genesis_state:
            heldout_first = validator.heldout_loss
        held = [statuses[peer.name] for peer in laid.workers]
        now_done = min((status.round or 0) if status else 0 for status in held)
        if now_done >= options.rounds:
            return heldout_first
        if now_done > done:
            progress_at, done = trio.current_time(), now_done
        elif trio.current_time() > progress_at + patience:
            raise TryAgain(f"no round was finished for {patience:.0f} s; logs: {laid.ground.directory}/*/daemon.log")
        await trio.sleep(_POLL_SECONDS)


async def weights_on_chain(laid: LocalSwarm, view: SwarmView) -> dict[str, float]:
    """What the validator has set on chain, as shares; miners that it gave nothing show 0."""

    async def read() -> Metagraph:
        return await laid.chain.metagraph((await laid.chain.block()).number)

    with trio.move_on_after(_WEIGHTS_SECONDS):
        metagraph = await persistently(read, "the weights")
        return shares(metagraph, laid.validators[0].hotkey.hotkey, [p.hotkey.hotkey for p in laid.miners])
    view.say(f"the ledger does not tell the weights: see {laid.ground.directory}/ledger/ledger.log")
    return {}


def shares(metagraph: Metagraph, validator: str, miners: Sequence[str]) -> dict[str, float]:
    neuron = metagraph.neuron(validator)
    row = metagraph.weights.get(neuron.uid, {}) if neuron else {}
    total = sum(row.values())
    uids = [n.uid for n in metagraph.neurons if n.hotkey in miners]
    return {str(uid): row.get(uid, 0) / total for uid in uids} if total else {}
