"""A chain of a few neurons that takes weights as a subnet does, block by block."""

from collections import deque
from dataclasses import dataclass, field, replace

from covenantd.chain.protocol import Block, EpochInfo, Metagraph, Neuron
from covenantd.errors import ChainError, ChainRefused
from covenantd.heads import Heads


@dataclass
class WeighingChain:
    """`taken`: (block, weights) in order. A write is in the block after the head. `answers` come before its own."""

    hotkeys: list[str]
    tempo_blocks: int = 20
    rate_limit_blocks: int = 1
    head: int = 0
    taken: list[tuple[int, dict[int, float]]] = field(default_factory=list)
    answers: deque[Exception] = field(default_factory=deque)
    hidden_until: list[int] = field(default_factory=list)
    revealed: list[int] = field(default_factory=list)
    asked: int = 0
    registered_block: int = 0
    last_update_block: int = 0

    def advance(self, heads: Heads, blocks: int = 1) -> None:
        self.head += blocks
        heads.see(Block(self.head, "0" * 64, 0.0))

    async def epoch(self) -> EpochInfo:
        self.asked += 1
        coming = (self.head // self.tempo_blocks + 1) * self.tempo_blocks
        return EpochInfo(self.tempo_blocks, coming, self.rate_limit_blocks)

    async def metagraph(self, block: int) -> Metagraph:
        assert block == self.head, "what was true once"
        neurons = [Neuron(uid, hotkey, 1, True, 0, 0, 0, 0, 0) for uid, hotkey in enumerate(self.hotkeys)]
        if neurons:
            ours = replace(neurons[0], registered_block=self.registered_block, last_update_block=self.last_update_block)
            neurons[0] = ours
        return Metagraph(1, block, tuple(neurons), {})

    async def set_weights(self, weights: dict[int, float], version_key: int = 0) -> int:
        if self.answers:
            raise self.answers.popleft()
        block = self.head + 1
        if self.last_update_block and block - self.last_update_block < self.rate_limit_blocks:
            raise ChainRefused("SettingWeightsTooFast")
        self.last_update_block = block
        self.taken.append((block, dict(weights)))
        return block

    async def reveal_due(self) -> int | None:
        self.revealed += [self.head for due in self.hidden_until if due <= self.head]
        self.hidden_until = [due for due in self.hidden_until if due > self.head]
        return min(self.hidden_until, default=None)


NOT_NOW = ChainError("not now")
