"""Which values of a chunk are sent: the largest in magnitude of each of its k rows of chunk / k consecutive values.

Of a 64x64 block with k = 64 that is one of each row of 64. Compared with the k largest of the chunk, an index takes
exactly log2(chunk / k) bits, the selection is an argmax, and every part of the chunk is heard.

No paper's: SparseLoCo (arXiv 2508.15706) takes the k largest of a chunk. That a structured choice of as many need not
lose is known of weights (N:M sparsity, arXiv 2104.08378); of pseudo-gradients with error feedback it was found here
(`python -m tests.bench learning`): loss of 0.5M parameters at equal tokens, mean of three seeds, each rule at the best
of what was tried for it of α (0.5 to 8) and β (0.9, 0.95).

    peers, inner steps, rounds    row1 (4, 0.9)   the same, β 0.95   covenant (2, 0.95)   templar (best α, β)
    4, 5, 200                     3.901           3.893              3.966                4.017
    4, 15, 150                    3.932           3.945              3.980                3.978
    8, 5, 150                     4.134           4.162              4.324                4.438
    4, 30, 60                     4.079           4.118              4.177                4.139

By seed, one of these 24 comparisons goes the other way, by 0.023. Among eight, with 15 and 30 steps, one seed, it is
4.153 to covenant's 4.326 and 4.246 to 4.473. With it goes a larger α, constant, as supports of peers hardly overlap
and dividing by the roster leaves each coordinate a fraction of what one peer sent; and a β of 0.9: better than the
papers' 0.95 but in the first line, where 400 rounds make it 3.663 to 3.660. It does not help the other rules so
(templar in two of four, covenant in none). Against it speaks 3M parameters, 15 steps, 60 rounds, one seed: 4.411
(4.405 at α 2), covenant 4.453, but 4.367 at a β of 0.9; with 10M and 20 rounds, β 0.95, it is 4.971 to 5.037. Not
better throughout: the mean over senders (15 steps: 3.931 at α 1; worse with 5), the sum over the root of the senders,
α 2, 8 and falling, β 0.99.
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
