import contextlib
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import P2pError, ProtocolViolation, StreamClosed
from p2p.wire import MAX_DEPTH, Fields, ReadAhead, pack, receive_bytes, receive_frame, send_bytes, send_frame, unpack

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(), children, max_size=5),
    max_leaves=20,
)


class Pipe:
    """Bytes in, bytes out, at most `step` at a time; remembers how much was asked for at once."""

    def __init__(self, data: bytes = b"", step: int = 7) -> None:
        self.data = bytearray(data)
        self.step = step
        self.largest_request = self.receives = 0

    async def send_all(self, data: bytes | memoryview) -> None:
        self.data += data

    async def receive_some(self, max_bytes: int) -> bytes:
        self.largest_request = max(self.largest_request, max_bytes)
        self.receives += 1
        chunk = bytes(self.data[: min(max_bytes, self.step)])
        del self.data[: len(chunk)]
        return chunk


def now(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


@given(plain)
def test_any_message_round_trips(message):
    pipe = Pipe()
    now(send_frame(pipe, message))
    assert now(receive_frame(pipe)) == message
    assert not pipe.data


@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 64), st.integers(1, 64))
def test_frames_are_the_same_when_read_ahead(bodies, step, ahead_bytes):
    pipe = Pipe(step=step)
    for body in bodies:
        now(send_bytes(pipe, body))
    ahead = ReadAhead(pipe, ahead_bytes)
    assert [now(receive_bytes(ahead, 50)) for _ in bodies] == bodies
    with pytest.raises(StreamClosed):
        now(receive_bytes(ahead, 50))


def test_a_short_frame_is_received_at_once_and_of_a_long_one_no_more_is_held_than_said():
    pipe = Pipe(step=1 << 20)
    now(send_frame(pipe, {"ok": True}))
    ahead = ReadAhead(pipe, 1000)
    assert now(receive_frame(ahead)) == {"ok": True} and pipe.receives == 1
    now(send_bytes(pipe, bytes(5000)))
    with pytest.raises(ProtocolViolation):
        now(receive_bytes(ahead, 4999))
    assert len(pipe.data) == 4 + 5000 - 1000


@given(st.binary(max_size=200), st.booleans())
def test_byte_soup_is_a_violation_or_a_closed_stream(soup, right_length):
    data = struct.pack(">I", len(soup)) + soup if right_length else soup
    with contextlib.suppress(ProtocolViolation, StreamClosed):
        now(receive_frame(Pipe(data, step=64), 1 << 16))


@given(st.binary(max_size=2000))
def test_unpack_gives_plain_data_or_a_violation(soup):
    try:
        message = unpack(soup)
    except ProtocolViolation:
        return
    pack(message)  # what we accept we could have sent


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(msgpack.packb(msgpack.ExtType(5, b"")), id="ext"),
        pytest.param(msgpack.packb(msgpack.Timestamp(3)), id="timestamp"),
        pytest.param(b"\xd4\x05a", id="fixext"),
        pytest.param(b"\x91" * (MAX_DEPTH + 1) + b"\xc0", id="deep"),
        pytest.param(b"\x91" * 100_000, id="very deep"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="array of 2^32"),
        pytest.param(b"\xdd\x00\x01\x00\x00" * 1000, id="nested arrays of 65536"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="map of 2^32"),
        pytest.param(b"\x81\x01\x01", id="number as key"),
        pytest.param(b"\x81\xc4\x01a\x01", id="bytes as key"),
        pytest.param(b"\xa1\xff", id="not utf-8"),
        pytest.param(b"\x01\x02", id="trailing bytes"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="reserved byte"),
    ],
)
def test_hostile_bodies_are_violations(body):
    with pytest.raises(ProtocolViolation):
        unpack(body)


def test_an_oversized_frame_is_refused_before_its_body_is_read():
    pipe = Pipe(struct.pack(">I", 2**32 - 1) + b"x" * 100)
    with pytest.raises(ProtocolViolation, match="4294967295 bytes exceeds 1000"):
        now(receive_bytes(pipe, 1000))
    assert pipe.largest_request == 4


def test_a_promised_length_alone_is_not_allocated():
    pipe = Pipe(struct.pack(">I", 1 << 30))
    with pytest.raises(StreamClosed):
        now(receive_bytes(pipe, 1 << 30))
    assert pipe.largest_request <= 1 << 20


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 5, 13])
def test_eof_anywhere_is_a_closed_stream(kept):
    pipe = Pipe()
    now(send_bytes(pipe, b"0123456789"))
    with pytest.raises(StreamClosed):
        now(receive_bytes(Pipe(bytes(pipe.data[:kept])), 100))


def test_large_raw_frames_round_trip():
    pipe, data = Pipe(step=1 << 20), bytes(range(256)) * 2000
    now(send_bytes(pipe, memoryview(data)))
    assert now(receive_bytes(pipe, len(data))) == data


@pytest.mark.parametrize("size", [0, 1, 1 << 18])
def test_a_head_goes_before_the_rest_of_a_raw_frame(size):
    pipe, data = Pipe(step=1 << 20), bytes(size)
    now(send_bytes(pipe, data, b"\1"))
    assert now(receive_bytes(pipe, 1 + size)) == b"\1" + data


@pytest.mark.parametrize("message", [2**64, {1: 2}, {"x": object()}, "\ud800", [0] * 5000])
def test_what_could_not_be_received_is_not_sent(message):
    with pytest.raises((ValueError, TypeError)):
        pack(message)


@pytest.mark.parametrize("message", [None, [], 3, "text"])
def test_fields_need_a_map(message):
    with pytest.raises(ProtocolViolation):
        Fields(message)


def test_fields_give_what_is_in_bounds():
    fields = Fields({"t": "abc", "n": -3, "r": 1.5, "b": b"1234", "l": [1], "m": {"x": 1}, "f": False, "i": 2})
    assert fields.text("t", 3) == "abc"
    assert fields.number("n", -3, 0) == -3
    assert fields.real("r", 0, 2) == 1.5
    assert fields.real("i", 0, 2) == 2.0
    assert fields.raw("b", exact=4) == fields.raw("b", max_bytes=9) == b"1234"
    assert fields.items("l", 1) == [1]
    assert fields.fields("m").number("x", 0, 9) == 1
    assert fields.flag("f") is False
    assert fields.has("t") and not fields.has("missing")


@pytest.mark.parametrize(
    "read",
    [
        lambda f: f.text("t", 2),
        lambda f: f.text("n", 10),
        lambda f: f.number("n", 0, 10),
        lambda f: f.number("flag", 0, 10),
        lambda f: f.number("r", 0, 10),
        lambda f: f.real("nan", -10, 10),
        lambda f: f.raw("b", exact=3),
        lambda f: f.raw("b"),
        lambda f: f.items("l", 1),
        lambda f: f.flag("n"),
        lambda f: f.fields("l"),
        lambda f: f.number("missing", 0, 1),
    ],
)
def test_fields_out_of_type_or_bounds_are_violations(read):
    message = {"t": "abc", "n": -3, "flag": True, "r": 1.5, "nan": float("nan"), "b": b"1234", "l": [1, 2]}
    with pytest.raises(P2pError):
        read(Fields(message))
