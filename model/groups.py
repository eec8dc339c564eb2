"""Consecutive chunks that belong together: the blocks of a 2-D tensor, and the run of all 1-D tensors."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Group(Protocol):
    """Consecutive chunks [first, stop): a tensor that has a norm of its own, or a band of one."""

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

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(offset, length) in θ of its parameters; one after the other they are its places."""
        ...

    @property
    def length(self) -> int:
        """Its parameters."""
        ...

    def chunks_of(self, flat: Tensor) -> Tensor:
        """fp32 [P] -> fp32 [stop - first, chunk], a copy or a view; padding is 0."""
        ...

    def rows_of(self, flat: Tensor, row: int) -> Tensor:
        """fp32 [P] -> fp32 [n, row]: `chunks_of` in rows of `row`, in the order of θ where that is a view."""
        ...

    def by_chunk(self, of_rows: Tensor, row: int) -> Tensor:
        """One value [n] for each of `rows_of` -> [stop - first, rows of a chunk]."""
        ...

    def subtract_chunks(self, flat: Tensor, chunks: Tensor, out: Tensor) -> None:
        """out ← flat - chunks on its parameters, both fp32 [P]; [stop - first, chunk]."""
        ...

    def from_chunks(self, chunks: Tensor) -> Tensor:
        """The inverse on one group: [stop - first, chunk] -> [length], a copy or a view; padding is dropped."""
        ...

    def places(self, indices: Tensor) -> Tensor:
        """int64 [stop - first, any] indices in each chunk -> int64 places in [0, length), -1 at padding."""
        ...

    def in_theta(self, places: Tensor) -> Tensor:
        """int64 places in [0, length) -> int64 positions in θ."""
        ...

    def part(self, first: int, stop: int) -> "Group":
        """What of it is in the chunks [first, stop), which are all its own. Raises ValueError: a cut through a row of
        blocks."""
        ...

    def bands(self, chunks: int) -> Iterator["Group"]:
        """Cut into groups of about that many chunks, at least one: what is done at a time bounds scratch memory."""
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

    @property
    def length(self) -> int:
        return self.rows * self.columns

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        return ((self.offset, self.length),)

    def chunks_of(self, flat: Tensor) -> Tensor:
        matrix = flat[self.offset : self.offset + self.length].view(self.rows, self.columns)
        if self.padded:
            padding = (0, self.across * self.side - self.columns, 0, self.down * self.side - self.rows)
            matrix = torch.nn.functional.pad(matrix, padding)
        blocks = matrix.view(self.down, self.side, self.across, self.side)
        return blocks.permute(0, 2, 1, 3).reshape(-1, self.side * self.side)

    def rows_of(self, flat: Tensor, row: int) -> Tensor:
        if not self._in_rows(row):
            return self.chunks_of(flat).view(-1, row)
        return flat[self.offset : self.offset + self.length].view(-1, row)

    def by_chunk(self, of_rows: Tensor, row: int) -> Tensor:
        if not self._in_rows(row):
            return of_rows.view(self.stop - self.first, -1)
        blocks = of_rows.view(self.down, self.side, self.across, self.side // row)
        return blocks.permute(0, 2, 1, 3).reshape(self.stop - self.first, -1)

    def _in_rows(self, row: int) -> bool:
        """Whether a row of a chunk lies in one row of the tensor."""
        return not self.padded and self.side % row == 0

    def subtract_chunks(self, flat: Tensor, chunks: Tensor, out: Tensor) -> None:
        shape = (self.rows, self.columns) if self.padded else (self.down, self.side, self.across, self.side)
        old, new = (one[self.offset : self.offset + self.length].view(shape) for one in (flat, out))
        if self.padded:
            torch.sub(old, self.from_chunks(chunks).view(shape), out=new)
        else:
            blocks = chunks.view(self.down, self.across, self.side, self.side)
            torch.sub(old, blocks.permute(0, 2, 1, 3), out=new)

    def from_chunks(self, chunks: Tensor) -> Tensor:
        blocks = chunks.view(self.down, self.across, self.side, self.side).permute(0, 2, 1, 3)
        matrix = blocks.reshape(self.down * self.side, self.across * self.side)
        return matrix[: self.rows, : self.columns].reshape(-1)

    def places(self, indices: Tensor) -> Tensor:
        block = torch.arange(self.stop - self.first).unsqueeze(1)
        top, left = block // self.across * self.side, block % self.across * self.side
        row, column = torch.arange(self.side).unsqueeze(1), torch.arange(self.side)
        in_block = (row * self.columns + column).view(-1)  # a table: division is slow
        places = torch.index_select(in_block, 0, indices.reshape(-1)).view(indices.shape)
        places += top * self.columns + left
        if self.padded:
            inside = (top + indices // self.side < self.rows) & (left + indices % self.side < self.columns)
            places[~inside] = -1
        return places

    def in_theta(self, places: Tensor) -> Tensor:
        return places + self.offset

    def part(self, first: int, stop: int) -> "Matrix":
        if (first - self.first) % self.across or (stop - self.first) % self.across:
            raise ValueError(f"chunks {first} to {stop} of {self.name} are no whole rows of {self.across} blocks")
        top, bottom = ((chunk - self.first) // self.across * self.side for chunk in (first, stop))
        rows = min(self.rows, bottom) - top
        return replace(self, first=first, offset=self.offset + top * self.columns, rows=rows)

    def bands(self, chunks: int) -> Iterator["Matrix"]:
        """Whole rows of blocks."""
        step = max(1, chunks // self.across) * self.across
        for first in range(self.first, self.stop, step):
            yield self.part(first, min(first + step, self.stop))


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

    def chunks_of(self, flat: Tensor) -> Tensor:
        joined = torch.cat([flat[offset : offset + length] for offset, length in self.spans])
        padding = (self.stop - self.first) * self.chunk - self.length
        return torch.nn.functional.pad(joined, (0, padding)).view(-1, self.chunk)

    def rows_of(self, flat: Tensor, row: int) -> Tensor:
        return self.chunks_of(flat).view(-1, row)

    def by_chunk(self, of_rows: Tensor, row: int) -> Tensor:
        return of_rows.view(self.stop - self.first, -1)

    def subtract_chunks(self, flat: Tensor, chunks: Tensor, out: Tensor) -> None:
        part, start = self.from_chunks(chunks), 0
        for offset, length in self.spans:
            span = slice(offset, offset + length)
            torch.sub(flat[span], part[start : start + length], out=out[span])
            start += length

    def from_chunks(self, chunks: Tensor) -> Tensor:
        return chunks.reshape(-1)[: self.length]

    def places(self, indices: Tensor) -> Tensor:
        places = torch.arange(self.stop - self.first).unsqueeze(1) * self.chunk + indices
        return torch.where(places < self.length, places, -1)

    def in_theta(self, places: Tensor) -> Tensor:
        return torch.cat([torch.arange(offset, offset + length) for offset, length in self.spans])[places]

    def part(self, first: int, stop: int) -> "Run":
        low, high = ((chunk - self.first) * self.chunk for chunk in (first, stop))
        return replace(self, first=first, spans=_between(self.spans, low, high))

    def bands(self, chunks: int) -> Iterator["Run"]:
        for first in range(self.first, self.stop, chunks):
            yield self.part(first, min(first + chunks, self.stop))


def _between(spans: tuple[tuple[int, int], ...], low: int, high: int) -> tuple[tuple[int, int], ...]:
    """What of the places [low, high) is in each span."""
    found, start = [], 0
    for offset, length in spans:
        begin, end = max(low - start, 0), min(high - start, length)
        if begin < end:
            found.append((offset + begin, end - begin))
        start += length
    return tuple(found)


def all_places(group: Group, chunk: int) -> Tensor:
    """int64 [stop - first, chunk]: the place of everything in a group, -1 at padding."""
    return group.places(torch.arange(chunk).expand(group.stop - group.first, chunk))


def all_positions(group: Group, chunk: int) -> Tensor:
    """int64 [stop - first, chunk]: the position in θ of everything in a group, -1 at padding."""
    places = all_places(group, chunk)
    return torch.where(places >= 0, group.in_theta(places.clamp(min=0)), -1)
