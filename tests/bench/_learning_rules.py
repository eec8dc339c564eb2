"""From the pseudo-gradients of all peers to the next θ, by the product's own codecs or by what is only studied."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model import quantize, rowmax
from model.compress import compress
from model.config import COMBINATIONS, CompressionConfig, compression_named
from model.layout import Layout, Shapes
from model.outer import outer_step
from model.rules import RULES, Rule
from model.sparse import Sparse, dense, subtract_
from tests.bench._learning_cells import Cell

_ONE = torch.tensor(1.0)
_EMBEDDING = "embed_tokens.weight"


@dataclass(frozen=True)
class _Part:
    """Consecutive parameters under one compression."""

    span: slice
    layout: Layout


class Outer:
    """One run's outer optimiser: error feedback of every peer, combination, the step."""

    def __init__(self, cell: Cell, shapes: Shapes) -> None:
        self._cell = cell
        self._parts = () if cell.rule.startswith(("average", "nesterov")) else _parts(cell, shapes)
        size = sum(torch.Size(shape).numel() for _, shape in shapes)
        self._feedback = [torch.zeros(size) for _ in range(cell.peers if self._parts else 0)]
        self._momentum = torch.zeros(size)
        self._reducer = _reducer(cell, shapes)
        self._owed = torch.zeros(size)  # the reducers' own error feedback

    def step(self, theta: Tensor, deltas: Sequence[Tensor], round_: int) -> Tensor:
        """θ of the next round, fp32 [P]."""
        update = self._combined(deltas)
        if self._reducer is not None:
            update = self._reduced(self._reducer, update)
        factor, nesterov = _momentum(self._cell)
        if factor:
            self._momentum = factor * self._momentum + update
            update = update + factor * self._momentum if nesterov else self._momentum
        return theta - _alpha(self._cell, round_) * update

    def _combined(self, deltas: Sequence[Tensor]) -> Tensor:
        if not self._parts:
            return torch.stack(list(deltas)).mean(0)
        for feedback, delta in zip(self._feedback, deltas, strict=True):
            feedback.mul_(self._cell.decay).add_(delta)
        update = torch.zeros_like(deltas[0])
        with _studied(self._cell.variant):
            for part in self._parts:
                update[part.span] = self._of_part(part)
        return update

    def _of_part(self, part: _Part) -> Tensor:
        if self._cell.variant == "row-scale":
            return _exact(part.layout, [feedback[part.span] for feedback in self._feedback])
        roster = []
        for feedback in self._feedback:
            own = feedback[part.span]
            roster.append(compress(part.layout, own))
            subtract_(own, part.layout, roster[-1], _ONE)
        if self._cell.variant == "root":
            return _rooted(part.layout, roster)
        return _update(part.layout, roster)

    def _reduced(self, layout: Layout, update: Tensor) -> Tensor:
        """What the reducers send of the aggregate; what they do not send, they keep for the next round."""
        self._owed += update
        sent = compress(layout, self._owed)
        subtract_(self._owed, layout, sent, _ONE)
        return dense(layout, sent)


def _update(layout: Layout, roster: Sequence[Sparse]) -> Tensor:
    return -outer_step(layout, torch.zeros(layout.parameters), roster, 1.0).theta


def _rooted(layout: Layout, roster: Sequence[Sparse]) -> Tensor:
    """What was sent of a coordinate, summed up and divided by the root of the number of its senders: the geometric mean
    of the sum and of the mean over senders."""
    by_senders = replace(layout, compression=replace(layout.compression, combination="senders"))
    total, mean = len(roster) * _update(layout, roster), _update(by_senders, roster)
    return (total * mean).sqrt() * total.sign()


def _exact(layout: Layout, feedbacks: Sequence[Tensor]) -> Tensor:
    """A scale for each row, of which one value is sent: the value itself, in fp32. No clipping."""
    total = torch.zeros(layout.chunks, layout.chunk)
    for feedback in feedbacks:
        chunks = layout.to_chunks(feedback)
        indices = rowmax.select(chunks, None, layout.kept, layout.k).long()
        sent = torch.zeros_like(chunks).scatter_(1, indices, chunks.gather(1, indices))
        feedback -= layout.from_chunks(sent)
        total += sent
    return layout.from_chunks(total / len(feedbacks))


def _parts(cell: Cell, shapes: Shapes) -> tuple[_Part, ...]:
    combination = cell.variant if cell.variant in COMBINATIONS else ""
    compression = replace(compression_named(cell.rule), combination=combination)
    if cell.variant == "two-per-row":
        compression = replace(compression, kept_per_chunk=128)
    if not cell.variant.startswith("dense-"):
        return _cut(((shapes, compression),))
    assert shapes[0][0] == _EMBEDDING
    denser = replace(compression, kept_per_chunk=2 * compression.kept_per_chunk)
    both = (denser, compression) if cell.variant == "dense-embedding" else (compression, denser)
    return _cut(((shapes[:1], both[0]), (shapes[1:], both[1])))


def _cut(pieces: Sequence[tuple[Shapes, CompressionConfig]]) -> tuple[_Part, ...]:
    parts, start = [], 0
    for shapes, compression in pieces:
        layout = Layout.of(shapes, compression)
        parts.append(_Part(slice(start, start + layout.parameters), layout))
        start += layout.parameters
    return tuple(parts)


def _reducer(cell: Cell, shapes: Shapes) -> Layout | None:
    if not cell.variant.startswith("reduce"):
        return None
    kept = int(cell.variant.removeprefix("reduce"))
    return Layout.of(shapes, replace(compression_named("row1"), kept_per_chunk=kept))


def _momentum(cell: Cell) -> tuple[float, bool]:
    """The factor, and whether it is Nesterov's."""
    if cell.rule.startswith("nesterov:"):
        return float(cell.rule.partition(":")[2]), True
    return float(cell.variant.removeprefix("momentum") if cell.variant.startswith("momentum") else 0), False


def _alpha(cell: Cell, round_: int) -> float:
    """`rise`: from 0 over the first quarter of the run; `fall`: to a half, evenly."""
    done = round_ / cell.rounds
    return cell.alpha * {"rise": min(1.0, 4 * done + 0.05), "fall": 1 - done / 2}.get(cell.variant, 1.0)


class _studied:
    """The codec row1 with one part exchanged, inside the `with` only."""

    def __init__(self, variant: str) -> None:
        self._rule = _RULES.get(variant, RULES["row1"])

    def __enter__(self) -> None:
        self._before, RULES["row1"] = RULES["row1"], self._rule

    def __exit__(self, *_: object) -> None:
        RULES["row1"] = self._before


def _two_per_row(chunks: Tensor, valid: Tensor | None, kept: Tensor, k: int) -> Tensor:
    """The two largest of each row of 64; of the padded run, one of each 32."""
    if valid is not None:
        return rowmax.select(chunks, valid, kept, k)
    row = 2 * chunks.shape[1] // k
    columns = chunks.abs().view(len(chunks), -1, row).topk(2, dim=2).indices.sort(dim=2).values
    return (columns + torch.arange(0, chunks.shape[1], row).view(-1, 1)).view(len(chunks), k).to(torch.int16)


def _one_scale(values: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of all chunks of a band, which in models this small is a tensor: the scales' 8 bits a chunk are saved."""
    scale, _ = quantize.quantize_signs(values.reshape(1, -1), None if present is None else present.reshape(1, -1))
    _, codes = quantize.quantize_signs(values, present)
    return scale.expand(len(values)).clone(), torch.where(scale > 0, codes, 0)


_RULES: dict[str, Rule] = {
    "two-per-row": replace(RULES["row1"], select=_two_per_row),
    "tensor-scale": replace(RULES["row1"], quantise=_one_scale),
}
