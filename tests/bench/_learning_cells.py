"""The cells of the learning study: which rule, how strong an outer step, how many peers, how large a model.

A cell's `rule` is a codec as `covenantd plan --codec` names it, or one of the references:
    ddp         one AdamW on the batches of all peers: what peers could reach that sent everything, after every step
    average     the mean of the peers' pseudo-gradients, in fp32, times α (SparseLoCo without compression)
    nesterov:M  the same under Nesterov momentum M: DiLoCo, arXiv 2311.08105
`variant` names one deviation, see `_learning_rules`. Groups are in the order of their worth: an hour too few costs
only the last of them. "deciding" cells are the ones from which the default follows: hundreds of rounds, three seeds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from model.config import OUTER, ModelConfig

MODELS = {
    "0.5M": ModelConfig(1024, 128, 2, 4, 2, 384, 32),
    "3M": ModelConfig(1024, 256, 4, 4, 2, 640, 64),
    "10M": ModelConfig(1024, 384, 6, 6, 2, 1024, 64),
}
OURS = ("row1", OUTER["row1"][0])
DEFAULT_DECAY = OUTER["row1"][1]
DECAYS = (0.95, 0.9)  # what the papers have, and what was better for us in three of four settings
SEEDS = (0, 1, 2)
RIVALS = (("covenant", 2.0), ("templar", 1.0))  # each at the α that was best of 1, 2 and, in screening, 4; among 4


@dataclass(frozen=True)
class Cell:
    group: str
    rule: str
    alpha: float = 1.0
    decay: float = 0.95  # β of the error feedback
    peers: int = 4
    inner_steps: int = 5
    rounds: int = 120
    model: str = "0.5M"
    seed: int = 0
    variant: str = ""
    batch_sequences: int = 4

    @property
    def key(self) -> str:
        """What makes it this cell: the group is only a heading."""
        shape = f"{self.model} N{self.peers} H{self.inner_steps} R{self.rounds} B{self.batch_sequences}"
        rule = f"{self.rule}+{self.variant}" if self.variant else self.rule
        return f"{rule} a{self.alpha:g} b{self.decay:g} {shape} s{self.seed}"

    @property
    def setting(self) -> str:
        """Cells of one setting see the same tokens and are compared with each other."""
        return f"{self.model}, N = {self.peers}, H = {self.inner_steps}, {self.rounds} rounds"


FRAMES = (
    Cell("deciding", "", peers=4, inner_steps=5, rounds=200, batch_sequences=2),
    Cell("deciding", "", peers=4, inner_steps=15, rounds=150, batch_sequences=1),
    Cell("deciding", "", peers=8, inner_steps=5, rounds=150, batch_sequences=1),
    Cell("deciding", "", peers=4, inner_steps=30, rounds=60, batch_sequences=1),
)


def grid() -> list[Cell]:
    """All cells, each once, in the order in which they are run."""
    cells: dict[str, Cell] = {}
    for group in (_deciding, _longer, _eight, _alpha_with_peers, _screening, _ideas, _reduce, _larger):
        for cell in group():
            cells.setdefault(cell.key, cell)
    return list(cells.values())


def _versus(frame: Cell) -> Iterator[Cell]:
    for rule, alpha in (OURS, *RIVALS):
        yield replace(frame, rule=rule, alpha=alpha)


def _deciding() -> Iterator[Cell]:
    for seed in SEEDS:
        for frame in FRAMES:
            for decay in DECAYS:
                yield from _versus(replace(frame, seed=seed, decay=decay))
    for frame in FRAMES:
        for rule, alpha in (("covenant", 1.0), ("templar", 2.0)):
            yield replace(frame, rule=rule, alpha=alpha)
    yield from _references()
    yield from _remedies()


def _eight() -> Iterator[Cell]:
    """More peers and longer rounds together."""
    for inner_steps, rounds in ((15, 60), (30, 30)):
        frame = Cell("8 peers, long rounds", "", peers=8, inner_steps=inner_steps, rounds=rounds, batch_sequences=1)
        for rule, alpha in (OURS, *RIVALS):
            yield replace(frame, rule=rule, alpha=alpha, decay=DEFAULT_DECAY if rule == OURS[0] else 0.95)


def _longer() -> Iterator[Cell]:
    """Whether β has to do with how long a run is."""
    frame = Cell("longer", *OURS, rounds=400, batch_sequences=2)
    for decay in DECAYS:
        yield replace(frame, decay=decay)
    yield replace(frame, rule="covenant", alpha=2.0)


def _references() -> Iterator[Cell]:
    """What compression has to be measured by; and whether each rule is past its best α."""
    for frame in FRAMES:
        yield replace(frame, rule="ddp")
        yield replace(frame, rule="average", alpha=1.0)
        yield replace(frame, rule="nesterov:0.9", alpha=0.7)
    for frame in FRAMES[1:]:
        for rule, alpha in (("row1", 8.0), ("covenant", 4.0), ("templar", 0.5)):
            yield replace(frame, rule=rule, alpha=alpha)
    for seed in SEEDS[1:]:  # among eight it is better there than at 1
        yield replace(FRAMES[2], rule="templar", alpha=0.5, seed=seed)


def _remedies() -> Iterator[Cell]:
    """Where rounds are long, agreement may be better not added up: the mean over senders, or something between."""
    for frame in FRAMES:
        yield replace(frame, rule="row1", alpha=2.0)
        yield replace(frame, rule="row1", alpha=4.0, decay=0.99)
        yield replace(frame, rule="row1", variant="senders", alpha=2.0)
    for frame in FRAMES[1::2]:
        yield replace(frame, rule="row1", alpha=2.0, seed=1)
        for seed, alpha in ((1, 1.0), (0, 1.0), (1, 2.0)):
            yield replace(frame, rule="row1", variant="senders", alpha=alpha, seed=seed)
    for frame in FRAMES:  # with α = 2 / √N it is 2 · sum / √(N · senders)
        for seed in (0, 1):
            yield replace(frame, rule="row1", variant="root", alpha=1.0 if frame.peers == 4 else 0.7, seed=seed)


def _screening() -> Iterator[Cell]:
    base = Cell("screening", "ddp", batch_sequences=2)
    yield base
    for alpha in (1.0, 1.5, 2.0):
        yield replace(base, rule="average", alpha=alpha)
    for rule, alpha in (("nesterov:0.9", 0.7), ("nesterov:0.9", 0.3), ("nesterov:0.5", 0.7)):
        yield replace(base, rule=rule, alpha=alpha)
    for rule in ("row1", "covenant", "templar"):
        for alpha in (1.0, 2.0, 4.0, 8.0) if rule == "row1" else (1.0, 2.0, 4.0):
            yield replace(base, rule=rule, alpha=alpha)
    yield replace(base, rule="templar", variant="roster", alpha=2.0)
    for rule, alpha in (("row1:32", 2.0), ("row1:32", 4.0), ("row1:128", 4.0), ("row1:128", 8.0), ("row1:256", 8.0)):
        yield replace(base, rule=rule, alpha=alpha)


def _ideas() -> Iterator[Cell]:
    base = Cell("ideas", *OURS, batch_sequences=2)
    for decay in (0.9, 0.99, 1.0):
        yield replace(base, decay=decay)
    for variant, alpha in (
        ("senders", 1.0), ("senders", 2.0), ("rise", 4.0), ("fall", 4.0), ("momentum0.5", 2.0), ("momentum0.9", 0.5),
        ("two-per-row", 4.0), ("row-scale", 4.0), ("tensor-scale", 4.0), ("dense-embedding", 4.0),
        ("dense-matrices", 4.0),
    ):  # fmt: skip
        yield replace(base, variant=variant, alpha=alpha)


def _alpha_with_peers() -> Iterator[Cell]:
    for peers, alphas in ((1, (1.0, 2.0, 4.0)), (2, (1.0, 2.0, 4.0)), (8, (2.0, 4.0, 8.0))):
        base = Cell("α with N", "row1", peers=peers, rounds=60, batch_sequences=2)
        for alpha in alphas:
            yield replace(base, alpha=alpha)
        yield replace(base, variant="senders", alpha=1.0)


def _reduce() -> Iterator[Cell]:
    for peers, kept in ((4, (64, 256, 512)), (8, (64, 256, 512)), (16, (256, 512, 1024))):
        base = Cell("second stage", *OURS, peers=peers, rounds=80, batch_sequences=1)
        yield base
        for count in kept:
            yield replace(base, variant=f"reduce{count}")


def _larger() -> Iterator[Cell]:
    for model, rounds in (("3M", 60), ("10M", 20)):
        frame = Cell("larger", "", model=model, inner_steps=15, rounds=rounds, batch_sequences=1)
        for decay in DECAYS:
            yield from _versus(replace(frame, decay=decay))
    frame = Cell("larger", *OURS, DEFAULT_DECAY, model="3M", inner_steps=15, rounds=60, batch_sequences=1)
    yield replace(frame, alpha=2.0)
    yield replace(frame, variant="fall")
