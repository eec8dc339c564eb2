"""The contribution format: golden bytes, round trips, and every lie a file can tell."""

import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import contribution
from model.compress import compress
from model.config import PRESETS, CompressionConfig
from model.contribution import HEADER_BYTES, Expected, Header
from model.errors import ContributionError
from model.layout import Layout
from model.sparse import Sparse
from model.transformer import parameter_layout

GOLDEN = Path(__file__).parent.parent / "golden" / "contribution-covenant.bin"
HEADER = Header("01" * 32, 7, "23" * 32, "45" * 32)
EXPECTED = Expected(HEADER.run_id, HEADER.round, HEADER.base_state_hash, HEADER.hotkey)
# chunks of 16: two whole blocks, a padded one with 6 valid places, one with 2; a run of 16 + 3
LAYOUT = Layout.of((("w", (6, 5)), ("n", (19,))), CompressionConfig("covenant", chunk=16, kept_per_chunk=4))
SPARSE_CHUNKS = 6


def made_up(parameters: int) -> torch.Tensor:
    """Values that are the same on every machine: exact in fp32, no generator involved."""
    numbers = torch.arange(1, parameters + 1, dtype=torch.int64) * 2654435761 % 65521 - 32760
    return numbers.to(torch.float32) / 65536


def assert_equal(one: Sparse, other: Sparse) -> None:
    for field in ("scales", "indices", "codes"):
        assert torch.equal(getattr(one, field), getattr(other, field)), field


@pytest.fixture
def valid(tmp_path: Path) -> bytearray:
    path = tmp_path / "valid"
    contribution.write(str(path), LAYOUT, HEADER, compress(LAYOUT, made_up(LAYOUT.parameters)))
    return bytearray(path.read_bytes())


def read_back(tmp_path: Path, data: bytes, expected: Expected = EXPECTED) -> Sparse:
    path = tmp_path / "hostile"
    path.write_bytes(data)
    return contribution.read(str(path), LAYOUT, expected)


def test_the_golden_file(tmp_path: Path, valid: bytearray) -> None:
    assert bytes(valid) == GOLDEN.read_bytes()
    assert_equal(read_back(tmp_path, GOLDEN.read_bytes()), compress(LAYOUT, made_up(LAYOUT.parameters)))


def test_the_size_is_known_before_and_nano_is_above_120x(tmp_path: Path, valid: bytearray) -> None:
    assert (
        len(valid)
        == contribution.file_bytes(LAYOUT)
        == 152 + LAYOUT.chunks + (LAYOUT.entries * 12 + 7) // 8 + (LAYOUT.entries + 3) // 4
    )
    nano = Layout.of(parameter_layout(PRESETS["nano"]), CompressionConfig("covenant"))
    assert 4 * nano.parameters / contribution.file_bytes(nano) > 143
    flat = made_up(nano.parameters)
    size = contribution.write(str(tmp_path / "nano"), nano, HEADER, compress(nano, flat))
    assert size == (tmp_path / "nano").stat().st_size == contribution.file_bytes(nano)
    assert_equal(contribution.read(str(tmp_path / "nano"), nano, EXPECTED), compress(nano, flat))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=49, max_size=49))
def test_any_sections_round_trip(values: list[float]) -> None:
    sparse = compress(LAYOUT, torch.tensor(values))
    body = contribution.encode_body(LAYOUT, sparse)
    assert_equal(contribution.decode_body(LAYOUT, body), sparse)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_are_canonical_or_refused(data: st.DataObject) -> None:
    size = contribution.body_bytes(LAYOUT)
    body = data.draw(st.binary(min_size=size, max_size=size))
    try:
        sparse = contribution.decode_body(LAYOUT, body)
    except ContributionError:
        return
    assert contribution.encode_body(LAYOUT, sparse) == body


FIELDS = [  # offset, new bytes, what the refusal says
    (0, b"notthis!", "not a contribution"),
    (8, b"\x02\x00", "not a contribution"),
    (10, b"\x02\x00", "codec id 2"),
    (12, b"\x01", "not a contribution"),
    (16, b"\xff", "run id"),
    (48, struct.pack("<Q", 8), "round 8"),
    (48, struct.pack("<Q", 2**64 - 1), "round 18446744073709551615"),
    (56, b"\xff", "base state hash"),
    (88, b"\xff", "layout hash"),
    (120, b"\xff", "hotkey"),
    (HEADER_BYTES, b"\xf1", "reserved scale"),
    (HEADER_BYTES, b"\xff", "reserved scale"),
    (HEADER_BYTES, b"\x00", "scale zero"),
    (HEADER_BYTES + SPARSE_CHUNKS, b"\x00\x00\x00", "ascend"),
    (HEADER_BYTES + SPARSE_CHUNKS, b"\xff\xff\xff", "ascend"),
]


@pytest.mark.parametrize(("offset", "lie", "reason"), FIELDS)
def test_a_lie_in_each_field(tmp_path: Path, valid: bytearray, offset: int, lie: bytes, reason: str) -> None:
    valid[offset : offset + len(lie)] = lie
    with pytest.raises(ContributionError, match=reason) as caught:
        read_back(tmp_path, valid)
    assert caught.value.path == str(tmp_path / "hostile")


def with_indices(chunk: int, indices: list[int]) -> bytes:
    sparse = compress(LAYOUT, made_up(LAYOUT.parameters))
    sparse.indices[chunk, : len(indices)] = torch.tensor(indices, dtype=torch.int16)
    return contribution.encode_body(LAYOUT, sparse)


@pytest.mark.parametrize(
    ("chunk", "indices", "reason"),
    [
        (0, [0, 1, 2, 16], "beyond the chunk"),
        (0, [0, 1, 2, 4095], "beyond the chunk"),
        (0, [0, 2, 1, 3], "ascend"),
        (0, [0, 1, 1, 3], "ascend"),
        (1, [0, 1, 2, 3], "padding of w"),  # one column is left of 6 rows
        (5, [0, 1, 3], "padding of 1-D run"),
    ],
)
def test_indices_that_no_honest_peer_sends(chunk: int, indices: list[int], reason: str) -> None:
    with pytest.raises(ContributionError, match=reason):
        contribution.decode_body(LAYOUT, with_indices(chunk, indices))


def test_unused_bits_must_be_zero(tmp_path: Path, valid: bytearray) -> None:
    assert LAYOUT.entries % 4  # so there are some
    valid[-1] |= 0x80
    with pytest.raises(ContributionError, match="unused bits"):
        read_back(tmp_path, valid)


def test_wrong_sizes_are_refused_by_size(tmp_path: Path, valid: bytearray) -> None:
    for data in (b"", valid[:-1], valid + b"\0", valid[:HEADER_BYTES]):
        with pytest.raises(ContributionError, match="bytes, a valid one has"):
            read_back(tmp_path, data)
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # never read, never allocated
    with pytest.raises(ContributionError, match="1099511627776 bytes"):
        contribution.read(str(huge), LAYOUT, EXPECTED)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "absent", "nul\0byte"):
        with pytest.raises(ContributionError):
            contribution.read(f"{tmp_path}/{name}", LAYOUT, EXPECTED)


def test_what_is_unknown_is_not_compared(tmp_path: Path, valid: bytearray) -> None:
    read_back(tmp_path, valid, Expected(HEADER.run_id, HEADER.round, None, None))


def test_writing_is_atomic(tmp_path: Path) -> None:
    sparse = compress(LAYOUT, made_up(LAYOUT.parameters))
    path = tmp_path / "c"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match="hexadecimal"):
        contribution.write(str(path), LAYOUT, Header("zz", 0, "", ""), sparse)
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]
