"""What a codec is made of: selection, quantisation, three sections of bytes, and what a sum is divided by.

`covenant` is SparseLoCo as its papers have it (arXiv 2508.15706, 2603.08163); `topk2` the same update in fewer bytes;
`templar` what Templar's code does, from its description; `row1` one of each row and a sign. The names are those of
`config.CODECS`; the run spec chooses. `row1` is the default: half the bytes of the paper's rule at a lower loss.

All of it works on CPU tensors: θ, the error feedback and the contributions are there whatever device trains, so the
device cannot change a bit of what peers must agree on, and no selection costs a GPU memory. On the CPU, nothing
depends on threads, vector width, bands, shards or whether `kernels` are compiled: comparisons are exact, sums of
floats have one order, and each operation is rounded by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model import quantize, rowmax, sections, templar, topk
from model.config import CompressionConfig
from model.sections import Section


@dataclass(frozen=True)
class Rule:
    """Pure functions; the same bits for any thread count."""

    codec_id: int  # in a contribution's header
    select: Callable[[Tensor, Tensor | None, Tensor, int], Tensor]  # see `topk.select`
    quantise: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]  # see `quantize.quantize`, `templar.quantize`
    dequantise: Callable[[Tensor, Tensor], Tensor]  # see `quantize.dequantize`, `templar.dequantize`
    norm: Callable[[Tensor, Tensor, Tensor], float]  # see `quantize.norm`, `templar.norm`
    per_tensor: bool  # whether a whole tensor is quantised together, to levels in fp32, and not each chunk
    scales: Section
    indices: Section
    codes: Section
    combination: str  # one of `config.COMBINATIONS`


RULES = {
    "covenant": Rule(
        1,
        topk.select,
        quantize.quantize,
        quantize.dequantize,
        quantize.norm,
        per_tensor=False,
        scales=sections.SCALES,
        indices=sections.INDICES_12,
        codes=sections.CODES_2,
        combination="roster",
    ),
    "row1": Rule(
        2,
        rowmax.select,
        quantize.quantize_signs,
        quantize.dequantize_signs,
        quantize.norm_signs,
        per_tensor=False,
        scales=sections.SCALES,
        indices=sections.COLUMNS,
        codes=sections.SIGNS,
        combination="roster",
    ),
    "topk2": Rule(
        3,
        topk.select,
        quantize.quantize,
        quantize.dequantize,
        quantize.norm,
        per_tensor=False,
        scales=sections.SCALES,
        indices=sections.RANKS,
        codes=sections.CODES_2,
        combination="roster",
    ),
    "templar": Rule(
        4,
        topk.select,
        templar.quantize,
        templar.dequantize,
        templar.norm,
        per_tensor=True,
        scales=sections.LEVELS_OF_TENSORS,
        indices=sections.INDICES_12,
        codes=sections.CODES_2,
        combination="senders",
    ),
}


def rule_of(compression: CompressionConfig) -> Rule:
    """Raises KeyError; a layout has checked the name."""
    return RULES[compression.codec]


def combination_of(compression: CompressionConfig) -> str:
    return compression.combination or rule_of(compression).combination
