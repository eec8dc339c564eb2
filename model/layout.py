"""How the flat θ is cut into chunks. Follows from names, shapes and the codec alone, so no file carries a table.

A 2-D tensor is cut into square blocks of chunk = side x side values (64 x 64), row by row of blocks, so that a
chunk never crosses a shard of a tensor split along rows or columns. Blocks at the right and lower edge are padded
with zeros. All 1-D tensors are joined, in parameter order, into one run cut into chunks, the last one padded; the
run counts as one tensor ("group") for norms and comes after the 2-D tensors. Padding is never selected, so which
entries a chunk has follows from the layout: min(k, its valid positions) where k of a chunk are selected, and one of
each row of chunk / k values that is not all padding where one of a row is (`row1`).
"""

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import torch
from blake3 import blake3
from torch import Tensor

from model.config import CompressionConfig, trouble_with
from model.groups import Group, Matrix, Run

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """The cut of one model under one compression; equal layouts have equal `hash`."""

    groups: tuple[Group, ...]
    parameters: int
    compression: CompressionConfig
    hash: str  # 64 hex digits
    kept: Tensor  # int64 [chunks], entries of each chunk

    @staticmethod
    def of(shapes: Shapes, compression: CompressionConfig) -> "Layout":
        """Raises ValueError: a compression that there is not, see `config.trouble_with`, or a tensor of other than 1 or
        2 dimensions."""
        _check(shapes, compression)
        groups, parameters = _groups(shapes, compression.chunk)
        kept = torch.cat([_kept_in(group, compression) for group in groups])
        return Layout(groups, parameters, compression, _hash(shapes, compression), kept)

    @property
    def chunk(self) -> int:
        return self.compression.chunk

    @property
    def k(self) -> int:
        """Entries of a chunk without padding."""
        return self.compression.kept_per_chunk

    @property
    def chunks(self) -> int:
        return len(self.kept)

    @cached_property
    def entries(self) -> int:
        """Kept values of a contribution."""
        return int(self.kept.sum())

    @cached_property
    def present(self) -> Tensor:
        """bool [chunks, k]: which places of a rectangle of entries are used."""
        return torch.cat([_present(group, self.compression, self.kept) for group in self.groups])

    def present_in(self, group: Group) -> Tensor | None:
        """bool [stop - first, k] of a group or a band of one; None if all are used."""
        return self.present[group.first : group.stop] if group.padded else None

    def to_chunks(self, flat: Tensor) -> Tensor:
        """fp32 [P] -> fp32 [chunks, chunk]; padding is 0."""
        return torch.cat([group.chunks_of(flat) for group in self.groups])

    def from_chunks(self, chunks: Tensor) -> Tensor:
        """The inverse of `to_chunks`: [chunks, chunk] -> [P]; padding is dropped."""
        flat = torch.empty(self.parameters, dtype=chunks.dtype)
        for group in self.groups:
            part, start = group.from_chunks(chunks[group.first : group.stop]), 0
            for offset, length in group.spans:
                flat[offset : offset + length] = part[start : start + length]
                start += length
        return flat


def _check(shapes: Shapes, compression: CompressionConfig) -> None:
    trouble = trouble_with(compression)
    if trouble:
        raise ValueError(trouble)
    if not shapes:
        raise ValueError("a layout needs at least one tensor")
    for name, shape in shapes:
        if len(shape) not in (1, 2) or min(shape) < 1 or not name.isprintable() or " " in name:
            raise ValueError(f"tensor {name!r} of shape {shape} cannot be cut into chunks")


def _groups(shapes: Shapes, chunk: int) -> tuple[tuple[Group, ...], int]:
    groups: list[Group] = []
    spans: list[tuple[int, int]] = []
    first = offset = 0
    for name, shape in shapes:
        if len(shape) == 2:
            matrix = Matrix(name, first, offset, *shape, isqrt(chunk))
            groups.append(matrix)
            first = matrix.stop
        else:
            spans.append((offset, shape[0]))
        offset += torch.Size(shape).numel()
    if spans:
        groups.append(Run("1-D run", first, tuple(spans), chunk))
    return tuple(groups), offset


def _present(group: Group, compression: CompressionConfig, kept: Tensor) -> Tensor:
    chunk, k, count = compression.chunk, compression.kept_per_chunk, group.stop - group.first
    if not group.padded:
        return torch.ones(count, k, dtype=torch.bool)
    if compression.codec != "row1":
        return torch.arange(k) < kept[group.first : group.stop].unsqueeze(1)
    heads = torch.arange(0, chunk, chunk // k)  # a row's first place is padding only if all of it is
    return torch.cat([band.places(heads.expand(band.stop - band.first, k)) >= 0 for band in group.bands(1024)])


def _kept_in(group: Group, compression: CompressionConfig) -> Tensor:
    """int64 [stop - first]."""
    if compression.codec == "row1" and group.padded:
        return _present(group, compression, torch.empty(0)).sum(1)
    return _valid_counts(group, compression.chunk).clamp(max=compression.kept_per_chunk)


def _valid_counts(group: Group, chunk: int) -> Tensor:
    """int64 [stop - first]; arithmetic for matrices, so that no model-sized table is made."""
    if isinstance(group, Matrix):
        heights = (group.rows - torch.arange(group.down) * group.side).clamp(max=group.side)
        widths = (group.columns - torch.arange(group.across) * group.side).clamp(max=group.side)
        return (heights.unsqueeze(1) * widths).view(-1)
    starts = torch.arange(group.stop - group.first) * chunk
    return (group.length - starts).clamp(max=chunk)


def _hash(shapes: Shapes, compression: CompressionConfig) -> str:
    lines = ["covenantd layout 1", f"codec {compression.codec}", f"chunk {compression.chunk}"]
    lines.append(f"kept {compression.kept_per_chunk}")
    lines += [f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes]
    return blake3("".join(line + "\n" for line in lines).encode()).hexdigest()
