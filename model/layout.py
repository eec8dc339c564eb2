"""How the flat θ is cut into chunks. Follows from names, shapes and the codec alone, so no file carries a table.

A 2-D tensor is cut into square blocks of chunk = side x side values (64 x 64), row by row of blocks, so that a
chunk never crosses a shard of a tensor split along rows or columns. Blocks at the right and lower edge are padded
with zeros. All 1-D tensors are joined, in parameter order, into one run cut into chunks, the last one padded; the
run counts as one tensor ("group") for norms and comes after the 2-D tensors. Padding is never selected: a chunk
with fewer than k valid positions keeps all of them, so each chunk's number of entries follows from the layout.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Protocol

import torch
from blake3 import blake3
from torch import Tensor

from model.config import CompressionConfig

MAX_CHUNK = 4096
CODECS = ("topk2-plain",)
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Group(Protocol):
    """Consecutive chunks [first, stop) that share one norm."""

    @property
    def name(self) -> str: ...

    @property
    def first(self) -> int: ...

    @property
    def stop(self) -> int: ...

    @property
    def padded(self) -> bool:
        """Whether any chunk has padding."""
        ...

    def chunks_of(self, flat: Tensor) -> Tensor:
        """fp32 [P] -> fp32 [stop - first, chunk], a copy or a view; padding is 0."""
        ...

    def positions(self, indices: Tensor) -> Tensor:
        """int64 [stop - first, any] indices in each chunk -> int64 positions in θ, -1 at padding."""
        ...


@dataclass(frozen=True)
class Matrix:
    """The blocks of one 2-D tensor at `offset` in θ."""

    name: str
    first: int
    offset: int
    rows: int
    columns: int
    side: int

    @property
    def down(self) -> int:
        return -(-self.rows // self.side)

    @property
    def across(self) -> int:
        return -(-self.columns // self.side)

    @property
    def stop(self) -> int:
        return self.first + self.down * self.across

    @property
    def padded(self) -> bool:
        return bool(self.rows % self.side or self.columns % self.side)

    def chunks_of(self, flat: Tensor) -> Tensor:
        matrix = flat[self.offset : self.offset + self.rows * self.columns].view(self.rows, self.columns)
        if self.padded:
            padding = (0, self.across * self.side - self.columns, 0, self.down * self.side - self.rows)
            matrix = torch.nn.functional.pad(matrix, padding)
        blocks = matrix.view(self.down, self.side, self.across, self.side)
        return blocks.permute(0, 2, 1, 3).reshape(-1, self.side * self.side)

    def positions(self, indices: Tensor) -> Tensor:
        block = torch.arange(self.stop - self.first).unsqueeze(1)
        row = block // self.across * self.side + indices // self.side
        column = block % self.across * self.side + indices % self.side
        inside = (row < self.rows) & (column < self.columns)
        return torch.where(inside, self.offset + row * self.columns + column, -1)


@dataclass(frozen=True)
class Run:
    """All 1-D tensors as one run of chunks; `spans` are their (offset, length) in θ."""

    name: str
    first: int
    spans: tuple[tuple[int, int], ...]
    chunk: int

    @property
    def length(self) -> int:
        return sum(length for _, length in self.spans)

    @property
    def stop(self) -> int:
        return self.first + -(-self.length // self.chunk)

    @property
    def padded(self) -> bool:
        return self.length % self.chunk != 0

    def _table(self) -> Tensor:
        """Position in θ of each place of the run, -1 at padding; int64 [(stop - first) * chunk]."""
        table = torch.full(((self.stop - self.first) * self.chunk,), -1)
        valid = torch.cat([torch.arange(offset, offset + length) for offset, length in self.spans])
        table[: len(valid)] = valid
        return table

    def chunks_of(self, flat: Tensor) -> Tensor:
        table = self._table()
        return torch.where(table >= 0, flat[table.clamp(min=0)], 0.0).view(-1, self.chunk)

    def positions(self, indices: Tensor) -> Tensor:
        start = torch.arange(self.stop - self.first).unsqueeze(1) * self.chunk
        return self._table()[start + indices]


@dataclass(frozen=True, eq=False)
class Layout:
    """The cut of one model under one compression; equal layouts have equal `hash`."""

    groups: tuple[Group, ...]
    parameters: int
    chunk: int
    k: int  # entries of a chunk that has at least k valid positions
    hash: str  # 64 hex digits
    kept: Tensor  # int64 [chunks], entries of each chunk: min(k, its valid positions)

    @staticmethod
    def of(shapes: Shapes, compression: CompressionConfig) -> "Layout":
        """Raises ValueError: unknown codec, a chunk that is no square <= 4096, or a tensor of other than 1 or 2
        dimensions."""
        _check(shapes, compression)
        groups, parameters = _groups(shapes, compression.chunk)
        k = compression.kept_per_chunk
        kept = torch.cat([_valid_counts(group, compression.chunk).clamp(max=k) for group in groups])
        return Layout(groups, parameters, compression.chunk, k, _hash(shapes, compression), kept)

    @property
    def chunks(self) -> int:
        return len(self.kept)

    @property
    def entries(self) -> int:
        """Kept values of a contribution."""
        return int(self.kept.sum())

    @property
    def present(self) -> Tensor:
        """bool [chunks, k]: which places of a rectangle of entries are used."""
        return torch.arange(self.k) < self.kept.unsqueeze(1)

    def to_chunks(self, flat: Tensor) -> Tensor:
        """fp32 [P] -> fp32 [chunks, chunk]; padding is 0."""
        return torch.cat([group.chunks_of(flat) for group in self.groups])

    def from_chunks(self, chunks: Tensor) -> Tensor:
        """The inverse of `to_chunks`: [chunks, chunk] -> [P]; padding is dropped."""
        flat = torch.empty(self.parameters, dtype=chunks.dtype)
        for group in self.groups:
            positions = all_positions(group, self.chunk)
            valid = positions >= 0
            flat[positions[valid]] = chunks[group.first : group.stop][valid]
        return flat


def all_positions(group: Group, chunk: int) -> Tensor:
    """int64 [stop - first, chunk]: the position in θ of every place of a group, -1 at padding."""
    return group.positions(torch.arange(chunk).expand(group.stop - group.first, chunk))


def _check(shapes: Shapes, compression: CompressionConfig) -> None:
    if compression.codec not in CODECS:
        raise ValueError(f"unknown codec {compression.codec!r}, known: {', '.join(CODECS)}")
    chunk, k = compression.chunk, compression.kept_per_chunk
    if not 1 <= chunk <= MAX_CHUNK or isqrt(chunk) ** 2 != chunk or not 1 <= k <= chunk:
        raise ValueError(f"cannot keep {k} of {chunk}: the chunk must be a square, at most {MAX_CHUNK}")
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


def _valid_counts(group: Group, chunk: int) -> Tensor:
    """int64 [stop - first]; arithmetic for matrices, so that no model-sized table is made."""
    if isinstance(group, Matrix):
        heights = (group.rows - torch.arange(group.down) * group.side).clamp(max=group.side)
        widths = (group.columns - torch.arange(group.across) * group.side).clamp(max=group.side)
        return (heights.unsqueeze(1) * widths).view(-1)
    return (all_positions(group, chunk) >= 0).sum(1)


def _hash(shapes: Shapes, compression: CompressionConfig) -> str:
    lines = ["covenantd layout 1", f"codec {compression.codec}", f"chunk {compression.chunk}"]
    lines.append(f"kept {compression.kept_per_chunk}")
    lines += [f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes]
    return blake3("".join(line + "\n" for line in lines).encode()).hexdigest()
