"""What we remember of a peer's manners: misbehaviour bans, slowness weighs and is forgotten."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from p2p.protocols import PeerId


@dataclass(frozen=True)
class ReputationSettings:
    ban_seconds: float = 3600.0
    half_life_seconds: float = 300.0  # of the penalty for being slow
    max_peers: int = 4096  # remembered at most; identities are free, our memory is not


@dataclass(frozen=True)
class Ban:
    reason: str
    until: float  # on the clock given to Reputation


class Reputation:
    """Bans and decaying penalties by peer id. `now` is trio's clock unless a test says otherwise."""

    def __init__(
        self,
        settings: ReputationSettings | None = None,
        now: Callable[[], float] = trio.current_time,
        on_ban: Callable[[PeerId, str], None] = lambda peer, reason: None,
    ) -> None:
        self._settings = settings or ReputationSettings()
        self._now = now
        self.on_ban = on_ban
        self._bans: dict[PeerId, Ban] = {}
        self._penalties: dict[PeerId, tuple[float, float]] = {}  # points, at time

    def ban(self, peer: PeerId, reason: str) -> None:
        """For misbehaviour. A ban that is already there starts anew."""
        self._bans.pop(peer, None)
        self._bans[peer] = Ban(reason, self._now() + self._settings.ban_seconds)
        self._bound(self._bans)
        self.on_ban(peer, reason)

    def unban(self, peer: PeerId) -> None:
        self._bans.pop(peer, None)

    def is_banned(self, peer: PeerId) -> bool:
        ban = self._bans.get(peer)
        if ban is not None and self._now() >= ban.until:
            del self._bans[peer]
            return False
        return ban is not None

    def bans(self) -> Mapping[PeerId, Ban]:
        """Those in force."""
        return {peer: ban for peer, ban in list(self._bans.items()) if self.is_banned(peer)}

    def slow(self, peer: PeerId, points: float = 1.0) -> None:
        """Stalled, late or unreachable: asked later than others until it is forgotten."""
        points += self.penalty(peer)
        self._penalties.pop(peer, None)
        self._penalties[peer] = (points, self._now())
        self._bound(self._penalties)

    def good(self, peer: PeerId) -> None:
        """It did as it should: half of what weighed on it is forgiven."""
        if peer in self._penalties:
            self._penalties[peer] = (self.penalty(peer) / 2, self._now())

    def penalty(self, peer: PeerId) -> float:
        """0 for a peer of whom nothing bad is known; halves every half-life."""
        points, at = self._penalties.get(peer, (0.0, 0.0))
        return points * 0.5 ** ((self._now() - at) / self._settings.half_life_seconds) if points else 0.0

    def _bound(self, table: dict[PeerId, Ban] | dict[PeerId, tuple[float, float]]) -> None:
        if len(table) > self._settings.max_peers:
            del table[next(iter(table))]  # the oldest: dicts keep order
