"""The composition root: the only place that builds adapters and wires them together.

A miner or validator is a p2pd, a DHT node, an exchange, an engine and a coordinator. A bootstrap peer is the first
three alone: it introduces peers to each other and serves the blobs it holds.
"""

import fcntl
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import structlog
import trio

from covenantd import __version__, logs, opinions, runspec, statedirectory
from covenantd.addresses import multiaddr_host_port
from covenantd.admission import Admission
from covenantd.agreement import Agreement, persistently
from covenantd.board import StatusBoard
from covenantd.certifier import Certifier
from covenantd.chain.bittensor.endpoint import shown
from covenantd.chain.keys import Hotkey, load_hotkey, verify
from covenantd.chain.opening import open_chain
from covenantd.chain.protocol import Chain
from covenantd.chain.wallet import refuse_bare_coldkey
from covenantd.config import ChainConfig, Config
from covenantd.coordinator import Coordinator
from covenantd.counted import CountedChain, CountedRecords, CountedTransport
from covenantd.engine import EngineSettings
from covenantd.engineslot import EngineSlot
from covenantd.enrol import keep_identity
from covenantd.errors import EXIT_OK, ConfigError, TryAgain
from covenantd.heads import Heads
from covenantd.health import Health
from covenantd.journal import Journal
from covenantd.metrics import Metrics
from covenantd.node import Node
from covenantd.operate import Operations, operate
from covenantd.rates import parse_rate
from covenantd.reach import Reach
from covenantd.refusal import is_refusal, refusal, user_name
from covenantd.roundlog import keep_rounds
from covenantd.runspec import RunSpec
from covenantd.scores import Scores
from covenantd.secondopinion import compare
from covenantd.specchange import SpecHistory
from covenantd.status import Status
from covenantd.stopping import stop_signals
from covenantd.traffic import Traffic
from covenantd.weights import WeightSetter
from p2p._p2pd import P2pdSettings, open_p2pd
from p2p.blobs import BlobStore
from p2p.dht import open_dht
from p2p.errors import NO_ROOM, BlobError, IdentityError, PortInUse, TransportDied
from p2p.exchange import Exchange
from p2p.identity import ensure_identity
from p2p.peerbook import HINTS
from p2p.peercache import PeerCache
from p2p.published import place_by_signature
from p2p.swarm import VIOLATION, Swarm, SwarmSettings

log = structlog.get_logger("covenantd.daemon")
ENGINE_SOCKET = "engine.sock"
HIDDEN_WEIGHTS = "weights.json"
_MAX_SOCKET_PATH_BYTES = 107  # sun_path holds 108 with its final zero


def main(config: Config) -> int:
    """Run until a signal, a drain or an error. Raises CovenantError with the exit code that fits."""
    logs.configure(config.node.log_level, config.node.log_format)
    try:
        return trio.run(_main, config)
    except* (PortInUse, IdentityError) as group:
        raise ConfigError(str(_first(group))) from None
    except* (TransportDied, BlobError) as group:
        first = _first(group)
        if isinstance(first.__cause__, OSError) and is_refusal(first.__cause__):
            raise refusal(first.__cause__) from None
        raise TryAgain(str(first)) from None
    except* OSError as group:
        first = _first(group)
        if not isinstance(first, OSError) or first.errno not in NO_ROOM:
            raise
        raise TryAgain(
            f"no room on disk for {first.filename or 'a file'}: {first.strerror}; free space there"
        ) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _main(config: Config) -> int:
    spec = runspec.read(config.run.spec, verify)
    hotkey = load_hotkey(config.identity.hotkey)
    refuse_bare_coldkey(config.identity.hotkey, config.identity.allow_coldkey)
    _make_directories(config)
    with _only_one(config.node.state_directory):
        statedirectory.claim(config.node.state_directory)
        _clear_staging(config.node.state_directory / "staging")
        async with trio.open_nursery() as nursery, stop_signals(nursery):
            await _run(config, spec, hotkey)
    return EXIT_OK


def _make_directories(config: Config) -> None:
    if len(os.fsencode(config.node.runtime_directory.absolute() / ENGINE_SOCKET)) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"[node] runtime_directory {config.node.runtime_directory}: too long for a socket's path, at most "
            f"{_MAX_SOCKET_PATH_BYTES - len(ENGINE_SOCKET) - 1} bytes; use a shorter one, e.g. below /run"
        )
    try:
        for directory in (config.node.state_directory, config.node.runtime_directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        for name in ("engine", "staging"):
            (config.node.state_directory / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        if not is_refusal(error):
            raise
        raise refusal(error, "run as that user, or change [node]") from error


def _clear_staging(staging: Path) -> None:
    """What a crash left half-made: nothing refers to it, whatever counts was adopted by the blob store."""
    for path in staging.iterdir():
        path.unlink()


@contextmanager
def _only_one(state_directory: Path) -> Iterator[IO[bytes]]:
    """Two daemons on one state directory would undo each other's work."""
    try:
        lock = (state_directory / "lock").open("wb")
    except PermissionError as error:
        ours = user_name(os.geteuid())
        raise refusal(error, f"if covenantd once ran as another user: chown -R {ours}: {state_directory}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{state_directory}: another covenantd works here; stop it first") from error
        yield lock


async def _run(config: Config, spec: RunSpec, hotkey: Hotkey) -> None:
    metrics, health = Metrics(), Health()
    blobs = BlobStore(config.node.state_directory / "blobs")
    await trio.to_thread.run_sync(_adopt_seed, config.run.seed, blobs, spec)
    admission = Admission()
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(open_p2pd(_p2pd_settings(config)))
        dht = await stack.enter_async_context(open_dht(transport, place_by_signature(spec.run_id, verify)))
        swarm = Swarm(
            CountedTransport(transport, metrics),
            CountedRecords(dht, metrics),
            hotkey,
            verify,
            SwarmSettings(spec.run_id, config.node.role, config.network.bootstrap),
            on_rejected=lambda reason: metrics.count_rejection(reason if reason == VIOLATION else f"record-{reason}"),
            cache=PeerCache(config.node.state_directory / "peers.json"),
        )
        swarm.admit = admission
        swarm.candidates = lambda: admission.addresses
        dht.admit = lambda author: admission(author) or author == hotkey.hotkey  # also unregistered, we keep our own
        swarm.reputation.on_ban = lambda peer, reason: metrics.peer_disconnects.labels("banned").inc()
        traffic = Traffic(spec, metrics)
        exchange = _exchange(swarm, blobs, metrics, traffic)
        exchange.set_limits(parse_rate(config.network.uplink), parse_rate(config.network.downlink))
        transport.admit = swarm.knows
        swarm.own_hints = lambda: dict(zip(HINTS, map(int, exchange.best_rates), strict=True))
        board = StatusBoard(_first_status(config, spec, hotkey, swarm))
        keep_rounds(board, config.node.state_directory)
        opened = open_chain(config.chain, spec.chain.netuid, hotkey, config.node.state_directory / HIDDEN_WEIGHTS)
        stack.push_async_callback(opened.aclose)
        chain = CountedChain(opened, metrics)
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(admission.follow, chain, spec.timing.block_seconds)
        reach = Reach(swarm, spec.protocol("reach"), transport.seen_at)
        await reach.serve()
        operations = Operations(config, board, metrics, health, swarm, exchange, reach)
        if config.node.role == "bootstrap":
            await exchange.start(nursery)
            await nursery.start(swarm.run)
            await operate(operations, {}, None)
        else:
            await _work(nursery, _compose(operations, spec, hotkey, chain, blobs, traffic), operations)
        nursery.cancel_scope.cancel()


def _exchange(swarm: Swarm, blobs: BlobStore, metrics: Metrics, traffic: Traffic) -> Exchange:
    exchange = Exchange(swarm.transport, blobs, reputation=swarm.reputation)
    exchange.admit = swarm.knows
    exchange.priority_of = traffic.priority_of
    exchange.uplink_of = lambda peer_id: peer.up if (peer := swarm.by_peer_id(peer_id)) is not None else 0.0
    exchange.on_bytes = lambda way, peer, blob_id, count: traffic.count(way, blob_id, count)
    exchange.on_violation = lambda peer, reason: metrics.count_rejection("exchange")
    exchange.on_corrupt = lambda blob_id: log.error("a blob on disk is damaged; it is not served", blob_id=blob_id)
    return exchange


def _compose(
    parts: Operations, spec: RunSpec, hotkey: Hotkey, chain: Chain, blobs: BlobStore, traffic: Traffic
) -> Node:
    config = parts.config
    state = config.node.state_directory
    engine = EngineSettings(
        socket=config.node.runtime_directory / ENGINE_SOCKET,
        allow_faults=config.testing.faults,
        log_file=state / "engine.log",
    )
    return Node(
        config=config,
        spec=spec,
        history=SpecHistory(spec),
        hotkey=hotkey,
        chain=chain,
        agreement=Agreement(chain, spec),
        swarm=parts.swarm,
        exchange=parts.exchange,
        blobs=blobs,
        engine=EngineSlot(engine),
        journal=Journal(state / "journal.json", spec.run_id, spec.genesis_state),
        heads=Heads(),
        board=parts.board,
        metrics=parts.metrics,
        traffic=traffic,
        commitment=trio.Lock(),
        staging=state / "staging",
    )


async def _work(nursery: trio.Nursery, node: Node, operations: Operations) -> None:
    node.traffic.is_control(node.journal.memory.changes)
    for past in node.journal.memory.past:
        node.traffic.is_state(past.state_hash)
        node.traffic.is_control((past.digest,) if past.digest else ())
        node.traffic.is_past(past.blobs)
    sealed = node.journal.memory.sealed
    if sealed is not None and sealed.round >= node.journal.memory.round:
        node.exchange.withhold(sealed.blob_id)  # commits of its round may still be open
    await node.exchange.start(nursery)
    await nursery.start(node.swarm.run)
    nursery.start_soon(node.engine.run)
    scores = Scores(node, node.config.node.state_directory / "scores.json") if node.validates else None
    certifier = Certifier(node, scores) if scores else None
    if certifier is not None:
        await certifier.serve()
    if scores is not None:
        await opinions.serve(node, scores)
    coordinator = Coordinator(node, certifier)
    orders: dict[str, Callable[[], Awaitable[None]]] = {
        "pause": lambda: coordinator.pause(True),
        "resume": lambda: coordinator.pause(False),
        "drain": coordinator.drain,
    }
    async with trio.open_nursery() as inner:
        inner.start_soon(operate, operations, orders, node)
        if await coordinator.unless_draining(lambda: _check_chain(node)):
            inner.start_soon(keep_identity, node)
            if scores is not None:
                inner.start_soon(WeightSetter(node, scores).run)
            await coordinator.run()
        log.info("drained", round=node.journal.memory.round)
        inner.cancel_scope.cancel()


async def _check_chain(node: Node) -> None:
    """Raises ConfigError when this is not the chain the run was made for."""
    origin = await persistently(lambda: node.chain.block(0), "block 0")
    if origin.hash != node.spec.chain.genesis:
        raise ConfigError(
            f"chain {shown(node.config.chain.endpoint)} begins with block {origin.hash[:16]}, the run spec wants "
            f"{node.spec.chain.genesis[:16]}: set [chain] endpoint to the run's chain"
        )
    if node.config.chain.second and not node.journal.memory.past:  # only a joiner could be shown a chain of its own
        await _compare_endpoints(node, node.config.chain)


async def _compare_endpoints(node: Node, settings: ChainConfig) -> None:
    second = open_chain(replace(settings, endpoint=settings.second), node.spec.chain.netuid)
    try:
        await compare(node.chain, second, *(shown(one) for one in (settings.endpoint, settings.second)))
    finally:
        with trio.CancelScope(shield=True):
            await second.aclose()


def _adopt_seed(seed: Path, blobs: BlobStore, spec: RunSpec) -> None:
    """Whoever made the run has its first blobs at hand; everybody else fetches them."""
    try:
        if not seed.is_dir():
            return
    except PermissionError:  # e.g. below /home, which a service does not see
        log.warning("[run] seed is not ours to look into; its blobs are fetched from peers", path=str(seed))
        return
    store = BlobStore(seed)
    dataset = spec.dataset
    for blob_id in (dataset.tokenizer, *dataset.train_shards, dataset.heldout_shard, spec.genesis_state):
        path = store.path(blob_id)
        if path is None:
            raise ConfigError(
                f"[run] seed {seed}: blob {blob_id[:16]} of the run is missing; make it by `covenantd plan`"
            )
        if blobs.path(blob_id) is None:
            blobs.adopt(path, spec.piece_bytes, keep=True)


def _p2pd_settings(config: Config) -> P2pdSettings:
    host, port = multiaddr_host_port(config.network.listen)
    identity = config.node.state_directory / "p2p-identity.key"
    ensure_identity(identity)
    return P2pdSettings(
        identity=identity,
        listen_host=host,
        listen_port=port,
        announce=config.network.announce,
        relays=config.network.relays,
        relay_service=config.network.relay_service,
        hole_punching=config.network.hole_punching,
        nat_port_map=config.network.nat_port_map,
        runtime_directory=config.node.runtime_directory,
    )


def _first_status(config: Config, spec: RunSpec, hotkey: Hotkey, swarm: Swarm) -> Status:
    return Status(
        role=config.node.role,
        hotkey=hotkey.hotkey,
        peer_id=swarm.peer_id,
        addresses=swarm.transport.addresses,
        run_id=spec.run_id,
        run_name=spec.name,
        version=__version__,
        started_at=time.time(),
    )
