"""The inner optimiser: AdamW, its schedule, one step, and its state on disk.

AdamW: Loshchilov and Hutter, arXiv 1711.05101. The state file is ours to write and ours to read, never fetched:

    magic 8 · run id 32 · parameters u64 · Adam's steps u64 · the run's inner steps u64 ·
    exp_avg fp32 [P] · exp_avg_sq fp32 [P] · BLAKE3 of everything before it 32           (all little-endian)
"""

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor, nn

from model.atomicfile import replacing
from model.config import InnerConfig

_MAGIC = b"CVNADAM1"
_HEADER = struct.Struct("<8s32sQQQ")
_CHECKSUM_BYTES = 32
_MOMENTS = ("exp_avg", "exp_avg_sq")


class OptimizerFileError(ValueError):
    """An optimiser file that is torn, damaged or of another run; the message names it."""


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
    final_learning_rate_ratio of the peak over decay_steps, then flat."""
    if step < config.warmup_steps:
        return config.peak_learning_rate * (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.decay_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    floor = config.final_learning_rate_ratio
    return config.peak_learning_rate * (floor + (1.0 - floor) * cosine)


def make_optimizer(model: nn.Module, config: InnerConfig) -> torch.optim.AdamW:
    """AdamW over all parameters; only matrices decay, for a norm's gain has no business at zero."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.peak_learning_rate, betas=betas, fused=True)


def inner_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, lr: float, clip: float) -> StepResult:
    """One step on int64 [B, T+1] tokens. A loss or gradient that is not finite skips the optimiser and shows in
    the result, so that one bad batch cannot poison the parameters and the moments."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss = model.loss(batch)  # type: ignore[operator]  # nn.Module types its methods as tensors
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    result = StepResult(float(loss.detach()), float(norm))
    if result.finite:
        optimizer.step()
    return result


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """{"exp_avg": fp32 [P], "exp_avg_sq": fp32 [P], "step": int64 []}, on the CPU, in the optimiser's order
    (matrices, then vectors). Zeros before the first step."""
    parameters = list(_parameters(optimizer))
    flat = {moment: _flat_moment(optimizer, parameters, moment) for moment in _MOMENTS}
    step = optimizer.state[parameters[0]].get("step", 0)
    return {**flat, "step": torch.tensor(int(step), dtype=torch.int64)}


def _flat_moment(optimizer: torch.optim.Optimizer, parameters: list[Tensor], moment: str) -> Tensor:
    flat = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float32)
    for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        if moment in optimizer.state[parameter]:
            part.copy_(optimizer.state[parameter][moment].reshape(-1))
    return flat


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """The inverse of optimizer_state. Raises ValueError, before any change, if sizes don't fit."""
    parameters = list(_parameters(optimizer))
    sizes = [p.numel() for p in parameters]
    if any(state[moment].shape != (sum(sizes),) for moment in _MOMENTS):
        raise ValueError(f"want moments of {sum(sizes)} values, got {[list(state[m].shape) for m in _MOMENTS]}")
    for moment in _MOMENTS:
        for parameter, part in zip(parameters, torch.split(state[moment], sizes), strict=True):
            optimizer.state[parameter][moment] = part.view(parameter.shape).to(parameter.device, copy=True)
    for parameter in parameters:
        # fused AdamW wants its count as an fp32 tensor beside the parameter
        count = torch.tensor(float(state["step"]), dtype=torch.float32, device=parameter.device)
        optimizer.state[parameter]["step"] = count


def save_optimizer(path: Path | str, run_id: str, inner_step: int, optimizer: torch.optim.Optimizer) -> None:
    """Write the state file atomically. `run_id`: 64 hex digits; `inner_step`: inner steps of the run so far, by
    which the schedule goes on. Raises OSError; what was there before is then still there."""
    state = optimizer_state(optimizer)
    header = _HEADER.pack(_MAGIC, bytes.fromhex(run_id), state["exp_avg"].numel(), int(state["step"]), inner_step)
    parts: list[bytes | memoryview] = [header, *(_bytes(state[moment]) for moment in _MOMENTS)]
    hasher = blake3()
    with replacing(path) as file:
        for part in parts:
            hasher.update(part)
            file.write(part)
        file.write(hasher.digest())


def _bytes(values: Tensor) -> memoryview:
    return values.numpy().astype("<f4", copy=False).data.cast("B")


def load_optimizer(path: Path | str, run_id: str, optimizer: torch.optim.Optimizer) -> int:
    """Restore what save_optimizer wrote; returns its `inner_step`.

    Raises OptimizerFileError, the optimiser unchanged, if the file is torn, damaged or of another run or model;
    FileNotFoundError and other OSErrors.
    """
    count = sum(parameter.numel() for parameter in _parameters(optimizer))
    wanted = _HEADER.size + len(_MOMENTS) * 4 * count + _CHECKSUM_BYTES
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != wanted:
            raise OptimizerFileError(f"{path}: {size} bytes, want {wanted}")
        content = file.read(wanted)
    magic, run, parameters, adam_steps, inner_step = _checked_header(path, content)
    if (magic, run, parameters) != (_MAGIC, bytes.fromhex(run_id), count):
        raise OptimizerFileError(f"{path}: of another run ({run.hex()}) or model ({parameters} parameters)")
    moments = np.frombuffer(content, "<f4", len(_MOMENTS) * count, _HEADER.size).reshape(len(_MOMENTS), count)
    state = {name: torch.from_numpy(row.astype(np.float32)) for name, row in zip(_MOMENTS, moments, strict=True)}
    restore_optimizer(optimizer, {**state, "step": torch.tensor(adam_steps)})
    return int(inner_step)


def _checked_header(path: Path | str, content: bytes) -> tuple[bytes, bytes, int, int, int]:
    body, checksum = memoryview(content)[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if blake3(body).digest() != checksum:
        raise OptimizerFileError(f"{path}: checksum does not match")
    return _HEADER.unpack_from(body)
