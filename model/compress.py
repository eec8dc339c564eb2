"""From a flat vector to what is sent of it: selection and quantisation by the rule of the layout's codec."""

import torch
from torch import Tensor

from model import rowmax
from model.groups import Group, all_places
from model.kernels import kernels_for
from model.layout import Layout
from model.rules import Rule, rule_of
from model.sparse import Band, Sparse, band_chunks, bands


def compress(layout: Layout, flat: Tensor, part: range | None = None) -> Sparse:
    """Of a finite fp32 [P]; the same bits for any thread count.

    Beside the result, scratch memory of a band and, where tensors are quantised whole, their kept values. `part`: only
    these chunks, of which the result is, see `sparse.bands`; where tensors are quantised whole, only whole ones, else
    ValueError.
    """
    rule, part = rule_of(layout.compression), part or range(layout.chunks)
    indices = torch.empty(len(part), layout.k, dtype=torch.int16)
    if rule.per_tensor:
        return _by_tensor(layout, rule, flat, indices, part)
    scales = torch.empty(len(part), dtype=torch.uint8)
    codes = torch.empty(len(part), layout.k, dtype=torch.uint8)
    compiled = rule.select is rowmax.select and kernels_for(flat) is not None
    for band in bands(layout, band_chunks(compiled), part):
        rows = _within(band.group, part)
        kept = _select(layout, rule, band, flat, indices[rows])
        scales[rows], codes[rows] = rule.quantise(kept, band.present)
    return Sparse(scales, indices, codes)


def _by_tensor(layout: Layout, rule: Rule, flat: Tensor, indices: Tensor, part: range) -> Sparse:
    groups = [group for group in layout.groups if group.first < part.stop and group.stop > part.start]
    if groups[0].first < part.start or groups[-1].stop > part.stop:
        raise ValueError(f"chunks {part.start} to {part.stop} cut a tensor, which this codec quantises whole")
    kept = torch.empty(len(part), layout.k, dtype=torch.float32)
    for band in bands(layout, None, part):
        rows = _within(band.group, part)
        kept[rows] = _select(layout, rule, band, flat, indices[rows])
    found = [rule.quantise(kept[_within(group, part)], layout.present_in(group)) for group in groups]
    levels, codes = zip(*found, strict=True)
    return Sparse(torch.stack(levels), indices, torch.cat(codes))


def _within(group: Group, part: range) -> slice:
    return slice(group.first - part.start, group.stop - part.start)


def _select(layout: Layout, rule: Rule, band: Band, flat: Tensor, indices: Tensor) -> Tensor:
    """Fills in the band's indices, int16 [its chunks, k]; returns the values there, fp32 [chunks of the band, k]."""
    if rule.select is rowmax.select and not band.group.padded:
        return _select_rows(layout, band, flat, indices)
    chunks = band.group.chunks_of(flat)
    valid = all_places(band.group, layout.chunk) >= 0 if band.group.padded else None
    chosen = rule.select(chunks, valid, layout.kept[band.rows], layout.k)
    indices[:] = chosen
    return chunks.gather(1, chosen.long())


def _select_rows(layout: Layout, band: Band, flat: Tensor, indices: Tensor) -> Tensor:
    """The same without a copy of the chunks: only what was found is brought into their order."""
    row = layout.chunk // layout.k
    kernels = kernels_for(flat)
    columns, values = (rowmax.largest if kernels is None else kernels.largest)(band.group.rows_of(flat, row))
    heads = torch.arange(0, layout.chunk, row, dtype=torch.int16)
    torch.add(band.group.by_chunk(columns.to(torch.int16), row), heads, out=indices)
    return band.group.by_chunk(values, row)
