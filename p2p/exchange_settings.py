"""Limits and waits of the exchange."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from p2p.manifest import MAX_MANIFEST_BYTES

PROTOCOL = "/covenantd/exchange/4"
IDLE, BUSY = b"\1", b"\0"  # before a piece: whether its sender's uplink could carry more than it is asked for
MAX_MANIFEST_FRAME_BYTES = MAX_MANIFEST_BYTES + (128 << 10)  # the largest manifest, its bitmap, field names

Offload = Callable[..., Awaitable[Any]]
"""Runs a blocking function: `trio.to_thread.run_sync`, or `p2p.testing.inline` under a jumping clock."""

_INLINE_BYTES = 256 << 10  # reading and hashing less takes no longer than a hop to a thread and back
_T = TypeVar("_T")


class Priority(IntEnum):
    """What goes first, on the way in and on the way out."""

    CONTROL = 0
    CONTRIBUTION = 1
    CATCH_UP = 2
    SNAPSHOT = 3
    DATASET = 4


@dataclass(frozen=True)
class ExchangeSettings:
    # fetching
    stall_seconds: float = 10.0  # a holder from whom nothing comes for so long is left
    late_seconds: float = 3.0  # what a holder was asked may be asked of others, too, when it is silent for so long
    overdue_seconds: float = 8.0  # or an answer takes so long while it speaks: it serves many, each in turn
    connect_seconds: float = 10.0
    max_holders: int = 32  # visited at a time
    receive_budget_bytes: int = 24 << 20  # pieces in memory on their way in, besides what is read ahead of each lane
    lanes: int = 2  # streams that pieces come on, a holder
    first_window_bytes: int = 256 << 10  # asked ahead of a holder of whom nothing is known yet
    max_window_bytes: int = 32 << 20
    ahead_seconds: float = 0.75  # asked ahead of what a holder delivers in that time
    poll_seconds: float = 0.5  # how often the holders are looked up anew
    linger_seconds: float = 5.0  # a holder that is of no use is left after so long
    retry_seconds: float = 0.25  # the first pause before a holder is tried again; doubles
    retry_limit_seconds: float = 4.0  # while it only lacks the blob or is busy
    slow_retry_limit_seconds: float = 60.0  # when it stalled or could not be reached
    # serving
    streams_per_peer: int = 32
    streams_total: int = 256
    watches_per_peer: int = 4  # of its streams, those that hear of news
    send_budget_bytes: int = 24 << 20  # pieces in memory on their way out
    idle_seconds: float = 60.0  # an inbound stream without a request is closed
    update_wait_seconds: float = 2.0  # a sign of life at least so often; must be well below stall_seconds
    news_seconds: float = 1.0  # between two messages about what is new here
    news_bytes_per_second: float = 100e3  # large bitmaps are told less often
    least_bytes_per_second: float = 1000.0  # who reads a piece slower than that is cut off


async def call(offload: Offload, size_bytes: int, function: Callable[..., _T], *arguments: object) -> _T:
    """A disk call on `size_bytes`: in a thread where that pays."""
    if size_bytes < _INLINE_BYTES:
        return function(*arguments)
    result: _T = await offload(function, *arguments)
    return result
