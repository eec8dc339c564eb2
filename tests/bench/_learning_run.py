"""One cell of the learning study: all peers of a run, one after the other, in this process."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from model import corpus, dataset, inner, transformer
from model.config import InnerConfig
from model.data import TokenPool, assigned_sequences
from model.evaluate import mean_loss
from tests.bench._learning_cells import MODELS, Cell
from tests.bench._learning_rules import Outer

VOCABULARY = 1024
_POINTS = 12  # of a curve, on a part of the held-out text; the last value is on all of it
_POINT_SEQUENCES = 96
_EVALUATION_BATCH = 16


@dataclass(frozen=True)
class Text:
    train: TokenPool
    heldout: TokenPool


def text(directory: Path) -> Text:
    """The bundled text, tokenised into files of that directory."""
    tokens = dataset.tokenise(corpus.text(), VOCABULARY)
    shards, heldout = dataset.write_tokens(directory, tokens)
    length = InnerConfig().sequence_tokens
    return Text(TokenPool([directory / shard for shard in shards], length), TokenPool([directory / heldout], length))


def run_cell(cell: Cell, found: Text, limit_seconds: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Losses in nats on held-out text. `loss` is None if the time was up before the last round: processor time, so that
    what else runs on the machine cuts no cell short."""
    started = time.process_time()
    run = _Run(cell, found)
    curve: list[tuple[int, float]] = []
    for round_ in range(cell.rounds):
        if time.process_time() - started > limit_seconds:
            return {"loss": None, "rounds_done": round_, "curve": curve, "seconds": time.process_time() - started}
        run.round(round_)
        if (round_ + 1) * _POINTS // cell.rounds > round_ * _POINTS // cell.rounds:
            curve.append(((round_ + 1) * cell.inner_steps * run.tokens_per_step, run.loss(_POINT_SEQUENCES)))
            tell(f"{cell.key}: round {round_ + 1} of {cell.rounds}, loss {curve[-1][1]:.3f}")
    loss = run.loss(found.heldout.sequences)
    return {"loss": loss, "rounds_done": cell.rounds, "curve": curve, "seconds": time.process_time() - started}


class _Run:
    def __init__(self, cell: Cell, found: Text) -> None:
        self._cell, self._text = cell, found
        steps = cell.rounds * cell.inner_steps
        self._inner = replace(
            InnerConfig(), batch_sequences=cell.batch_sequences, warmup_steps=min(50, steps // 10), decay_steps=steps
        )
        config = MODELS[cell.model]
        self._model = transformer.build(config, cell.seed)
        self._theta = transformer.flatten(self._model)
        self._together = cell.rule == "ddp"
        count = 1 if self._together else cell.peers
        self._optimizers = [inner.make_optimizer(self._model, self._inner) for _ in range(count)]
        self._outer = None if self._together else Outer(cell, transformer.parameter_layout(config))

    @property
    def tokens_per_step(self) -> int:
        """Of all peers."""
        return self._cell.peers * self._cell.batch_sequences * self._inner.sequence_tokens

    def round(self, number: int) -> None:
        batches = [self._assigned(peer, number) for peer in range(self._cell.peers)]
        if self._outer is None:
            joined = [sum((batch[step] for batch in batches), []) for step in range(self._cell.inner_steps)]
            self._theta = self._theta - self._trained(0, joined, number)
        else:
            deltas = [self._trained(peer, batch, number) for peer, batch in enumerate(batches)]
            self._theta = self._outer.step(self._theta, deltas, number)

    def _trained(self, peer: int, batches: Sequence[list[int]], number: int) -> Tensor:
        """Δ of one peer's inner steps from θ."""
        transformer.unflatten_(self._model, self._theta)
        for step, batch in enumerate(batches):
            rate = inner.learning_rate(self._inner, number * self._cell.inner_steps + step)
            tokens = self._text.train.batch(batch)
            inner.inner_step(self._model, self._optimizers[peer], tokens, rate, self._inner.gradient_clip)
        return self._theta - transformer.flatten(self._model)

    def _assigned(self, peer: int, number: int) -> list[list[int]]:
        """Sequences by inner step; the same for every rule of a setting."""
        key = blake3(f"learning study {self._cell.seed} {peer} {number}".encode()).hexdigest()
        size, steps = self._cell.batch_sequences, self._cell.inner_steps
        chosen = assigned_sequences(key, self._text.train.sequences, size * steps)
        return [chosen[step * size : (step + 1) * size] for step in range(steps)]

    def loss(self, sequences: int) -> float:
        transformer.unflatten_(self._model, self._theta)
        total = self._text.heldout.sequences
        chosen = [n * total // sequences for n in range(sequences)]
        return mean_loss(self._model, self._text.heldout, chosen, _EVALUATION_BATCH)


def with_text(act: Callable[[Text], None]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="covenantd-learning-") as directory:
        act(text(Path(directory)))
