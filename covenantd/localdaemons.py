"""The daemons of a local swarm: started, asked, started again when they end, as systemd would, and stopped."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from covenantd.controlclient import open_control
from covenantd.controlwire import ControlError
from covenantd.errors import EXIT_CONFIG, EXIT_DAEMON_USAGE, EXIT_NO_PERMISSION, EXIT_OK, TryAgain
from covenantd.localpeers import PEER_GRACE_SECONDS, LocalPeer, last_line, start_daemon
from covenantd.roundlog import NAME, RoundLog
from covenantd.status import RoundSummary, Status
from p2p.child import Child

MAX_RESTARTS = 3  # of one daemon: more often than that, it is not by chance
_FINAL = frozenset({EXIT_OK, EXIT_DAEMON_USAGE, EXIT_NO_PERMISSION, EXIT_CONFIG})
"""Told to stop, or what no restart can cure: RestartPreventExitStatus in systemd/covenantd.service."""
_ASK_SECONDS = 5.0
_ASK_AGAIN_ROUNDS = 100  # a daemon shows its last 200


class Daemons:
    """Use `running_daemons` to get one."""

    def __init__(self, say: Callable[[str], None], start: Callable[[LocalPeer], Child]) -> None:
        self._say = say
        self._start = start
        self._running: dict[str, tuple[LocalPeer, Child]] = {}
        self._restarts: dict[str, int] = {}
        self._told: dict[str, dict[int, RoundSummary]] = {}

    def start(self, *peers: LocalPeer) -> None:
        for peer in peers:
            self._running[peer.name] = peer, self._start(peer)

    async def look(self) -> dict[str, Status | None]:
        """By name; None for one that is not up yet, or too busy to answer. What has ended is started again; TryAgain
        when that cannot help."""
        self._revive()
        statuses: dict[str, Status | None] = dict.fromkeys(self._running)

        async def ask(peer: LocalPeer) -> None:
            try:
                async with open_control(peer.control_socket, _ASK_SECONDS) as control:
                    statuses[peer.name] = await control.status()
            except ControlError:
                return
            if peer.role != "bootstrap" and self._unheard(peer, statuses[peer.name]) >= _ASK_AGAIN_ROUNDS:
                await self._hear(peer)

        async with trio.open_nursery() as nursery:
            for peer, _ in self._running.values():
                nursery.start_soon(ask, peer)
        return statuses

    def _revive(self) -> None:
        for name, (peer, child) in list(self._running.items()):
            code = child.returncode
            if code is None:
                continue
            ended = f"{name} {_end(code, peer)}"
            self._restarts[name] = self._restarts.get(name, 0) + 1
            if code in _FINAL or self._restarts[name] > MAX_RESTARTS:
                raise TryAgain(f"{ended}; its log: {peer.log}")
            self._say(f"{ended}; starting it again")
            self.start(peer)

    def _unheard(self, peer: LocalPeer, status: Status | None) -> int:
        """Rounds that it has finished since we last asked for them."""
        newest = max(self._told.get(peer.name, {}), default=-1)
        return (status.round or 0) - 1 - newest if status else 0

    async def _hear(self, peer: LocalPeer) -> None:
        """Its last rounds, by its own word, or if it does not answer, by what it has written down."""
        try:
            async with open_control(peer.control_socket, _ASK_SECONDS) as control:
                answer: Any = await control.call("rounds")
            rounds = [RoundSummary.from_dict(one) for one in answer["rounds"]]
        except ControlError:
            rounds = RoundLog(peer.directory / "state" / NAME).read()
        self._told.setdefault(peer.name, {}).update({one.round: one for one in rounds})

    async def rounds(self) -> Mapping[str, list[RoundSummary]]:
        """Every worker's own account of all its rounds so far, by name."""
        workers = [peer for peer, _ in self._running.values() if peer.role != "bootstrap"]
        async with trio.open_nursery() as nursery:
            for peer in workers:
                nursery.start_soon(self._hear, peer)
        return {peer.name: list(self._told[peer.name].values()) for peer in workers}

    async def stop(self) -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for _, child in self._running.values():
                    nursery.start_soon(child.stop, PEER_GRACE_SECONDS)


def _end(code: int, peer: LocalPeer) -> str:
    """A daemon's last words tell why it ended, unless it was cut off."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with {code}: {last_line(peer.log)}"


@asynccontextmanager
async def running_daemons(
    say: Callable[[str], None], start: Callable[[LocalPeer], Child] = start_daemon
) -> AsyncIterator[Daemons]:
    """`say`: where a restart is told. All are gone afterwards."""
    daemons = Daemons(say, start)
    try:
        yield daemons
    finally:
        await daemons.stop()
