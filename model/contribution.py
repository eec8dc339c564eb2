"""The contribution file: one peer's compressed pseudo-gradient of one round.

    magic "covncont" · version u16 · codec id u16 · zero u32 · run id 32 · round u64 · base state hash 32 ·
    layout hash 32 · hotkey 32                                                        152 bytes, little-endian
    scales · indices · value codes                                                    as the codec has them

    codec     id  scales                      indices                          value codes
    covenant   1  a byte a chunk              12 bits an entry                 2 bits an entry
    row1       2  a byte a chunk              log2(chunk / k) bits a row       a bit a row
    topk2      3  a byte a chunk              a number a chunk (`combinadic`)  2 bits an entry
    templar    4  four fp32 levels a tensor   12 bits an entry                 2 bits an entry

Sections hold all chunks in layout order and start at whole bytes. There is no table: all lengths follow from the
layout, so the size of a valid file is known before it is opened. Entries are sent in ascending order; rows of a chunk
that are all padding are sent as zeros. No codec can express NaN or infinity.
"""

import struct
from dataclasses import dataclass

import numpy as np

from model.atomicfile import replacing
from model.errors import ContributionError
from model.layout import Layout
from model.regularfile import Unreadable, fill, opened
from model.rules import rule_of
from model.sections import Section
from model.sparse import Sparse, bands

MAGIC = b"covncont"
VERSION = 1
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


def _sections(layout: Layout) -> tuple[Section, Section, Section]:
    rule = rule_of(layout.compression)
    return rule.scales, rule.indices, rule.codes


def body_bytes(layout: Layout) -> int:
    """The size of the three sections."""
    return sum(section.size(layout) for section in _sections(layout))


def file_bytes(layout: Layout) -> int:
    """The size of every valid contribution."""
    return HEADER_BYTES + body_bytes(layout)


def encode_body(layout: Layout, sparse: Sparse) -> bytes:
    """The three sections; deterministic."""
    parts = zip(_sections(layout), (sparse.scales, sparse.indices, sparse.codes), strict=True)
    return b"".join(section.write(layout, part).tobytes() for section, part in parts)


def decode_body(layout: Layout, body: bytes | memoryview) -> Sparse:
    """The inverse of `encode_body`, hostile input welcome. Raises ContributionError."""
    if len(body) != body_bytes(layout):
        raise ContributionError(f"sections of {len(body)} bytes, the layout needs {body_bytes(layout)}")
    data, parts, start = np.frombuffer(body, dtype=np.uint8), [], 0
    try:
        for section in _sections(layout):
            stop = start + section.size(layout)
            parts.append(section.read(layout, data[start:stop]))
            start = stop
    except ValueError as error:
        raise ContributionError(str(error)) from error
    sparse = Sparse(*parts)
    _check(layout, sparse)
    return sparse


def _check(layout: Layout, sparse: Sparse) -> None:
    """What concerns several sections, or all indices, band by band."""
    for band in bands(layout):
        indices, codes = sparse.indices[band.rows], sparse.codes[band.rows]
        if not band.rule.per_tensor and codes[sparse.scales[band.rows] == 0].any():
            raise ContributionError("value codes in a chunk of scale zero")
        rising = indices[:, 1:] > indices[:, :-1]
        if not (rising if band.present is None else rising | ~band.present[:, 1:]).all():
            raise ContributionError("indices do not ascend")
        if int(indices.max()) >= layout.chunk:
            raise ContributionError("index beyond the chunk")
        if band.present is not None and (band.group.places(indices.int()) < 0)[band.present].any():
            raise ContributionError(f"padding of {band.group.name} is selected")


def pack_header(layout: Layout, header: Header) -> bytes:
    """Raises ValueError if a field is not hexadecimal."""
    return _HEADER.pack(
        MAGIC,
        VERSION,
        rule_of(layout.compression).codec_id,
        0,
        bytes.fromhex(header.run_id),
        header.round,
        bytes.fromhex(header.base_state_hash),
        bytes.fromhex(layout.hash),
        bytes.fromhex(header.hotkey),
    )


def write(path: str, layout: Layout, header: Header, sparse: Sparse) -> int:
    """Write a whole file or none; returns its size. Raises OSError."""
    packed = pack_header(layout, header)
    with replacing(path) as file:
        return file.write(packed) + file.write(encode_body(layout, sparse))


def read(path: str, layout: Layout, expected: Expected) -> Sparse:
    """A file that may come from anyone. Raises ContributionError, also when it cannot be read."""
    try:
        return parse(_read_exactly(path, layout), layout, expected)
    except Unreadable as error:
        raise ContributionError(str(error), path) from error
    except ContributionError as error:
        raise ContributionError(error.reason, path) from error


def parse(data: bytes | bytearray, layout: Layout, expected: Expected) -> Sparse:
    """A whole file's bytes. Raises ContributionError."""
    _check_size(len(data), layout)
    _check_header(data, layout, expected)
    return decode_body(layout, memoryview(data)[HEADER_BYTES:])


def _check_size(found_bytes: int, layout: Layout) -> None:
    if found_bytes != file_bytes(layout):
        raise ContributionError(f"{found_bytes} bytes, a valid one has {file_bytes(layout)}")


def _read_exactly(path: str, layout: Layout) -> bytearray:
    with opened(path) as (file, size):
        _check_size(size, layout)  # before anything of that size is allocated
        data = bytearray(size)
        fill(file, memoryview(data))
    return data


def _check_header(packed: bytes | bytearray, layout: Layout, expected: Expected) -> None:
    magic, version, codec_id, zero, run_id, round_, base, layout_hash, hotkey = _HEADER.unpack_from(packed)
    if magic != MAGIC or version != VERSION or zero:
        raise ContributionError("not a contribution of a version known here")
    own_id = rule_of(layout.compression).codec_id
    if codec_id != own_id:
        raise ContributionError(f"codec id {codec_id}, the run's is {own_id}")
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
