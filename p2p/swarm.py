"""The run's peers as one of them sees them: found, proven, connected, asked, answered.

A peer is found through bootstrap addresses and peer records in the DHT; failing that, through peers met before and
whatever `candidates` knows. A record proves only that a hotkey claims a peer id. So whoever dials says hello on a
stream: both show their record, and the transport vouches for the peer ids. Only then is a peer in `Swarm.peers`.
"""

import functools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import trio

from p2p import asking
from p2p.asking import MAX_MESSAGE_BYTES, Answer, answering
from p2p.company import Company, keep_met
from p2p.errors import ProtocolViolation, RecordRejected, TransportError
from p2p.guard import GuardedTransport
from p2p.limits import everyone
from p2p.meetings import Backoff, Meetings, dial_any
from p2p.peerbook import PEER_KIND, Peer, PeerBook, PeerClaim, peer_body, peer_of, read_claim
from p2p.peercache import PeerCache
from p2p.protocols import PeerId, RecordStore, Signer, Transport, Verify
from p2p.published import Published, dht_key, open_published, sign_published
from p2p.records import NO_ROUND, Record
from p2p.reputation import Reputation
from p2p.swarm_settings import SwarmSettings
from p2p.wire import Fields

__all__ = ["HELLO", "VIOLATION", "Swarm", "SwarmSettings"]

_log = logging.getLogger(__name__)
HELLO = "/covenantd/hello/1"
VIOLATION = "violation"
_MAX_HELLO_BYTES = 10 << 10
_INNOCENT = {"run", "round", "kind", "expired", "future", "protocol"}  # of another run, late, or of another version


class Swarm:
    """`admit` (settable): whether a hotkey counts, as the metagraph says; others are invisible, though not banned.

    `on_rejected(reason)` hears of everything that was refused, by a stable word: of records those of `p2p.records`,
    "expired", "future" and "protocol"; of a frame that is not what it must be, "violation". `candidates` (settable):
    addresses that end in /p2p/PEER_ID, tried while no peer is connected, and at leisure. `own_hints` (settable):
    numbers about us for our peer record, see `p2p.peerbook.HINTS`. `wall` is seconds since the epoch, as other peers
    have it.
    `transport` leads nowhere near banned peers: use it for whatever else talks to peers.
    """

    def __init__(
        self,
        transport: Transport,
        records: RecordStore,
        signer: Signer,
        verify: Verify,
        settings: SwarmSettings,
        reputation: Reputation | None = None,
        on_rejected: Callable[[str], None] = lambda reason: None,
        wall: Callable[[], float] = time.time,
        cache: PeerCache | None = None,
    ) -> None:
        self.settings = settings
        self.candidates: Callable[[], Iterable[str]] = tuple
        self.own_hints: Callable[[], Mapping[str, int]] = dict
        self.reputation = reputation or Reputation()
        banned = self.reputation.is_banned
        self._company = Company(transport.peer_id, self.peers, lambda: self.candidates(), cache, banned)
        self.transport: Transport = GuardedTransport(transport, self.reputation)
        self.admit: Callable[[str], bool] = everyone
        self.on_rejected = on_rejected
        self._records = records
        self._signer = signer
        self._verify = verify
        self._wall = wall
        self._book = PeerBook(settings.max_peers)
        self._connected: set[PeerId] = set()
        self._bootstrap_ids = frozenset(address.rpartition("/p2p/")[2] for address in settings.bootstrap)
        self._somebody_new = trio.Event()

    @property
    def peer_id(self) -> PeerId:
        return self.transport.peer_id

    # Who is there

    def peers(self) -> tuple[Peer, ...]:
        """Admitted peers whose hotkey and peer id have vouched for each other; without us and the banned."""
        return tuple(
            peer_of(claim, seen_at, claim.peer_id in self._connected)
            for claim, seen_at in self._book.claims(trio.current_time())
            if self._counts(claim) and not self.reputation.is_banned(claim.peer_id)
        )

    def _counts(self, claim: PeerClaim) -> bool:
        """Bootstrap peers count because we were told of them, whatever the metagraph says."""
        return self.admit(claim.hotkey) or claim.peer_id in self._bootstrap_ids

    def by_hotkey(self, hotkey: str) -> Peer | None:
        return next((peer for peer in self.peers() if peer.hotkey == hotkey), None)

    def by_peer_id(self, peer_id: PeerId) -> Peer | None:
        return next((peer for peer in self.peers() if peer.peer_id == peer_id), None)

    def knows(self, peer_id: PeerId) -> bool:
        """Whether it has proven an admitted hotkey, or we were told of it."""
        hotkey = self._book.hotkey_of(peer_id)
        return peer_id in self._bootstrap_ids or (hotkey is not None and self.admit(hotkey))

    # Talking

    async def ask(
        self,
        peer_id: PeerId,
        protocol: str,
        message: object,
        timeout_seconds: float = 10.0,
        max_bytes: int = MAX_MESSAGE_BYTES,
    ) -> object:
        """The peer's answer. Raises TransportError (Refused: it said no), ProtocolViolation (it is banned now)."""
        try:
            return await asking.ask(self.transport, peer_id, protocol, message, timeout_seconds, max_bytes)
        except ProtocolViolation as error:
            self._violation(peer_id, error)
            raise

    async def answer(self, protocol: str, handler: Answer, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """Let `handler` answer whoever asks, strangers too: `by_peer_id` says who it is."""
        await self.transport.handle(
            protocol, answering(handler, self._violation, max_bytes, self.settings.answer_seconds)
        )

    async def connect(self, address: str) -> str:
        """Dial and greet the peer of a multiaddr that ends in /p2p/PEER_ID, now; its hotkey.

        Raises TransportError, ProtocolViolation (RecordRejected: of another run, say).
        """
        peer_id = address.rpartition("/p2p/")[2]
        await self._meet(peer_id, (address,))
        hotkey = self._book.hotkey_of(peer_id)
        if hotkey is None:
            raise TransportError("there is no room for more peers")
        return hotkey

    async def publish(self, kind: str, round: int, body: object, lifetime_seconds: float) -> bool:
        """Put a signed record where `lookup` finds it; whether somebody took it. Raises ValueError, TransportError."""
        signed = self._sign(kind, round, body, lifetime_seconds)
        key = dht_key(self.settings.run_id, kind, round)
        return await self._records.store(key, self._signer.hotkey, signed, lifetime_seconds)

    async def lookup(self, kind: str, round: int) -> list[Record]:
        """The admitted hotkeys' records, one each, ours too; bad ones are counted. Raises TransportError."""
        return [published.record for published in await self._lookup(kind, round)]

    # The loops

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce, find, greet and keep up with peers, until cancelled."""
        await self.answer(HELLO, self._answer_hello, _MAX_HELLO_BYTES)
        settings = self.settings
        meetings = Meetings(settings.retry_first_seconds, settings.retry_last_seconds, settings.max_dials)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_announcing)
            nursery.start_soon(self._keep_connected_set)
            for address in self.settings.bootstrap:
                nursery.start_soon(self._keep_bootstrapped, address)
            nursery.start_soon(self._company.keep, self._meet_quietly, settings)
            nursery.start_soon(self._company.keep_cache, settings.remember_seconds)
            nursery.start_soon(self._keep_discovering, meetings, nursery)
            task_status.started()

    async def _keep_announcing(self) -> None:
        """Again before the record expires, and soon after somebody new: what was stored before is with nobody.

        Ever less often while nobody takes it: who is not registered, as a bootstrap peer, is refused for ever.
        """
        backoff = Backoff(self.settings.retry_first_seconds, self.settings.retry_last_seconds)
        while True:
            news = self._somebody_new
            if done := await self._quietly("announcing", self._announce):
                backoff.reset()
            with trio.move_on_after(self.settings.announce_seconds if done else backoff.next_seconds()):
                await news.wait()
                backoff.reset()
                await trio.sleep(self.settings.retry_first_seconds)  # they often come together

    async def _announce(self) -> None:
        lifetime_seconds = self.settings.record_lifetime_seconds
        if not await self.publish(PEER_KIND, NO_ROUND, self._own_body(), lifetime_seconds):
            raise TransportError("no DHT node took our peer record")

    async def _keep_connected_set(self) -> None:
        while True:
            await self._quietly("listing connections", self._refresh_connected)
            await trio.sleep(self.settings.refresh_seconds)

    async def _refresh_connected(self) -> None:
        self._connected = set(await self.transport.connected())
        self._book.saw(self._connected, trio.current_time())

    async def _keep_bootstrapped(self, address: str) -> None:
        peer_id = address.rpartition("/p2p/")[2]
        if peer_id != self.peer_id:
            settings = self.settings
            met = lambda: peer_id in self._connected and self._book.hotkey_of(peer_id) is not None  # noqa: E731
            meet = functools.partial(self._meet_quietly, peer_id, address)
            backoff = Backoff(settings.retry_first_seconds, settings.bootstrap_retry_seconds)
            await keep_met(address, met, meet, backoff, settings.refresh_seconds)

    async def _keep_discovering(self, meetings: Meetings, nursery: trio.Nursery) -> None:
        pause = self.settings.discover_first_seconds
        while True:
            news = self._somebody_new
            await self._quietly("discovering", lambda: self._discover(meetings, nursery))
            with trio.move_on_after(pause * random.uniform(0.8, 1.2)):
                await news.wait()
                pause = self.settings.discover_first_seconds
                await trio.sleep(pause)
            pause = min(pause * 1.5, self.settings.discover_seconds)

    async def _discover(self, meetings: Meetings, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        claims = [claim for claim in self._claims(await self._lookup(PEER_KIND, NO_ROUND)) if self._is_news(claim, now)]
        meetings.keep_only((claim.hotkey, claim.peer_id) for claim in claims)
        for claim in claims:
            if meetings.begin((claim.hotkey, claim.peer_id)):
                meet = functools.partial(self._meet_found, claim)
                nursery.start_soon(meetings.hold, (claim.hotkey, claim.peer_id), meet)

    def _claims(self, found: Iterable[Published]) -> list[PeerClaim]:
        claims = []
        for published in found:
            try:
                claims.append(self._claim(published))
            except RecordRejected as error:
                self.on_rejected(error.reason)
        return claims

    def _is_news(self, claim: PeerClaim, now: float) -> bool:
        """Whether this is somebody to meet: not us, and not proven and connected already."""
        if claim.hotkey == self._signer.hotkey:
            if claim.peer_id != self.peer_id:
                _log.warning("another peer, %s, announces our hotkey", claim.peer_id, extra={"peer_caused": True})
            return False
        if claim.peer_id == self.peer_id:
            self.on_rejected("peer")
            return False
        return not (self._book.refresh(claim, now) and claim.peer_id in self._connected)

    async def _meet_found(self, claim: PeerClaim) -> bool:
        """Whether it is there and is who the claim says."""
        met = await self._quietly(f"meeting {claim.peer_id}", lambda: self._meet(claim.peer_id, claim.addresses))
        if met and self._book.hotkey_of(claim.peer_id) != claim.hotkey:
            self.on_rejected("peer")  # it claimed the peer id of somebody else
            return False
        return met

    # Meeting

    async def _meet_quietly(self, peer_id: PeerId, address: str) -> bool:
        return await self._quietly(f"trying {address}", lambda: self._meet(peer_id, (address,)))

    async def _meet(self, peer_id: PeerId, addresses: tuple[str, ...]) -> None:
        if peer_id not in self._connected:
            reached = await dial_any(self.transport.dial, addresses, self.settings.dial_seconds)
            self._company.reached[peer_id] = reached
            self._connected.add(peer_id)
        hello = {"record": self._own_record()}
        reply = await self.ask(peer_id, HELLO, hello, self.settings.hello_seconds, _MAX_HELLO_BYTES)
        try:
            self._take_hello(peer_id, reply)
        except ProtocolViolation as error:
            self._violation(peer_id, error)
            raise

    async def _answer_hello(self, peer_id: PeerId, message: object) -> object:
        self._take_hello(peer_id, message)
        return {"record": self._own_record()}

    def _take_hello(self, peer_id: PeerId, message: object) -> None:
        """Raises RecordRejected, ProtocolViolation."""
        data = Fields(message).raw("record", max_bytes=_MAX_HELLO_BYTES)
        run_id = self.settings.run_id
        published = open_published(data, self._verify, run_id=run_id, kind=PEER_KIND, peer_id=peer_id)
        published.check_time(self._wall())
        if self._book.bind(self._claim(published), trio.current_time(), self.admit):
            _log.info("met %s at %s", published.record.hotkey, peer_id, extra={"peer": peer_id})
            self._connected.add(peer_id)
            self._somebody_new.set()
            self._somebody_new = trio.Event()

    def _claim(self, published: Published) -> PeerClaim:
        return read_claim(published, trio.current_time() + published.until - self._wall())

    def _own_body(self) -> dict[str, object]:
        return peer_body(self.transport.addresses, self.settings.role, self.own_hints())

    def _own_record(self) -> bytes:
        return self._sign(PEER_KIND, NO_ROUND, self._own_body(), self.settings.record_lifetime_seconds)

    # Below

    async def _lookup(self, kind: str, round: int) -> list[Published]:
        found, run_id = [], self.settings.run_id
        for subkey, data in (await self._records.fetch(dht_key(run_id, kind, round))).items():
            try:
                one = open_published(data, self._verify, run_id=run_id, kind=kind, round=round, hotkey=subkey)
                one.check_time(self._wall())
            except RecordRejected as error:
                self.on_rejected(error.reason)
                continue
            if self.admit(subkey) or subkey == self._signer.hotkey:
                found.append(one)
        return found

    def _sign(self, kind: str, round: int, body: object, lifetime_seconds: float) -> bytes:
        return sign_published(
            self._signer,
            run_id=self.settings.run_id,
            kind=kind,
            round=round,
            peer_id=self.peer_id,
            body=body,
            lifetime_seconds=lifetime_seconds,
            now=self._wall(),
        )

    def _violation(self, peer_id: PeerId, error: ProtocolViolation) -> None:
        """Counted; banned unless there is an innocent explanation."""
        reason = error.reason if isinstance(error, RecordRejected) else VIOLATION
        self.on_rejected(reason)
        if reason in _INNOCENT:
            return
        _log.warning("banned %s: %s", peer_id, error, extra={"peer": peer_id, "peer_caused": True})
        self.reputation.ban(peer_id, str(error)[:200])

    async def _quietly(self, doing: str, action: Callable[[], Awaitable[None]]) -> bool:
        """Whether it worked. What the network or a peer spoils is tried again by the loop that wanted it."""
        try:
            await action()
        except (TransportError, ProtocolViolation) as error:
            _log.debug("%s: %s", doing, error)
            return False
        return True
