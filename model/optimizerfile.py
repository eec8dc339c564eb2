"""The optimiser's state on disk: ours to write and ours to read, never fetched from a peer.

magic 8 · run id 32 · parameters u64 · optimiser steps u64 · inner steps of the run u64 ·
exp_avg fp32 [P] · exp_avg_sq fp32 [P] · BLAKE3 of everything before it 32           (all little-endian)
"""

import struct
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from model.adamw import AdamW
from model.atomicfile import replacing
from model.errors import StateError
from model.regularfile import Unreadable, fill, opened

_MAGIC = b"CVNADAM1"
_HEADER = struct.Struct("<8s32sQQQ")
_CHECKSUM_BYTES = 32


def optimizer_state(optimizer: AdamW) -> dict[str, Tensor]:
    """{"exp_avg": fp32 [P], "exp_avg_sq": fp32 [P], "step": fp32 []}, copies on the CPU, in layout order."""
    live = {"exp_avg": optimizer.exp_avg, "exp_avg_sq": optimizer.exp_avg_sq, "step": optimizer.count}
    return {name: tensor.to("cpu", copy=True) for name, tensor in live.items()}


def restore_optimizer(optimizer: AdamW, state: dict[str, Tensor]) -> None:
    """The inverse of optimizer_state. Raises StateError, before any change, if sizes don't fit."""
    moments = (state["exp_avg"], state["exp_avg_sq"])
    if any(moment.shape != optimizer.exp_avg.shape for moment in moments):
        raise StateError(f"want moments of {len(optimizer.exp_avg)} values, got {[len(m) for m in moments]}")
    optimizer.exp_avg.copy_(moments[0])
    optimizer.exp_avg_sq.copy_(moments[1])
    optimizer.count.fill_(float(state["step"]))


def save_optimizer(path: Path | str, run_id: str, inner_steps: int, optimizer: AdamW) -> None:
    """Write the state file atomically.

    `run_id`: 64 hex digits; `inner_steps`: of the run so far, by which the schedule goes on. Raises OSError; what
    was there before is then still there.
    """
    moments = [_bytes(optimizer.exp_avg), _bytes(optimizer.exp_avg_sq)]
    steps = int(optimizer.count)
    header = _HEADER.pack(_MAGIC, bytes.fromhex(run_id), len(optimizer.exp_avg), steps, inner_steps)
    parts: list[bytes | memoryview] = [header, *moments]
    hasher = blake3()
    with replacing(path) as file:
        for part in parts:
            hasher.update(part)
            file.write(part)
        file.write(hasher.digest())


def load_optimizer(path: Path | str, run_id: str, optimizer: AdamW) -> int:
    """Restore what save_optimizer wrote; returns its `inner_steps`.

    Raises StateError, the optimiser unchanged, if the file is missing, torn, damaged or of another run or model.
    """
    count = len(optimizer.exp_avg)
    content = _read(path, _HEADER.size + 8 * count + _CHECKSUM_BYTES)
    body, checksum = memoryview(content)[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if blake3(body).digest() != checksum:
        raise StateError("checksum does not match", str(path))
    magic, run, parameters, steps, inner_steps = _HEADER.unpack_from(body)
    if (magic, run, parameters) != (_MAGIC, bytes.fromhex(run_id), count):
        raise StateError(f"of another run ({run.hex()}) or model ({parameters} parameters)", str(path))
    exp_avg, exp_avg_sq = np.frombuffer(content, "<f4", 2 * count, _HEADER.size).reshape(2, count)
    state = {"exp_avg": _tensor(exp_avg), "exp_avg_sq": _tensor(exp_avg_sq), "step": torch.tensor(float(steps))}
    restore_optimizer(optimizer, state)
    return int(inner_steps)


def _read(path: Path | str, wanted_bytes: int) -> bytearray:
    try:
        with opened(str(path)) as (file, size):
            if size != wanted_bytes:
                raise StateError(f"{size} bytes, want {wanted_bytes}", str(path))
            content = bytearray(wanted_bytes)
            fill(file, memoryview(content))
            return content
    except Unreadable as error:
        raise StateError(str(error), str(path)) from error


def _tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32, copy=False))


def _bytes(values: Tensor) -> memoryview:
    return values.cpu().numpy().astype("<f4", copy=False).data.cast("B")
