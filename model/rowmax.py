"""Which values of a chunk are sent: the largest in magnitude of each of its k rows of chunk / k consecutive values.

Of a 64x64 block with k = 64 that is one of each row of 64. Compared with the k largest of the chunk, an index takes
exactly log2(chunk / k) bits, the selection is an argmax, and every part of the chunk is heard.
"""

import numpy as np
import torch
from torch import Tensor

_CACHED_CHUNKS = 32  # their magnitudes stay in a core's own cache


def select(chunks: Tensor, valid: Tensor | None, kept: Tensor, k: int) -> Tensor:
    """The largest |value| of each row, ties to the lowest index.

    chunks fp32 [m, chunk], finite, 0 at padding, which follows what is valid in each row; so padding is selected
    only where a whole row is padding, and its index is then 0. `valid` and `kept` are not needed. Returns int16
    [m, k]. numpy's argmax is vectorised and promises the first of equals; torch's does neither.
    """
    count, chunk = chunks.shape
    row = chunk // k
    columns = np.empty((count, k), np.int64)
    values, scratch = chunks.numpy(), np.empty((min(count, _CACHED_CHUNKS), chunk), np.float32)
    for start in range(0, count, _CACHED_CHUNKS):
        part = values[start : start + _CACHED_CHUNKS]
        magnitudes = np.abs(part, out=scratch[: len(part)]).reshape(-1, k, row)
        magnitudes.argmax(axis=2, out=columns[start : start + _CACHED_CHUNKS])
    indices = torch.from_numpy(columns + np.arange(0, chunk, row))
    if valid is not None:
        indices[~valid.gather(1, indices)] = 0
    return indices.to(torch.int16)
