"""A swarm of real daemons on a real ledger whose blocks the test makes: nothing waits for wall time, nothing hurries.

Every wait is for something a daemon or the chain shows, and has a deadline; blocks are made only as far as the
waiting allows, so a slow machine makes a test slow, never wrong.
"""

import json
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from covenantd import plan, roster, runspec
from covenantd.chain.ledger.client import LedgerChain
from covenantd.controlclient import open_control
from covenantd.controlwire import ControlError
from covenantd.localpeers import (
    ANY_PORT,
    Ground,
    LocalPeer,
    ledger_genesis,
    make_peer,
    running_ledger,
    start_daemon,
    write_config,
)
from covenantd.runspec import RunSpec
from covenantd.status import RoundSummary, Status
from covenantd.timing import Timing
from p2p.blobs import BlobStore
from p2p.child import Child
from p2p.identity import ensure_identity

TIMING = Timing(
    start_block=40,
    blocks_per_round=400,
    seal_blocks=100,
    commit_blocks=120,
    vote_blocks=300,
    block_seconds=0.1,
    proposal_blocks=20,
)
WAIT_SECONDS = 90.0
_LOOK_SECONDS = 0.1


@dataclass
class Arena:
    directory: Path
    runtime: Path
    ground: Ground
    spec: RunSpec
    chain: LedgerChain
    bootstrap_dial: str
    peers: dict[str, LocalPeer]
    ledger: Child
    children: dict[str, Child] = field(default_factory=dict)

    # Daemons

    @property
    def validators(self) -> tuple[str, ...]:
        return tuple(name for name, peer in self.peers.items() if peer.role == "validator")

    def start(self, *names: str) -> None:
        for name in names or tuple(self.peers):
            self.children[name] = start_daemon(self.peers[name])

    async def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end of it."""
        child = self.children.pop(name)
        child.send_signal(number)
        with trio.fail_after(20):
            await child.wait()

    def signal(self, name: str, number: int) -> None:
        self.children[name].send_signal(number)

    def add(self, name: str, role: str = "miner", behavior: str = "honest", **ground: Any) -> LocalPeer:
        """A new peer that knows only the bootstrap address and the run spec."""
        peer = make_peer(self.directory, self.runtime, name, role, behavior)
        self.configure(peer, **ground)
        self.peers[name] = peer
        return peer

    def configure(self, peer: LocalPeer, **ground: Any) -> None:
        write_config(peer, replace(self.ground, **ground), ANY_PORT, (self.bootstrap_dial,))

    async def register(self, peer: LocalPeer) -> None:
        """Give a new hotkey its uid, as its owner would."""
        chain = LedgerChain(self.ground.ledger_endpoint, self.spec.chain.netuid, peer.hotkey)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chain.register)
                while peer.hotkey.hotkey not in await self._registered():
                    await self._tick(self.spec.timing.start_block + 10**6)
        finally:
            await chain.aclose()

    async def _certifiers(self) -> dict[str, int]:
        return roster.certifiers(await self.chain.metagraph((await self.chain.block()).number))

    async def _registered(self) -> set[str]:
        return {n.hotkey for n in (await self.chain.metagraph((await self.chain.block()).number)).neurons}

    async def call(self, name: str, verb: str, **args: Any) -> Any:
        async with open_control(self.peers[name].control_socket, 10) as control:
            return await control.call(verb, args, timeout_seconds=30)

    async def status(self, name: str) -> Status | None:
        """None while it does not answer."""
        try:
            async with open_control(self.peers[name].control_socket, 5) as control:
                return await control.status()
        except ControlError:
            return None

    async def rounds(self, name: str) -> dict[int, RoundSummary]:
        answer = await self.call(name, "rounds")
        return {one["round"]: RoundSummary.from_dict(one) for one in answer["rounds"]}

    def log(self, name: str) -> str:
        log = self.peers[name].log
        return log.read_text(errors="replace") if log.exists() else ""

    def logged(self, name: str, event: str) -> list[dict[str, Any]]:
        """Its log lines of that event, as they are read."""
        lines = [line for line in self.log(name).splitlines() if line.startswith("{")]
        return [found for line in lines if (found := json.loads(line))["event"] == event]

    # Waiting

    async def until(
        self, holds: Callable[[Mapping[str, Status]], bool], *names: str, what: str, last_block: int = 0
    ) -> None:
        """Wait until `holds(statuses of names)`, making blocks up to `last_block` meanwhile."""
        statuses: dict[str, Status] = {}
        with trio.move_on_after(WAIT_SECONDS):
            while True:
                found = {name: await self.status(name) for name in names}
                statuses = {name: status for name, status in found.items() if status is not None}
                if len(statuses) == len(names) and holds(statuses):
                    return
                await self._tick(last_block)
        shown = {n: (s.state, s.phase, s.round, s.block, s.commits, s.last_error) for n, s in statuses.items()}
        tails = {n: self.log(n).splitlines()[-6:] for n in names if self.peers[n].log.exists()}
        raise AssertionError(f"waited {WAIT_SECONDS:.0f} s in vain for {what}: {shown}\n{tails}")

    async def _tick(self, last_block: int) -> None:
        if last_block and (await self.chain.block()).number < last_block:
            await self.chain.advance(1)
        await trio.sleep(_LOOK_SECONDS)

    async def advance_to(self, block: int) -> None:
        missing = block - (await self.chain.block()).number
        if missing > 0:
            await self.chain.advance(missing)

    # Rounds

    async def ready(self, *names: str) -> None:
        """All daemons are up, have the state, see each other, and the validators have enrolled."""
        start = self.spec.timing.start_block
        await self.advance_to(1)
        await self.until(
            lambda s: all(x.state != "syncing" and x.engine == "ready" and x.connected_peers for x in s.values()),
            *names,
            what="daemons ready",
        )
        with trio.fail_after(WAIT_SECONDS):
            while len(await self._certifiers()) < len([n for n in names if n in self.validators]):
                await self._tick(start - 1)

    async def train(self, round: int, miners: tuple[str, ...], validators: tuple[str, ...] = ("validator-0",)) -> None:
        """From b_r until every named miner has committed to every named validator."""
        timing = self.spec.timing
        await self.advance_to(timing.start(round))
        await self.until(
            lambda s: all(x.round == round and x.phase == "commit" for x in s.values()), *miners, what="commits"
        )
        if validators:
            await self.until(
                lambda s: all(x.commits >= len(miners) and x.contributions_round == round for x in s.values()),
                *validators,
                what="receipts",
            )

    async def certify(self, round: int) -> None:
        """From C_r until a quorum's votes for one roster are on chain."""
        timing = self.spec.timing
        await self.advance_to(timing.serve(round))
        at_start = await self.chain.metagraph(timing.start(round))
        with trio.fail_after(WAIT_SECONDS):
            while True:
                head = (await self.chain.block()).number
                if roster.decide(at_start, await self.chain.metagraph(head), self.spec.tag, round):
                    return
                assert head < timing.vote(round) - 1, {n: self.log(n)[-1500:] for n in self.validators}
                await self._tick(timing.vote(round) - 1)

    async def finish(self, round: int, *names: str) -> None:
        """From V_r until all hold θ_{round + 1}."""
        await self.advance_to(self.spec.timing.vote(round))
        await self.until(
            lambda s: all((x.round or 0) > round for x in s.values()), *names, what=f"round {round} to finish"
        )

    async def play(self, round: int, miners: tuple[str, ...], validators: tuple[str, ...] = ("validator-0",)) -> None:
        await self.train(round, miners, validators)
        await self.certify(round)
        await self.finish(round, *miners, *validators)

    async def state_hashes(self, round: int, *names: str) -> dict[str, str]:
        return {name: (await self.rounds(name))[round].state_hash for name in names}


OpenArena = Callable[..., AbstractAsyncContextManager[Arena]]


@asynccontextmanager
async def open_arena(
    directory: Path,
    runtime: Path,
    made: plan.Genesis,
    miners: int = 2,
    validators: int = 1,
    timing: Timing = TIMING,
    inner_steps: int = 2,
    behaviors: Mapping[str, str] | None = None,
    **ground: Any,
) -> AsyncIterator[Arena]:
    """Everything laid out and the ledger running; no daemon started yet. All daemons are gone afterwards."""
    behaviors = behaviors or {}
    names = [f"miner-{i}" for i in range(miners)]
    peers = {name: make_peer(directory, runtime, name, "miner", behaviors.get(name, "honest")) for name in names}
    judges = [f"validator-{i}" for i in range(validators)]
    peers |= {name: make_peer(directory, runtime, name, "validator") for name in judges}
    peers["bootstrap"] = make_peer(directory, runtime, "bootstrap", "bootstrap")
    genesis = ledger_genesis([peers[name] for name in names], [peers[name] for name in judges], tempo_blocks=100)
    socket = runtime / "ledger.sock"
    async with running_ledger(directory / "ledger", socket, genesis, 0, allow_advance=True) as ledger:
        chain = LedgerChain(f"unix://{socket}", 1)
        spec = await _spec(directory, made, chain, timing, inner_steps, peers["bootstrap"])
        shared = Ground(
            directory,
            runtime,
            directory / plan.SPEC,
            directory / plan.BLOBS,
            f"unix://{socket}",
            threads=1,
            faults=True,
        )
        shared = replace(shared, **ground)
        listen, dial = _bootstrap_address(peers["bootstrap"])
        write_config(peers["bootstrap"], shared, listen, ())
        arena = Arena(directory, runtime, shared, spec, chain, dial, peers, ledger)
        for name in (*names, *judges):
            arena.configure(peers[name])
        try:
            yield arena
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for child in arena.children.values():
                        child.send_signal(signal.SIGCONT)
                        nursery.start_soon(child.stop, 10.0)
                await chain.aclose()


async def _spec(
    directory: Path, made: plan.Genesis, chain: LedgerChain, timing: Timing, inner_steps: int, owner: LocalPeer
) -> RunSpec:
    store = BlobStore(directory / plan.BLOBS)
    wishes = plan.Wishes("arena", 64 << 10, 2.0, 20, 1, owner.hotkey.hotkey)
    blobs = plan.adopt(made, store, wishes.piece_bytes, keep=True)
    pace = plan.Pace(inner_steps, 1, 1, 1, 1)
    spec = plan.compose(made, blobs, wishes, pace, timing, (await chain.block(0)).hash)
    runspec.write(directory / plan.SPEC, spec, owner.hotkey)
    return spec


def _bootstrap_address(peer: LocalPeer) -> tuple[str, str]:
    """(listen, dial): a free loopback port and the multiaddr others use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"/ip4/127.0.0.1/tcp/{probe.getsockname()[1]}"
    state = peer.directory / "state"
    state.mkdir(exist_ok=True)
    return listen, f"{listen}/p2p/{ensure_identity(state / 'p2p-identity.key')}"
