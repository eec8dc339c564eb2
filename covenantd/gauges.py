"""Metrics that are read now and then rather than told: peers come and gone, engines started anew."""

from covenantd.metrics import Metrics
from p2p.protocols import PeerId
from p2p.swarm import Swarm


class Gauges:
    def __init__(self, swarm: Swarm, metrics: Metrics) -> None:
        self._swarm = swarm
        self._metrics = metrics
        self._connected: frozenset[PeerId] = frozenset()
        self._engines = 1

    def look(self, state: str, engines: int) -> None:
        """`state`: the daemon's; `engines`: how often an engine was started so far, in vain too."""
        peers, metrics = self._swarm.peers(), self._metrics
        connected = frozenset(peer.peer_id for peer in peers if peer.connected)
        banned = self._swarm.reputation.bans()
        metrics.peers.labels("known").set(len(peers))
        metrics.peers.labels("connected").set(len(connected))
        metrics.peers.labels("banned").set(len(banned))
        metrics.peer_disconnects.labels("lost").inc(len(self._connected - connected - banned.keys()))
        metrics.engine_restarts.inc(max(0, engines - self._engines))
        metrics.set_state(state)
        self._connected, self._engines = connected, max(engines, self._engines)
