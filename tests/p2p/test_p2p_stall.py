"""A stream that gives up on a silent peer, and not on a slow one."""

import pytest
import trio

from p2p.errors import TransportTimeout
from p2p.stall import StallGuard

CHUNK = 64 << 10


class Reader:
    """Takes each chunk after so many seconds; says something after as many."""

    remote = "peer"

    def __init__(self, seconds: float) -> None:
        self.seconds, self.taken = seconds, bytearray()

    async def send_all(self, data):
        await trio.sleep(self.seconds)
        self.taken += data

    async def receive_some(self, max_bytes):
        await trio.sleep(self.seconds)
        return b""


async def test_a_slow_reader_has_the_whole_time_for_each_chunk(autojump_clock):
    reader = Reader(9.0)
    await StallGuard(reader, 10.0).send_all(bytes(5 * CHUNK))
    assert len(reader.taken) == 5 * CHUNK and trio.current_time() == 45.0


async def test_the_end_of_a_stream_is_not_silence(autojump_clock):
    assert await StallGuard(Reader(9.0), 10.0).receive_some(10) == b""


async def test_who_is_silent_or_reads_too_slowly_is_given_up(autojump_clock):
    for guard in (StallGuard(Reader(11.0), 10.0), StallGuard(Reader(9.0), 10.0, least_bytes_per_second=CHUNK)):
        with pytest.raises(TransportTimeout, match="peer: (nothing moved for 10.0 s|reads less than 65536 bytes)"):
            await guard.send_all(bytes(5 * CHUNK))
    with pytest.raises(TransportTimeout, match="nothing moved"):
        await StallGuard(Reader(11.0), 10.0).receive_some(10)


async def test_who_stops_the_sender_is_not_told_that_the_peer_is_silent(autojump_clock):
    with trio.move_on_after(10.0) as stopped:
        await StallGuard(Reader(11.0), 10.5).send_all(b"x")
    assert stopped.cancelled_caught
