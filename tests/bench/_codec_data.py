"""Tensors to compress, and what compressing does to them."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from model import corpus, inner, transformer
from model.compress import compress
from model.config import PRESETS, CompressionConfig, InnerConfig
from model.layout import Layout
from model.sparse import Sparse, dense, subtract_
from model.transformer import parameter_layout

_ROUNDS, _STEPS = 6, 5


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


def real_errors(codecs: tuple[str, ...]) -> dict[str, float]:
    """The quantisation error in the last round of a short run of nano on the bundled text, a peer a codec."""
    text = torch.frombuffer(bytearray(corpus.text().encode()[: 1 << 20]), dtype=torch.uint8).long()
    return {codec: _real_error(codec, text) for codec in codecs}


def _real_error(codec: str, text: Tensor) -> float:
    config, layout = InnerConfig(), Layout.of(parameter_layout(PRESETS["nano"]), CompressionConfig(codec))
    model = transformer.build(PRESETS["nano"], seed=0)
    optimizer = inner.make_optimizer(model, config)
    theta, feedback = transformer.flatten(model), torch.zeros(layout.parameters)
    generator = torch.Generator().manual_seed(0)
    error = 0.0
    for round_ in range(_ROUNDS):
        for step in range(_STEPS):
            starts = torch.randint(
                len(text) - config.sequence_tokens - 1, (config.batch_sequences,), generator=generator
            )
            batch = torch.stack([text[start : start + config.sequence_tokens + 1] for start in starts])
            rate = inner.learning_rate(config, round_ * _STEPS + step)
            inner.inner_step(model, optimizer, batch, rate, config.gradient_clip)
        feedback.mul_(0.95).add_(theta - transformer.flatten(model))
        sparse = compress(layout, feedback)
        error = quantisation_error(layout, feedback, sparse)
        subtract_(feedback, layout, sparse, torch.tensor(1.0))
        theta = theta - dense(layout, sparse)
        transformer.unflatten_(model, theta)
    return error


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
