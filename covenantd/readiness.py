"""What a daemon needs of the world to be of use: peers, an engine, a chain that goes on, the run's state."""

import trio

from covenantd.engineslot import EngineSlot
from covenantd.health import Health
from covenantd.node import Node
from p2p.swarm import Swarm

_LEAST_SILENCE_SECONDS = 30.0
_SILENT_BLOCKS = 10
_ENGINE_LIMIT_SECONDS = 180.0  # a silent engine is replaced long before; only a daemon that fails to do so gets here


def watch_peers(health: Health, swarm: Swarm) -> None:
    health.add("peers", lambda: None if any(one.connected for one in swarm.peers()) else "no peer connected")


def watch_node(health: Health, node: Node) -> None:
    watch_engine(health, node.engine)
    health.add("chain", lambda: _chain(node))
    health.add("state", lambda: _state(node))


def watch_engine(health: Health, engine: EngineSlot, limit_seconds: float = _ENGINE_LIMIT_SECONDS) -> None:
    """Whether there is one, and whether one at work still shows it: it does at every step of whatever it does."""

    def heartbeat() -> str | None:
        silent = engine.silent_seconds
        return None if silent is None or silent <= limit_seconds else f"at work, but silent for {silent:.0f} s"

    health.add("engine", lambda: None if engine.state == "ready" else f"engine {engine.state}")
    health.add("engine-heartbeat", heartbeat, live=True)


def _chain(node: Node) -> str | None:
    """By the time between two heads here: a host's clock may be wrong."""
    seen_at = node.heads.seen_at
    if seen_at is None:
        return "no block seen yet"
    silent_seconds = trio.current_time() - seen_at
    if silent_seconds <= max(_LEAST_SILENCE_SECONDS, _SILENT_BLOCKS * node.spec.timing.block_seconds):
        return None
    return f"no block for {silent_seconds:.0f} s since {node.heads.number}"


def _state(node: Node) -> str | None:
    """A peer that is behind does no work that counts."""
    state = node.board.status.state
    return f"state {state}" if state in ("syncing", "behind") else None
