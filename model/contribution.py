"""The contribution file: one peer's compressed pseudo-gradient of one round.

    magic "covncont" · version u16 · codec id u16 · zero u32 · run id 32 · round u64 · base state hash 32 ·
    layout hash 32 · hotkey 32                                                        152 bytes, little-endian
    scale codes      one byte a chunk
    indices          12 bits a kept value, ascending in each chunk
    value codes      2 bits a kept value

Sections hold all chunks in layout order and start at whole bytes. There is no table: all lengths follow from the
layout, so the size of a valid file is known before it is opened. The codec cannot express NaN or infinity.
"""

import struct
from dataclasses import dataclass

import numpy as np
import torch

from model import indexcodec
from model.atomicfile import replacing
from model.errors import ContributionError
from model.layout import Layout
from model.quantize import LARGEST_SCALE_CODE
from model.regularfile import Unreadable, fill, opened
from model.sparse import Sparse

MAGIC = b"covncont"
VERSION = 1
CODEC_IDS = {"topk2-plain": 1}
_HEADER = struct.Struct("<8sHHI32sQ32s32s32s")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True)
class Header:
    """Whose contribution it is, to what. All but `round` are 64 hex digits."""

    run_id: str
    round: int
    base_state_hash: str
    hotkey: str


@dataclass(frozen=True)
class Expected:
    """What a header must say; None: not known here, anything will do."""

    run_id: str
    round: int
    base_state_hash: str | None
    hotkey: str | None


def body_bytes(layout: Layout) -> int:
    """The size of the three sections."""
    entries = layout.entries
    return layout.chunks + indexcodec.packed12_bytes(entries) + indexcodec.packed2_bytes(entries)


def file_bytes(layout: Layout) -> int:
    """The size of every valid contribution."""
    return HEADER_BYTES + body_bytes(layout)


def encode_body(layout: Layout, sparse: Sparse) -> bytes:
    """The three sections; deterministic."""
    present = layout.present
    indices = sparse.indices[present].numpy().astype(np.uint16)
    codes = sparse.codes[present].numpy()
    packed = (sparse.scales.numpy(), indexcodec.pack12(indices), indexcodec.pack2(codes))
    return b"".join(section.tobytes() for section in packed)


def decode_body(layout: Layout, body: bytes) -> Sparse:
    """The inverse of `encode_body`, hostile input welcome. Raises ContributionError."""
    if len(body) != body_bytes(layout):
        raise ContributionError(f"sections of {len(body)} bytes, the layout needs {body_bytes(layout)}")
    data = np.frombuffer(body, dtype=np.uint8)
    entries = layout.entries
    indices_end = layout.chunks + indexcodec.packed12_bytes(entries)
    try:
        indices = indexcodec.unpack12(data[layout.chunks : indices_end], entries)
        codes = indexcodec.unpack2(data[indices_end:], entries)
    except ValueError as error:
        raise ContributionError(str(error)) from error
    scales = torch.from_numpy(data[: layout.chunks].copy())
    sparse = Sparse(scales, _rectangle(layout, indices.astype(np.int16)), _rectangle(layout, codes))
    _check(layout, sparse)
    return sparse


def _rectangle(layout: Layout, values: np.ndarray[tuple[int], np.dtype[np.generic]]) -> torch.Tensor:
    flat = torch.from_numpy(values)
    rectangle = torch.zeros(layout.chunks, layout.k, dtype=flat.dtype)
    rectangle[layout.present] = flat
    return rectangle


def _check(layout: Layout, sparse: Sparse) -> None:
    if int(sparse.scales.max()) > LARGEST_SCALE_CODE:
        raise ContributionError("reserved scale code")
    if sparse.codes[sparse.scales == 0].any():
        raise ContributionError("value codes in a chunk of scale zero")
    present = layout.present
    rising = sparse.indices[:, 1:] > sparse.indices[:, :-1]
    if not (rising | ~present[:, 1:]).all():
        raise ContributionError("indices do not ascend")
    if int(sparse.indices.max()) >= layout.chunk:
        raise ContributionError("index beyond the chunk")
    for group in (group for group in layout.groups if group.padded):
        rows = slice(group.first, group.stop)
        if (group.positions(sparse.indices[rows].long()) < 0)[present[rows]].any():
            raise ContributionError(f"padding of {group.name} is selected")


def write(path: str, layout: Layout, header: Header, codec: str, sparse: Sparse) -> int:
    """Write a whole file or none; returns its size. Raises OSError."""
    packed = _HEADER.pack(
        MAGIC,
        VERSION,
        CODEC_IDS[codec],
        0,
        bytes.fromhex(header.run_id),
        header.round,
        bytes.fromhex(header.base_state_hash),
        bytes.fromhex(layout.hash),
        bytes.fromhex(header.hotkey),
    )
    with replacing(path) as file:
        return file.write(packed) + file.write(encode_body(layout, sparse))


def read(path: str, layout: Layout, codec: str, expected: Expected) -> Sparse:
    """A file that may come from anyone. Raises ContributionError, also when it cannot be read."""
    try:
        data = _read_exactly(path, file_bytes(layout))
        _check_header(data[:HEADER_BYTES], layout, codec, expected)
        return decode_body(layout, data[HEADER_BYTES:])
    except Unreadable as error:
        raise ContributionError(str(error), path) from error
    except ContributionError as error:
        raise ContributionError(error.reason, path) from error


def _read_exactly(path: str, wanted_bytes: int) -> bytes:
    with opened(path) as (file, size):
        if size != wanted_bytes:
            raise ContributionError(f"{size} bytes, a valid one has {wanted_bytes}")
        data = bytearray(wanted_bytes)
        fill(file, memoryview(data))
    return bytes(data)


def _check_header(packed: bytes, layout: Layout, codec: str, expected: Expected) -> None:
    magic, version, codec_id, zero, run_id, round_, base, layout_hash, hotkey = _HEADER.unpack(packed)
    if magic != MAGIC or version != VERSION or zero:
        raise ContributionError("not a contribution of a version known here")
    if codec_id != CODEC_IDS[codec]:
        raise ContributionError(f"codec id {codec_id}, the run's is {CODEC_IDS[codec]}")
    if round_ != expected.round:
        raise ContributionError(f"of round {round_}, not {expected.round}")
    for field, got, wanted in (
        ("run id", run_id, expected.run_id),
        ("layout hash", layout_hash, layout.hash),
        ("base state hash", base, expected.base_state_hash),
        ("hotkey", hotkey, expected.hotkey),
    ):
        if wanted is not None and got.hex() != wanted:
            raise ContributionError(f"{field} {got.hex()}, not {wanted}")
