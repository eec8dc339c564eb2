"""A discrete-event simulation of the exchange: no clock, no sockets, the very agenda and turns of `p2p`.

Every peer asks its neighbours as `p2p.agenda` says and serves them in the order of `p2p.turns.choose`; what has its
turn leaves in that order at the uplink's rate, a room's worth of it ahead. It tells what is new every NEWS_SECONDS.
Pieces queue at the receiver's downlink. Streams take START_ROUND_TRIPS to open, every message HOP_SECONDS on each side.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p2p.agenda import Agenda, Ask, Wanted
from p2p.dealing import Dealing
from p2p.exchange_settings import ExchangeSettings
from p2p.schedule import Schedule
from p2p.turns import Turn, TurnSettings, choose, weighed
from p2p.window import WindowSettings

NEWS_SECONDS = ExchangeSettings().news_seconds
LANES = 2
START_ROUND_TRIPS = 4  # a stream for news, the list to watch, the manifest, a lane
HOP_SECONDS = 0.002  # from a p2pd to its daemon, or back
MBIT = 125_000
EFFICIENCY = 0.955  # what is left of an IP link after TCP, Noise and framing


@dataclass(frozen=True)
class SimulatedLink:
    """Rates in bytes a second of IP packets; the way between two peers takes both their one-way delays."""

    up: float
    down: float
    one_way_seconds: float = 0.0125


@dataclass
class Outcome:
    """`seconds`: when the last peer had everything; `finished`: all of them; the rest counts pieces."""

    seconds: float = 0.0
    finished: list[float] = field(default_factory=list)
    sent: int = 0
    wasted: int = 0
    sent_by_origin: Counter[tuple[str, int]] = field(default_factory=Counter)
    doubled_early: int = 0  # by an origin, while pieces of its own had not left it once


class SimulatedPeer:
    def __init__(self, name: str, link: SimulatedLink, world: "World") -> None:
        self.name, self.link, self.world = name, link, world
        self.agenda = Agenda(WindowSettings())
        self.schedules: dict[str, Schedule] = {}
        self.have: dict[str, bytearray] = {}
        self.neighbours: list[SimulatedPeer] = []
        self.met: set[SimulatedPeer] = set()
        self.queues: dict[str, deque[Turn]] = {}
        self.cancelled: set[int] = set()
        self.asks: dict[int, Ask] = {}
        self.under_way_bytes = 0  # have their turn, and have not left
        self.up_free_at = self.down_free_at = 0.0
        self.missing = 0
        self.given: Counter[str] = Counter()
        self.had: Counter[str] = Counter()
        self.dealing: Dealing | None = None
        self.times_sent: Counter[tuple[str, int]] = Counter()
        self.fresh: set[str] = set()
        self.will_tell = False

    def delay(self, other: "SimulatedPeer") -> float:
        return self.link.one_way_seconds + other.link.one_way_seconds + 2 * HOP_SECONDS

    # As a fetcher

    def ask(self, holder: "SimulatedPeer") -> None:
        world = self.world
        while (ask := self.agenda.next_for(holder.name, world.now)) is not None:
            delay = self.delay(holder)
            turn = Turn(self.name, ask.blob_id, ask.piece, ask.size_bytes, 1)
            self.asks[id(turn)] = ask
            world.after(delay, lambda turn=turn: holder.requested(turn))
            if ask.instead_of is not None:
                slower = world.peers[ask.instead_of]
                world.after(delay, lambda a=ask, s=slower: s.cancel(self.name, a.blob_id, a.piece))

    def received(self, holder: "SimulatedPeer", turn: Turn, arrived: bool) -> None:
        ask, world = self.asks.pop(id(turn)), self.world
        self.agenda.landed(holder.name, ask, world.now, arrived=arrived)
        schedule = self.schedules[ask.blob_id]
        if not arrived:
            schedule.dropped(holder.name, ask.piece)
        else:
            self.given[holder.name] += ask.size_bytes
            if schedule.wants(ask.piece):
                self.have[ask.blob_id][ask.piece] = 1
                self.missing -= 1
                if not self.missing:
                    world.outcome.finished.append(world.now)
                self.news(ask.blob_id)
            else:
                world.outcome.wasted += 1
            schedule.got(holder.name, ask.piece)
        self.ask(holder)

    def told(self, holder: "SimulatedPeer", blob_id: str, bitmap: bytes) -> None:
        if blob_id in self.schedules:
            self.schedules[blob_id].offer(holder.name, bitmap)

    # As a holder

    def news(self, blob_id: str) -> None:
        self.fresh.add(blob_id)
        if not self.will_tell:
            self.will_tell = True
            self.world.after(NEWS_SECONDS * self.world.random.uniform(0.2, 1.0), self.tell)

    def tell(self) -> None:
        self.will_tell = False
        fresh = sorted(self.fresh)
        self.fresh.clear()
        if self.dealing is not None and not self.dealing.over(self.world.now):
            self.news(self.name)  # for as long as there is something to deal
            self.dealing.deal({one.name: self.worth(one.name) for one in self.neighbours}, self.world.now)
        for neighbour in self.neighbours:
            bitmaps = {blob_id: self.bitmap(blob_id, neighbour) for blob_id in fresh}
            delay = self.delay(neighbour)
            if neighbour not in self.met:
                self.met.add(neighbour)
                delay *= 2 * START_ROUND_TRIPS
            self.world.after(delay, lambda n=neighbour, b=bitmaps: n.hear(self, b))

    def bitmap(self, blob_id: str, neighbour: "SimulatedPeer") -> bytes:
        if blob_id == self.name and self.dealing is not None and not self.dealing.over(self.world.now):
            return self.dealing.bitmap(neighbour.name)
        return bits(self.have[blob_id])

    def worth(self, peer: str) -> float:
        given = self.given[peer]
        return given if self.given else self.world.peers[peer].link.up * self.world.hints

    def hear(self, holder: "SimulatedPeer", bitmaps: dict[str, bytes]) -> None:
        if self.missing:
            for blob_id, bitmap in bitmaps.items():
                self.told(holder, blob_id, bitmap)
            self.ask(holder)

    def requested(self, turn: Turn) -> None:
        turn.since = self.world.now
        dealt = turn.blob_id == self.name and self.dealing is not None and not self.dealing.over(self.world.now)
        turn.first = dealt and self.dealing.is_first(turn.piece)
        if dealt:
            self.dealing.asked(turn.peer, turn.piece)
        self.queues.setdefault(turn.peer, deque()).append(turn)
        self.send()

    def cancel(self, peer: str, blob_id: str, piece: int) -> None:
        for turn in self.queues.get(peer, ()):
            if (turn.blob_id, turn.piece) == (blob_id, piece):
                self.cancelled.add(id(turn))

    def send(self) -> None:
        while self.under_way_bytes < self.room_bytes and (turn := self.next_turn()) is not None:
            self.queues[turn.peer].remove(turn)
            receiver = self.world.peers[turn.peer]
            if id(turn) in self.cancelled:
                self.cancelled.discard(id(turn))
                self.world.after(self.delay(receiver), lambda r=receiver, t=turn: r.received(self, t, False))
                continue
            self.count(turn)
            self.under_way_bytes += turn.size_bytes
            self.up_free_at = max(self.up_free_at, self.world.now) + turn.size_bytes / (self.link.up * EFFICIENCY)
            left = self.up_free_at - self.world.now
            self.world.after(left, lambda t=turn: self.left(t))
            self.world.after(left + self.delay(receiver), lambda r=receiver, t=turn: r.arriving(self, t))

    def next_turn(self) -> Turn | None:
        heads = sorted((t for queue in self.queues.values() for t in list(queue)[:LANES]), key=lambda t: t.since)
        longest_since = self.world.now - TurnSettings().patience_seconds
        had = weighed(lambda peer: self.had[peer], self.worth, self.queues)
        return choose(heads, self.sent_before, had, longest_since, self.world.random) if heads else None

    @property
    def room_bytes(self) -> float:
        return max(TurnSettings().least_bytes, self.link.up * EFFICIENCY * TurnSettings().ahead_seconds)

    def sent_before(self, turn: Turn) -> int:
        return self.times_sent[turn.blob_id, turn.piece]

    def count(self, turn: Turn) -> None:
        outcome, key = self.world.outcome, (turn.blob_id, turn.piece)
        if turn.blob_id == self.name and self.times_sent[key]:
            mine = self.have[self.name]
            outcome.doubled_early += any(not self.times_sent[self.name, piece] for piece in range(len(mine)))
        if turn.blob_id == self.name and self.dealing is not None:
            self.dealing.left(turn.piece, self.world.now)
        self.had[turn.peer] += turn.size_bytes
        self.times_sent[key] += 1
        outcome.sent += 1

    def left(self, turn: Turn) -> None:
        self.under_way_bytes -= turn.size_bytes
        self.send()

    def arriving(self, holder: "SimulatedPeer", turn: Turn) -> None:
        now = self.world.now
        self.down_free_at = max(now, self.down_free_at) + turn.size_bytes / (self.link.down * EFFICIENCY)
        self.world.after(self.down_free_at - now, lambda: self.received(holder, turn, True))


class World:
    """Peers 0..origins-1 have a payload each, named after them; all want all."""

    def __init__(
        self,
        links: Sequence[SimulatedLink],
        payload_bytes: int,
        piece_bytes: int,
        *,
        origins: int | None = None,
        neighbours: int | None = None,
        seed: int = 0,
        hints: bool = False,
    ) -> None:
        self.hints = hints  # whether it is known from before what uplinks can
        self.now = 0.0
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self.peers = {str(i): SimulatedPeer(str(i), link, self) for i, link in enumerate(links)}
        pieces = -(-payload_bytes // piece_bytes)
        blobs = list(self.peers)[: len(links) if origins is None else origins]
        for peer in self.peers.values():
            for blob_id in blobs:
                self._equip(peer, blob_id, pieces, payload_bytes, piece_bytes)
        self._acquaint(len(links) if neighbours is None else neighbours)

    def _equip(self, peer: SimulatedPeer, blob_id: str, pieces: int, payload_bytes: int, piece_bytes: int) -> None:
        mine = blob_id == peer.name
        peer.have[blob_id] = bytearray([mine]) * pieces
        if mine:
            peer.dealing = Dealing(blob_id, pieces)
        if not mine:
            peer.missing += pieces
            schedule = peer.schedules[blob_id] = Schedule(pieces, range(pieces), self.random.getrandbits(32))
            size = lambda piece: min(piece_bytes, payload_bytes - piece * piece_bytes)  # noqa: E731
            peer.agenda.add(blob_id, Wanted(schedule, size, 1))

    def _acquaint(self, neighbours: int) -> None:
        peers = list(self.peers.values())
        for place, peer in enumerate(peers):
            ring = [peers[(place + 1) % len(peers)]]  # connected, whatever chance does
            for other in [*ring, *self.random.sample(peers, min(neighbours // 2, len(peers)))]:
                if other is not peer and other not in peer.neighbours:
                    peer.neighbours.append(other)
                    other.neighbours.append(peer)
        if neighbours >= len(peers):
            for peer in peers:
                peer.neighbours = [other for other in peers if other is not peer]

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + max(seconds, 0.0), self._count, action))

    def run(self) -> Outcome:
        for peer in self.peers.values():
            for blob_id, have in peer.have.items():
                if any(have):
                    peer.news(blob_id)
        everybody = sum(1 for peer in self.peers.values() if peer.missing)
        while self._events and len(self.outcome.finished) < everybody:
            self.now, _, action = heapq.heappop(self._events)
            action()
        assert len(self.outcome.finished) == everybody, "it stopped before everybody had everything"
        self.outcome.seconds = self.now
        return self.outcome


def predicted_seconds(
    uplinks_mbit: Sequence[float],
    downlinks_mbit: Sequence[float],
    one_way_ms: float,
    payload_bytes: int,
    piece_bytes: int,
    seed: int = 0,
) -> float:
    """How long it takes until all have all, when everybody has one payload. Rates are those of IP packets;
    `one_way_ms` is of each access link, so that a round trip between two peers takes four of them."""
    rates = zip(uplinks_mbit, downlinks_mbit, strict=True)
    links = [SimulatedLink(up * MBIT, down * MBIT, one_way_ms / 1e3) for up, down in rates]
    return World(links, payload_bytes, piece_bytes, seed=seed).run().seconds


def bits(have: bytearray) -> bytes:
    return int("".join(map(str, reversed(have))), 2).to_bytes(-(-len(have) // 8), "little")


def bound_seconds(links: Sequence[SimulatedLink], payload_bytes: int, origins: int | None = None) -> float:
    """max(P/U_min, (N-1)P/D_min, N(N-1)P/sum U), with V receivers that send nothing of their own: N(N-1+V)P/sum U."""
    count = len(links) if origins is None else origins
    needed = count * (count - 1) + count * (len(links) - count)
    return max(
        payload_bytes / min(link.up for link in links[:count]),
        (count - 1) * payload_bytes / min(link.down for link in links),
        needed * payload_bytes / sum(link.up for link in links),
    )


if __name__ == "__main__":
    for count in (4, 8, 12, 16):
        for fast in (0, max(count // 4, 1)):
            links = [SimulatedLink(20 * MBIT * (5 if i < fast else 1), 100 * MBIT) for i in range(count)]
            size = int(30 / bound_seconds(links, 1))
            done = World(links, size, 128 << 10).run()
            bound = bound_seconds(links, size)
            over = done.seconds / bound
            print(count, fast, round(over, 3), "wasted", done.wasted / done.sent, "early doubles", done.doubled_early)
