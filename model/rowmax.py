"""Which values of a chunk are sent: the largest in magnitude of each of its k rows of chunk / k consecutive values.

Of a 64x64 block with k = 64 that is one of each row of 64. Compared with the k largest of the chunk, an index takes
exactly log2(chunk / k) bits, the selection is an argmax, and every part of the chunk is heard.

No paper's: SparseLoCo (arXiv 2508.15706) takes the k largest of a chunk. That a structured choice of as many need not
lose is known of weights (N:M sparsity, arXiv 2104.08378); of pseudo-gradients with error feedback it was found here
(`python -m tests.bench learning`): loss of 0.5M parameters at equal tokens, each rule at its best α, two seeds.

    peers, inner steps, rounds    row1 (α 4)       covenant (α 2)    templar (α 1)
    4, 5, 200                     3.894  3.873     3.982  3.931      4.109  4.055
    8, 5, 150                     4.145  4.129     4.369  4.279      4.600  4.681
    4, 15, 150                    3.943  3.953     4.006  4.009      3.968  3.922
    4, 30, 60                     4.105  4.127     4.163  4.209      4.173  4.110

With it goes a larger α, as supports of peers hardly overlap and dividing by the roster leaves each coordinate a
fraction of what one peer sent. Templar's rule was better twice, with one of the seeds where rounds are long: there a
mean over senders also is better for row1 (15 steps: 3.931, α 1) than one over the roster, as it is not with 5 steps,
and what lies between the two helps one seed of 15 steps (3.923; the other 3.950) and costs 0.02 to 0.1 with 5. α 2
(3.969 and 3.988 with 15 steps, 4.151 with 30) and β 0.99 (4.042) are worse.
"""

import numpy as np
import torch
from torch import Tensor

_CACHED_VALUES = 1 << 16  # their magnitudes stay in a core's own cache


def select(chunks: Tensor, valid: Tensor | None, kept: Tensor, k: int) -> Tensor:
    """The largest |value| of each row, ties to the lowest index.

    chunks fp32 [m, chunk], finite, 0 at padding, which follows what is valid in each row; so padding is selected
    only where a whole row is padding, and its index is then 0. `valid` and `kept` are not needed. Returns int16
    [m, k].
    """
    count, chunk = chunks.shape
    row = chunk // k
    columns, _ = largest(chunks.view(-1, row))
    indices = columns.view(count, k) + torch.arange(0, chunk, row)
    if valid is not None:
        indices[~valid.gather(1, indices)] = 0
    return indices.to(torch.int16)


def largest(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of contiguous fp32 [n, row] the first of the largest |values| of each row: its column int64 [n], itself [n].

    numpy's argmax is vectorised and promises the first of equals; torch's does neither.
    """
    columns, found = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows))
    step = max(1, _CACHED_VALUES // rows.shape[1])
    scratch = np.empty((min(len(rows), step), rows.shape[1]), np.float32)
    for start in range(0, len(rows), step):
        part, span = rows[start : start + step], slice(start, start + step)
        np.abs(part.numpy(), out=scratch[: len(part)]).argmax(axis=1, out=columns[span].numpy())
        torch.gather(part, 1, columns[span].unsqueeze(1), out=found[span].unsqueeze(1))
    return columns, found
