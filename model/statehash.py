"""θ as bytes, and their hash, which is also the blob id under which peers fetch them.

The bytes are θ's fp32 values, little-endian, in layout order. They are cut into pieces of `piece_bytes` (the last
may be shorter), and
    state hash = BLAKE3(b"covenantd blob 1\\0" · u64 total size · u32 piece size · 32-byte BLAKE3 of each piece)
with little-endian numbers: the content address of the state as a blob.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap

import torch
from blake3 import blake3
from torch import Tensor

from model.atomicfile import replacing
from model.errors import StateError
from model.regularfile import Unreadable, fill, opened

_DOMAIN = b"covenantd blob 1\0"


def as_bytes(theta: Tensor) -> memoryview:
    """The bytes of a contiguous fp32 CPU vector, not copied."""
    data: memoryview = theta.numpy().data
    return data.cast("B")


def state_hash(theta: Tensor, piece_bytes: int) -> str:
    """fp32 [P] -> 64 hex digits."""
    data = as_bytes(theta)
    root = blake3(_DOMAIN + struct.pack("<QI", len(data), piece_bytes))
    for start in range(0, len(data), piece_bytes):
        root.update(blake3(data[start : start + piece_bytes]).digest())
    return root.hexdigest()


def write_theta(path: str, theta: Tensor) -> None:
    """Whole or not at all. Raises OSError."""
    with replacing(path) as file:
        file.write(as_bytes(theta))


@contextmanager
def theta_written(path: str, parameters: int) -> Iterator[Tensor]:
    """fp32 [parameters], all zeros, that is the file's own pages, to be filled in; at the end the file is whole, or,
    after an exception, there is none. Raises OSError, a full disk at the beginning: pages without room on disk would
    end the process."""
    with replacing(path) as file:
        os.posix_fallocate(file.fileno(), 0, 4 * parameters)
        pages = mmap(file.fileno(), 4 * parameters)
        yield torch.frombuffer(pages, dtype=torch.float32)
        pages.flush()


def read_theta(path: str, parameters: int) -> Tensor:
    """fp32 [parameters]. Raises StateError: wrong size, not readable, or a value that is not finite."""
    try:
        with opened(path) as (file, size):
            if size != 4 * parameters:
                raise StateError(f"{size} bytes, θ of this model has {4 * parameters}", path)
            theta = torch.empty(parameters, dtype=torch.float32)
            fill(file, as_bytes(theta))
    except Unreadable as error:
        raise StateError(str(error), path) from error
    if not torch.isfinite(theta).all():
        raise StateError("holds a value that is not finite", path)
    return theta
