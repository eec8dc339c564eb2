"""Tensors to compress, and what compressing does to them."""

import ctypes
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from model import contribution, corpus, dataset, inner, transformer
from model.compress import compress
from model.config import PRESETS, CompressionConfig, InnerConfig
from model.layout import Layout
from model.outer import outer_step
from model.sparse import Sparse, dense, subtract_
from model.transformer import parameter_layout

_PEERS, _ROUNDS, _STEPS, _CHARACTERS = 4, 6, 5, 1 << 20


def synthetic(parameters: int) -> Tensor:
    """fp32 [P], Gaussian, of about the size of pseudo-gradients."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.empty(parameters).normal_(generator=generator)
    return flat.mul_(1e-3)


def rolled(layout: Layout, sparse: Sparse, number: int) -> Sparse:
    """Another peer's: the same chunks of each tensor, in other places."""
    scales, indices, codes = sparse.scales.clone(), sparse.indices.clone(), sparse.codes.clone()
    for group in (group for group in layout.groups if not group.padded):
        rows = slice(group.first, group.stop)
        indices[rows], codes[rows] = indices[rows].roll(number, 0), codes[rows].roll(number, 0)
        if scales.dim() == 1:
            scales[rows] = scales[rows].roll(number, 0)
    return Sparse(scales, indices, codes)


def quantisation_error(layout: Layout, flat: Tensor, sparse: Sparse) -> float:
    """Squared error of what is sent over the squares of what it stands for."""
    sent = dense(layout, sparse)
    kept = flat[sent != 0]
    return float(((kept - sent[sent != 0]) ** 2).sum() / (kept**2).sum())


def sizes(layout: Layout, sparse: Sparse) -> dict[str, float]:
    """Of a whole contribution on disk."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "contribution"
        contribution.write(str(path), layout, contribution.Header("0" * 64, 0, "0" * 64, "0" * 64), sparse)
        size = path.stat().st_size
    return {"wire_ratio": 4 * layout.parameters / size, "bits_per_kept": 8 * size / layout.entries}


def on_a_real_run(codec: str) -> dict[str, float]:
    """Of what a peer sends in the last round of a short run of nano on the bundled text, error feedback included."""
    layout = Layout.of(parameter_layout(PRESETS["nano"]), CompressionConfig(codec))
    theta = transformer.flatten(transformer.build(PRESETS["nano"], seed=0))
    peers = [_Peer(layout, number) for number in range(_PEERS)]
    for _ in range(_ROUNDS):
        roster = [peer.round(theta) for peer in peers]
        theta = outer_step(layout, theta, roster, 1.0).theta
    peer = peers[0]
    return {**sizes(layout, roster[0]), "quantisation_error": quantisation_error(layout, peer.compressed, roster[0])}


@cache
def _tokens() -> Tensor:
    """The run's own: of the tokenizer that a run of nano gets."""
    return torch.from_numpy(dataset.tokenise(corpus.text()[:_CHARACTERS], 1024).train.astype("int64"))


class _Peer:
    """A miner: its data, its optimiser, its error feedback."""

    def __init__(self, layout: Layout, number: int) -> None:
        self._layout, self._config = layout, InnerConfig()
        self._model = transformer.build(PRESETS["nano"], seed=0)
        self._optimizer = inner.make_optimizer(self._model, self._config)
        self._generator, self._steps = torch.Generator().manual_seed(number), 0
        self._feedback = torch.zeros(layout.parameters)

    def round(self, theta: Tensor) -> Sparse:
        transformer.unflatten_(self._model, theta)
        for _ in range(_STEPS):
            rate = inner.learning_rate(self._config, self._steps)
            inner.inner_step(self._model, self._optimizer, self._batch(), rate, self._config.gradient_clip)
            self._steps += 1
        self._feedback.mul_(CompressionConfig().error_feedback_decay).add_(theta - transformer.flatten(self._model))
        self.compressed = self._feedback.clone()
        sparse = compress(self._layout, self._feedback)
        subtract_(self._feedback, self._layout, sparse, torch.tensor(1.0))
        return sparse

    def _batch(self) -> Tensor:
        tokens, length = _tokens(), self._config.sequence_tokens + 1
        count = (self._config.batch_sequences,)
        starts = torch.randint(len(tokens) - length, count, generator=self._generator)
        return torch.stack([tokens[start : start + length] for start in starts])


class Peak:
    """How much the resident memory grows inside, at its highest."""

    def __enter__(self) -> "Peak":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free but not given back would hide growth
        Path("/proc/self/clear_refs").write_text("5")  # begin anew
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.growth_bytes = max(0, _status("VmHWM") - self._before)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)
