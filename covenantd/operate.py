"""What an operator sees and steers while the daemon works: control socket, HTTP, systemd, status."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import trio

from covenantd import logs
from covenantd.board import StatusBoard
from covenantd.config import Config
from covenantd.control import Verb, serve_control
from covenantd.controlverbs import standard_verbs
from covenantd.daemonverbs import daemon_verbs
from covenantd.gauges import Gauges
from covenantd.health import Health, Heartbeat
from covenantd.http import serve_http, standard_routes
from covenantd.linkverbs import link_verbs
from covenantd.liveconfig import LiveConfig
from covenantd.metrics import Metrics
from covenantd.node import Node
from covenantd.nodeverbs import node_verbs
from covenantd.page import page_routes
from covenantd.reach import Reach
from covenantd.readiness import watch_node, watch_peers
from covenantd.reporting import report_verb
from covenantd.sdnotify import Notifier
from covenantd.signals import drain_on_sigterm, reload_on_sighup, reloading
from covenantd.status import MAX_SHOWN, PeerStatus, Transfer
from model import messages
from p2p.exchange import Exchange
from p2p.swarm import Swarm

_PULSE_SECONDS = 0.5
_LOOP_LIMIT_SECONDS = 20.0
_SHOWN_ADDRESSES = 2  # of each peer: a status of as many peers as there may be must fit a reply frame


@dataclass(frozen=True)
class Operations:
    """The parts that show themselves to the operator, whatever the role."""

    config: Config
    board: StatusBoard
    metrics: Metrics
    health: Health
    swarm: Swarm
    exchange: Exchange
    reach: Reach | None = None


async def operate(
    operations: Operations, orders: Mapping[str, Callable[[], Awaitable[None]]], node: Node | None
) -> None:
    """Serve until cancelled."""
    notifier = Notifier()
    live = LiveConfig(operations.config)
    reload = reloading(live, notifier, lambda: _line(operations))
    verbs = standard_verbs(operations.board, orders) | daemon_verbs(live, operations.board, operations.swarm, reload)
    verbs |= link_verbs(operations.swarm, operations.exchange)
    verbs["bugreport"] = report_verb(live, operations.board, operations.metrics)
    if operations.reach is not None:
        verbs["reachable"] = operations.reach.verb()
    if node is not None:
        verbs |= node_verbs(node)
    if node is not None and operations.config.testing.faults:
        verbs["flip"] = Verb(lambda args: _flip(node), writes=True)
    heartbeat = Heartbeat(_LOOP_LIMIT_SECONDS, trio.current_time)
    operations.health.add("event-loop", heartbeat.probe, live=True)
    watch_peers(operations.health, operations.swarm)
    if node is not None:
        watch_node(operations.health, node)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, operations.config.control_socket, verbs)
        await nursery.start(_serve_http, operations)
        await nursery.start(reload_on_sighup, reload)
        if "drain" in orders and operations.config.node.stop_seconds:
            await nursery.start(drain_on_sigterm, orders["drain"], operations.config.node.stop_seconds, notifier)
        notifier.ready(_line(operations))
        nursery.start_soon(notifier.watchdog, operations.health.alive)
        try:
            await _pulse(operations, node, heartbeat, notifier)
        finally:
            notifier.stopping()


async def _serve_http(operations: Operations, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    listen = operations.config.http.listen
    if not listen:
        task_status.started()
        return
    routes = standard_routes(operations.metrics, operations.health) | page_routes(operations.board)
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_http, listen, routes)
        operations.board.update(http_address=address)
        task_status.started()


async def _pulse(operations: Operations, node: Node | None, heartbeat: Heartbeat, notifier: Notifier) -> None:
    """Twice a second: what is read rather than told."""
    said = ""
    gauges = Gauges(operations.swarm, operations.metrics)
    while True:
        heartbeat.beat()
        logs.tell_repeated()
        _show_peers(operations)
        gauges.look(operations.board.status.state, node.engine.starts if node is not None else 0)
        if node is not None:
            operations.board.update(engine=node.engine.state)
        line = _line(operations)
        if line != said:
            notifier.status(line)
            said = line
        asked = trio.current_time()
        await trio.sleep(_PULSE_SECONDS)
        operations.metrics.loop_lag.observe(max(0.0, trio.current_time() - asked - _PULSE_SECONDS))


def _show_peers(operations: Operations) -> None:
    exchange, peers = operations.exchange, operations.swarm.peers()
    operations.board.update(
        peers=tuple(
            PeerStatus(
                hotkey=peer.hotkey,
                peer_id=peer.peer_id,
                role=peer.role,
                addresses=peer.addresses[:_SHOWN_ADDRESSES],
                connected=peer.connected,
                sent_bytes=exchange.sent_bytes[peer.peer_id],
                received_bytes=exchange.received_bytes[peer.peer_id],
            )
            for peer in peers
        ),
        sent_bytes=sum(exchange.sent_bytes.values()),
        received_bytes=sum(exchange.received_bytes.values()),
        addresses=operations.swarm.transport.addresses,
        transfers=tuple(Transfer(i, held, size) for i, (held, size) in [*exchange.progress().items()][:MAX_SHOWN]),
    )


def _line(operations: Operations) -> str:
    """One line for `systemctl status`."""
    status = operations.board.status
    parts = [status.role, status.state]
    parts += [f"round {status.round}"] if status.round is not None else []
    parts += [status.phase] if status.phase else []
    parts += [f"{status.connected_peers} peers"]
    parts += [f"loss {status.loss:.3f}"] if status.loss is not None else []
    return ", ".join(parts)


async def _flip(node: Node) -> object:
    """Test-only: flip one bit of θ, in the engine's memory and in the file on disk."""
    path = node.blobs.path(node.journal.memory.state_hash)
    await node.engine.order(messages.FlipBit(0, 0), messages.Flipped)
    if path is not None:
        data = bytearray(await trio.Path(path).read_bytes())
        data[0] ^= 1
        await trio.Path(path).chmod(0o600)
        await trio.Path(path).write_bytes(data)
    return {"flipped": True}
