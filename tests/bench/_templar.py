"""Templar's compression in plain torch, written from its description: the baseline of the codec's benchmark.

A tensor is cut into 64x64 blocks; the top 64 of each are sent with 12-bit indices and one of four levels of the
tensor. To aggregate, indices (int64) and values of all peers, clipped to the median norm, are concatenated along a
block and scattered with "mean" into a dense tensor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SIDE, KEPT = 64, 64


@dataclass(frozen=True, eq=False)
class Sent:
    packed: Tensor  # uint8 [blocks, 96]
    codes: Tensor  # uint8 [blocks, 64]
    levels: Tensor  # fp32 [4]


def encode(matrix: Tensor) -> Sent:
    """fp32 [rows, columns], multiples of 64."""
    chunks = _blocks(matrix)
    indices = chunks.abs().topk(KEPT, dim=1, sorted=False).indices
    codes, levels = _quantise(chunks.gather(1, indices))
    return Sent(_pack12(indices), codes, levels)


def decode(sent: Sent) -> tuple[Tensor, Tensor]:
    """Indices int64 [blocks, 64], values fp32 [blocks, 64]."""
    triples = sent.packed.view(-1, 3).long()
    low = triples[:, 0] | (triples[:, 1] & 15) << 8
    high = triples[:, 1] >> 4 | triples[:, 2] << 4
    return torch.stack([low, high], dim=1).view(len(sent.packed), KEPT), sent.levels[sent.codes.long()]


def aggregate_(matrix: Tensor, decoded: list[tuple[Tensor, Tensor]], alpha: float) -> None:
    """matrix ← matrix - α · mean over the senders of each coordinate."""
    norms = torch.stack([torch.linalg.vector_norm(values) for _, values in decoded])
    factors = (norms.median() / norms).clamp(max=1.0)
    indices = torch.cat([indices for indices, _ in decoded], dim=1)
    values = torch.cat([values * factor for (_, values), factor in zip(decoded, factors, strict=True)], dim=1)
    dense = torch.zeros(len(indices), SIDE * SIDE)
    dense.scatter_reduce_(1, indices, values, "mean", include_self=False)
    rows, columns = matrix.shape
    blocks = dense.view(rows // SIDE, columns // SIDE, SIDE, SIDE).permute(0, 2, 1, 3).reshape(rows, columns)
    matrix.sub_(blocks, alpha=alpha)


def _blocks(matrix: Tensor) -> Tensor:
    rows, columns = matrix.shape
    blocks = matrix.view(rows // SIDE, SIDE, columns // SIDE, SIDE).permute(0, 2, 1, 3)
    return blocks.reshape(-1, SIDE * SIDE)


def _quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    centred = values - values.mean()
    width = 6.0 * centred.norm() / (centred.numel() - 1) ** 0.5 / 4
    codes = (centred / width + 2).round().clamp(0, 3).to(torch.uint8)
    flat = codes.view(-1).long()
    sums = torch.zeros(4).scatter_add_(0, flat, centred.view(-1))
    counts = torch.zeros(4).scatter_add_(0, flat, torch.ones(flat.shape))
    return codes, sums / counts.clamp(min=1) + values.mean()


def _pack12(indices: Tensor) -> Tensor:
    indices = indices.sort(dim=1).values
    low, high = indices[:, 0::2], indices[:, 1::2]
    triples = torch.stack([low & 255, low >> 8 | (high & 15) << 4, high >> 4], dim=2)
    return triples.to(torch.uint8).view(len(indices), -1)
