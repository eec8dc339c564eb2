"""From a flat vector to what is sent of it: selection and quantisation by the rule of the layout's codec."""

import torch
from torch import Tensor

from model import rowmax
from model.groups import all_places
from model.kernels import kernels_for
from model.layout import Layout
from model.rules import Rule, rule_of
from model.sparse import Band, Sparse, band_chunks, bands


def compress(layout: Layout, flat: Tensor) -> Sparse:
    """Of a finite fp32 [P]; the same bits for any thread count.

    Beside the result, scratch memory of a band and, where tensors are quantised whole, their kept values.
    """
    rule = rule_of(layout.compression)
    indices = torch.empty(layout.chunks, layout.k, dtype=torch.int16)
    if rule.per_tensor:
        return _by_tensor(layout, rule, flat, indices)
    scales = torch.empty(layout.chunks, dtype=torch.uint8)
    codes = torch.empty(layout.chunks, layout.k, dtype=torch.uint8)
    compiled = rule.select is rowmax.select and kernels_for(flat) is not None
    for band in bands(layout, band_chunks(compiled)):
        kept = _select(layout, rule, band, flat, indices)
        scales[band.rows], codes[band.rows] = rule.quantise(kept, band.present)
    return Sparse(scales, indices, codes)


def _by_tensor(layout: Layout, rule: Rule, flat: Tensor, indices: Tensor) -> Sparse:
    kept = torch.empty(layout.chunks, layout.k, dtype=torch.float32)
    for band in bands(layout):
        kept[band.rows] = _select(layout, rule, band, flat, indices)
    found = []
    for group in layout.groups:
        found.append(rule.quantise(kept[group.first : group.stop], layout.present_in(group)))
    levels, codes = zip(*found, strict=True)
    return Sparse(torch.stack(levels), indices, torch.cat(codes))


def _select(layout: Layout, rule: Rule, band: Band, flat: Tensor, indices: Tensor) -> Tensor:
    """Fills in the band's indices; returns the values there, fp32 [chunks of the band, k]."""
    if rule.select is rowmax.select and not band.group.padded:
        return _select_rows(layout, band, flat, indices)
    chunks = band.group.chunks_of(flat)
    valid = all_places(band.group, layout.chunk) >= 0 if band.group.padded else None
    chosen = rule.select(chunks, valid, layout.kept[band.rows], layout.k)
    indices[band.rows] = chosen
    return chunks.gather(1, chosen.long())


def _select_rows(layout: Layout, band: Band, flat: Tensor, indices: Tensor) -> Tensor:
    """The same without a copy of the chunks: only what was found is brought into their order."""
    row = layout.chunk // layout.k
    kernels = kernels_for(flat)
    columns, values = (rowmax.largest if kernels is None else kernels.largest)(band.group.rows_of(flat, row))
    heads = torch.arange(0, layout.chunk, row, dtype=torch.int16)
    torch.add(band.group.by_chunk(columns.to(torch.int16), row), heads, out=indices[band.rows])
    return band.group.by_chunk(values, row)
