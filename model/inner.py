"""Inner training: the schedule, and one step of AdamW on local data."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.adamw import AdamW
from model.config import InnerConfig
from model.optimizerfile import load_optimizer, optimizer_state, restore_optimizer, save_optimizer

_BF16_CAPABILITY = (8, 0)  # Ampere

__all__ = [
    "AdamW",
    "StepResult",
    "inner_step",
    "learning_rate",
    "load_optimizer",
    "make_optimizer",
    "optimizer_state",
    "restore_optimizer",
    "save_optimizer",
    "training_precision",
]


class StepResult(NamedTuple):
    """What one inner step saw: mean loss in nats, and the gradient's norm before clipping."""

    loss: float
    gradient_norm: float

    @property
    def finite(self) -> bool:
        """False: the step was skipped, parameters and optimiser are as before."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


def learning_rate(config: InnerConfig, step: int) -> float:
    """For inner step `step` of the run, from 0: a linear rise over warmup_steps, half a cosine down to
    final_learning_rate_ratio of the peak over the next decay_steps, then flat."""
    if step < config.warmup_steps:
        return config.peak_learning_rate * (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.decay_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    floor = config.final_learning_rate_ratio
    return config.peak_learning_rate * (floor + (1.0 - floor) * cosine)


def make_optimizer(model: nn.Module, config: InnerConfig) -> AdamW:
    """A fresh AdamW over all parameters of the model, on the device they are on."""
    return AdamW(model.parameters(), (config.beta1, config.beta2), config.weight_decay)


def training_precision(device: torch.device) -> AbstractContextManager[object]:
    """For the forward pass: on a GPU with bf16 units, matrix products are in bf16, those of the backward pass too;
    parameters, their gradients and moments are kept in fp32. On a CPU all is fp32. What a miner trains with is its own
    affair: θ and Δ are fp32."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY:
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def inner_step(model: nn.Module, optimizer: AdamW, batch: Tensor, lr: float, clip: float) -> StepResult:
    """One step on int64 [B, T+1] tokens, on the model's device. A loss or gradient that is not finite skips the
    optimiser and shows in the result, so that one bad batch cannot poison the parameters and the moments."""
    optimizer.zero_grad()
    with training_precision(batch.device):
        loss = model.loss(batch)  # type: ignore[operator]  # nn.Module types its methods as tensors
    loss.backward()
    norm = nn.utils.clip_grad_norm_(optimizer.parameters, clip)
    result = StepResult(float(loss.detach()), float(norm))
    if result.finite:
        optimizer.step(lr)
    return result
