"""A small run, a metagraph and a chain that a test writes itself."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from covenantd.chain.keys import Hotkey
from covenantd.chain.protocol import Block, Commitment, EpochInfo, Metagraph, Neuron
from covenantd.errors import ChainError, ChainRefused
from covenantd.roster import OnChainIdentity, Vote
from covenantd.runspec import ChainSpec, Dataset, RunSpec, Scoring
from covenantd.timing import Timing
from model.config import CompressionConfig, InnerConfig, ModelConfig

NAMES = ("Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie")
HOTKEYS = [Hotkey.from_uri(f"//{name}").hotkey for name in NAMES]
TIMING = Timing(start_block=7, blocks_per_round=20, seal_blocks=5, commit_blocks=8, vote_blocks=15)


def h(word: str | int) -> str:
    """A hash that a human can tell from others."""
    return f"{word:0>64}" if isinstance(word, int) else word.encode().hex().ljust(64, "0")


SPEC = RunSpec(
    name="golden",
    model=ModelConfig(1024, 128, 4, 4, 2, 384, 32),
    inner=InnerConfig(),
    compression=CompressionConfig(error_feedback_decay=0.95),  # its name must not change with the default
    piece_bytes=65536,
    genesis_state=h(1),
    dataset=Dataset(h(2), (h(3), h(4)), h(5), 5_000_000),
    inner_steps=30,
    min_inner_steps=1,
    alpha=2.0,
    roster_size=20,
    snapshot_rounds=1,
    timing=TIMING,
    scoring=Scoring(),
    chain=ChainSpec(netuid=1, genesis=h(6)),
    owner=HOTKEYS[0],
)


def neuron(uid: int, stake: int, permit: bool = True) -> Neuron:
    return Neuron(uid, HOTKEYS[uid], stake, permit, 0, 0, 0, 0, 0)


def enrolled(stakes: Sequence[int], votes: Mapping[int, Vote] | None = None, block: int = 0) -> Metagraph:
    """Neuron i has stakes[i], a permit, a certifier's flag, and the vote that `votes` gives it."""
    fields = {uid: (OnChainIdentity(f"peer{uid}", "", True).encode(),) for uid in range(len(stakes))}
    for uid, vote in (votes or {}).items():
        fields[uid] = (*fields[uid], vote.encode())
    neurons = tuple(neuron(uid, stake) for uid, stake in enumerate(stakes))
    commitments = {HOTKEYS[uid]: Commitment(HOTKEYS[uid], block, field) for uid, field in fields.items()}
    return Metagraph(1, block, neurons, commitments)


@dataclass
class WrittenChain:
    """Implements `Chain` for reading: at each block the votes that were public by then. `failures` reads fail."""

    stakes: Sequence[int]
    votes: list[tuple[int, int, Vote]] = field(default_factory=list)  # (block, uid, vote), in order
    failures: int = 0
    read: list[int] = field(default_factory=list)
    gone: Callable[[int], set[int]] = lambda block: set()  # uids that are not registered at a block
    head: int = 0
    kept_from: int = 0  # the state of older blocks is discarded
    final: int = 1 << 60  # later blocks are not final

    async def metagraph(self, block: int) -> Metagraph:
        self._answer(block)
        if block > self.final:
            raise ChainRefused("BlockNotFinalized")
        if block < self.kept_from:
            raise ChainRefused("StateDiscarded")
        latest = {uid: vote for at, uid, vote in self.votes if at <= block}
        written = {HOTKEYS[uid]: at for at, uid, _ in self.votes if at <= block}
        view, gone = enrolled(self.stakes, latest, block), {HOTKEYS[uid] for uid in self.gone(block)}
        return replace(
            view,
            neurons=tuple(n for n in view.neurons if n.hotkey not in gone),
            commitments={
                hotkey: replace(c, block=written.get(hotkey, 0))
                for hotkey, c in view.commitments.items()
                if hotkey not in gone
            },
        )

    async def block(self, number: int | None = None) -> Block:
        self._answer(number or 0)
        number = self.head if number is None else number
        return Block(number, h(number), 0.0)

    def _answer(self, block: int) -> None:
        self.read.append(block)
        if self.failures:
            self.failures -= 1
            raise ChainError("not now")

    def heads(self) -> AsyncIterator[Block]:
        raise NotImplementedError

    async def publish_commitment(self, fields: Sequence[bytes]) -> int:
        raise NotImplementedError

    async def set_weights(self, weights: Mapping[int, float], version_key: int = 0) -> int:
        raise NotImplementedError

    async def reveal_due(self) -> int | None:
        raise NotImplementedError

    async def epoch(self) -> EpochInfo:
        raise NotImplementedError

    def vote(self, uid: int, round: int, block: int, **changes: Any) -> None:
        """uid's vote for the roster h(round) becomes public at `block`."""
        self.votes.append((block, uid, replace(Vote(SPEC.tag, round, h(round), h(100 + round)), **changes)))
