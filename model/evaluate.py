"""Loss of a model on chosen sequences."""

from collections.abc import Sequence

import torch
from torch import nn

from model.data import TokenPool
from model.pulse import Beat, no_beat


@torch.inference_mode()
def mean_loss(
    model: nn.Module, pool: TokenPool, indices: Sequence[int], batch_sequences: int, beat: Beat = no_beat
) -> float:
    """Mean cross entropy in nats per token over the sequences `indices`, `batch_sequences` and a `beat` at a time.

    Parameters and gradients stay as they are. Not finite if the model is not. Raises ValueError on no sequences,
    IndexError and DataError as the pool does.
    """
    if not indices or batch_sequences < 1:
        raise ValueError(f"{len(indices)} sequences in batches of {batch_sequences}: nothing to evaluate")
    device = next(model.parameters()).device
    total = 0.0
    for start in range(0, len(indices), batch_sequences):
        batch = pool.batch(indices[start : start + batch_sequences]).to(device)
        total += float(model.loss(batch)) * len(batch)  # type: ignore[operator]  # see model.inner
        beat()
    return total / len(indices)
