"""Several certifiers of one run in one process: real ballots, journals, heads and readings of the chain; a chain and a
network that the test writes. Nothing runs by itself: each call does one thing to its end."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import trio
import trio.testing
from run_fixture import HOTKEYS, NAMES, SPEC, WrittenChain, enrolled, h

from covenantd import roster, turns
from covenantd.agreement import Agreement
from covenantd.ballot import ROSTER, Ballot
from covenantd.chain.keys import Hotkey
from covenantd.commits import Commit
from covenantd.heads import Heads
from covenantd.holdings import HOLDING, Holdings
from covenantd.journal import Journal, PastRound
from covenantd.node import Node
from covenantd.proposals import View, compose
from covenantd.roster import NO_DIGEST, Roster, Vote, decode_vote
from covenantd.specchange import SpecHistory
from covenantd.timing import Timing
from model import messages
from p2p.errors import BlobUnavailable, Refused, TransportTimeout
from p2p.manifest import Manifest, piece_hash
from p2p.wire import Fields

STEP_BLOCKS = 6
TIMING = Timing(
    start_block=7, blocks_per_round=60, seal_blocks=5, commit_blocks=8, vote_blocks=50, proposal_blocks=STEP_BLOCKS
)
RUN = replace(SPEC, timing=TIMING)
KEYS = [Hotkey.from_uri(f"//{name}") for name in NAMES]
T = TypeVar("T")


def view_of(round: int, previous: str, base: str, sound: Sequence[int], lacking: Sequence[int] = ()) -> View:
    """What a certifier knows that holds these miners' contributions, and would have those."""
    held, gone = ([HOTKEYS[i] for i in sorted(which)] for which in (sound, lacking))
    proven = {n: commit_of(n, round, base) for n in (*held, *gone)}
    return View(round, previous, base, proven, frozenset(held), dict.fromkeys(gone, "missing"), {})


def commit_of(hotkey: str, round: int, base: str) -> Commit:
    return Commit(hotkey, "peer", round, h(f"{round}{hotkey[-4:]}"), 1000, base, 7)


@dataclass(frozen=True)
class Post:
    """A proposal on its way: the network may deliver it when it likes, as often as it likes, or never."""

    sender: int
    to: int
    message: dict[str, object]
    block: int


@dataclass
class World:
    directory: Path
    stakes: Sequence[int]
    block: int = 0
    posts: list[Post] = field(default_factory=list)
    bodies: dict[str, Roster] = field(default_factory=dict)
    certifiers: dict[int, "Certifier"] = field(default_factory=dict)  # the honest ones
    given: set[tuple[int, int]] = field(default_factory=set)  # (miner, certifier): whom miners and liars serve later
    unproven: set[int] = field(default_factory=set)  # miners that committed to nothing in time
    unsound: set[int] = field(default_factory=set)
    lie: Callable[[int, str], object] = lambda liar, protocol: None  # its answer; None: there is none

    def __post_init__(self) -> None:
        self.chain = WrittenChain(self.stakes)

    def serves(self, uid: int, blob_id: str) -> bool:
        """Whether anybody gives that certifier a contribution."""
        ending = bytes.fromhex(blob_id).rstrip(b"\0")[-4:]
        given = {HOTKEYS[miner][-4:].encode() for miner, to in self.given if to == uid}
        return ending in given or any(one.sound_of(blob_id) for one in self.certifiers.values())

    def put(self, body: Roster) -> str:
        """Everybody can fetch it from now on."""
        data = body.encode()
        digest = Manifest(len(data), RUN.piece_bytes, piece_hash(data)).blob_id
        (self.directory / digest).write_bytes(data)
        self.bodies[digest] = body
        return digest

    def vote(self, uid: int, vote: Vote, delay_blocks: int) -> int:
        """In the state from then on; a hotkey's writes stay in order."""
        before = max((at for at, who, _ in self.chain.votes if who == uid), default=0)
        at = max(before, self.block + delay_blocks)
        self.chain.votes.append((at, uid, vote))
        return at


class Certifier:
    """What `crash` loses is all but the journal."""

    def __init__(self, world: World, uid: int) -> None:
        self.world, self.uid, self.hotkey = world, uid, HOTKEYS[uid]
        self.delay_blocks = 1  # until what it publishes is in the state
        self.failures: list[Exception] = []  # what the chain says first
        self.heads = Heads()
        world.certifiers[uid] = self
        self.start()

    def start(self) -> None:
        self.journal = Journal(self.world.directory / f"journal-{self.uid}", RUN.run_id, RUN.genesis_state)
        self.agreement = Agreement(self.world.chain, RUN)
        node = self._node()
        self.holdings = Holdings(node, self)
        self.ballot = Ballot(node, self.holdings)

    crash = start

    def _node(self) -> Node:
        anything: Any = None
        traffic: Any = SimpleNamespace(is_control=lambda digests: None)
        staging = self.world.directory / f"staging-{self.uid}"
        staging.mkdir(exist_ok=True)
        config: Any = SimpleNamespace(node=SimpleNamespace(role="validator"), network=SimpleNamespace(announce=()))
        return Node(
            config=config, spec=RUN, history=SpecHistory(RUN), hotkey=KEYS[self.uid], chain=cast(Any, self),
            agreement=self.agreement, swarm=cast(Any, self), exchange=cast(Any, self), blobs=anything,
            engine=cast(Any, self), journal=self.journal, heads=self.heads, board=anything, metrics=anything,
            traffic=traffic, commitment=trio.Lock(), staging=staging,
        )  # fmt: skip

    # What its node has for a chain, a swarm and an exchange

    async def publish_commitment(self, fields: Sequence[bytes]) -> int:
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        vote = decode_vote(fields[1])
        assert vote is not None
        return self.world.vote(self.uid, vote, self.delay_blocks)

    transport = SimpleNamespace(addresses=())
    peer_id = "peer"

    def by_hotkey(self, hotkey: str) -> Any:
        return SimpleNamespace(peer_id=hotkey)

    def by_peer_id(self, peer: str) -> Any:
        return SimpleNamespace(hotkey=peer) if peer in HOTKEYS else None

    async def ask(self, peer: str, protocol: str, message: dict[str, object], seconds: float) -> object:
        await trio.lowlevel.checkpoint()
        if protocol == RUN.protocol(ROSTER):
            self.world.posts.append(Post(self.uid, HOTKEYS.index(peer), message, self.world.block))
            return {}
        answer = await self._ask_at_once(HOTKEYS.index(peer), protocol, message)
        if answer is None:
            raise TransportTimeout(protocol)
        return answer

    async def _ask_at_once(self, uid: int, protocol: str, message: dict[str, object]) -> object:
        other = self.world.certifiers.get(uid)
        if other is None:
            return self.world.lie(uid, protocol)
        handle = other.holdings.tell if protocol == RUN.protocol(HOLDING) else other.holdings.show
        return await handle(self.hotkey, message)

    async def adopt(self, path: Path, piece_bytes: int) -> str:
        return self.world.put(roster.decode(await trio.Path(path).read_bytes()))

    async def fetch(self, digest: str, *args: object, **options: object) -> Path:
        await trio.lowlevel.checkpoint()
        if digest not in self.world.bodies and not self.world.serves(self.uid, digest):
            raise BlobUnavailable(digest)
        return self.world.directory / digest

    # What its node has for an engine, and it for a desk

    async def order(self, order: messages.Check, expect: object) -> messages.Checked:
        await trio.lowlevel.checkpoint()
        [miner] = [i for i, key in enumerate(KEYS) if key.public_key_hex == order.hotkey]
        return messages.Checked(miner not in self.world.unsound, "", 1.0)

    def proof(self, round: int, hotkey: str) -> Any:
        view = self.holdings.view
        known = view is not None and view.round == round and hotkey in view.proven
        return SimpleNamespace(body=lambda: {"receipts": True}) if known else None

    async def believe(self, round: int, hotkey: str, fields: Fields) -> Commit | None:
        """What is shown can be forged only where the test says so."""
        await trio.lowlevel.checkpoint()
        if not fields.flag("receipts") or HOTKEYS.index(hotkey) in self.world.unproven:
            return None
        return commit_of(hotkey, round, self.journal.memory.state_hash)

    # What it does

    @property
    def round(self) -> int:
        return self.journal.memory.round

    @property
    def turns(self) -> turns.Turns:
        return turns.turns(TIMING, self.round, roster.certifiers(enrolled(self.world.stakes)))

    def see(self, block: int) -> None:
        """Nobody waits on these heads: what is run here ends by itself."""
        self.heads.number = max(self.heads.number, block)

    @property
    def sound(self) -> frozenset[str]:
        """Whose contributions it holds in this round."""
        view = self.holdings.view
        return view.sound if view is not None and view.round == self.round else frozenset()

    def sound_of(self, blob_id: str) -> set[str]:
        view = self.holdings.view
        return {h for h in view.sound if view.proven[h].blob_id == blob_id} if view is not None else set()

    def open(self, *sound: int, lacking: Sequence[int] = ()) -> None:
        memory = self.journal.memory
        self.ballot.open(view_of(memory.round, memory.previous, memory.state_hash, sound, lacking), self.turns)

    def survey(self) -> None:
        """Whoever does not answer is waited for, but not for long."""

        async def in_time() -> None:
            with trio.move_on_after(10):
                await self.holdings.survey(1 << 40)

        run(in_time)

    def take(self, turn: int) -> None:
        run(lambda: self.ballot.take(turn, lambda view: compose(RUN, view, {})))

    def receive(self, post: Post) -> str | None:
        """The reason of a refusal."""

        async def consider() -> str | None:
            try:
                await self.ballot.consider(HOTKEYS[post.sender], post.message)
            except Refused as refused:
                return str(refused)
            return None

        return run(consider)

    def publish(self) -> None:
        """What there is to be published is, as far as the chain answers at once."""

        async def until_idle() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.ballot.publish, self.round, False)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

        run(until_idle)

    def finish(self) -> str | None:
        """Read the votes of the round, take its step, and say what was certified."""
        vote = run(lambda: self.agreement.decision(self.round))
        digest = vote.digest if vote else None
        state = h(self.round + 500) if digest else self.journal.memory.state_hash
        self.journal.finish_round(PastRound(self.round, digest, state, ()))
        return digest


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Waits take no time."""
    return trio.run(work, clock=trio.testing.MockClock(autojump_threshold=0))


def proposed(world: World, sender: int, to: int, *sound: int) -> tuple[str, Post]:
    """Of round 0, by one that holds these miners' contributions; its digest, and what the other is sent."""
    digest = world.put(compose(RUN, view_of(0, NO_DIGEST, RUN.genesis_state, sound), {}))
    return digest, Post(sender, to, {"round": 0, "digest": digest}, world.block)
