"""Keeps the queue in front of the uplink short, by sending a little less for as long as there is one.

A cap just below the link's rate never empties a queue that came to be, by a burst or by what was dropped and sent
again. A full one delays requests, acknowledgements and everything else that leaves the house, and drops pieces. The
kernel knows the round trips of our connections; what all of them take beyond their least is our own queue. (LEDBAT,
RFC 6817, reads one-way delays of single connections to the same end. Ours yields a part of a cap only: a cap at the
link's rate is kept but for a per cent or two.)
"""

import logging
from collections.abc import Callable, Sequence

import trio

from p2p.flows import Flow
from p2p.pace import Cap

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
_RECENT_SECONDS = 1.0  # older round trips say nothing of the queue now
_TARGET_SECONDS = 0.04  # a queue that short is none: about a part of a piece, see `p2p.pace`
_DRAIN_SECONDS = 2.0  # what is beyond the target is to be gone by then
_LEAST_SHARE = 0.7  # whoever else makes us wait


class UplinkQueue:
    """`seconds`: how long what we send waited there when `keep_short` looked last; None where nobody looks, for want
    of a cap or of a kernel that says."""

    def __init__(self, cap: Cap, flows: Callable[[], Sequence[Flow]]) -> None:
        self.seconds: float | None = None
        self._cap = cap
        self._flows = flows
        self._sent_again: dict[int, int] | None = None  # bytes by flow, when we looked last

    async def keep_short(self) -> None:
        """Ease the cap, and charge it for what had to be sent again. Ends where the kernel tells nothing, without
        which the cap works as well as it can."""
        while True:
            await trio.sleep(_LOOK_SECONDS)
            try:
                self._look()
            except OSError as error:
                _log.info("the uplink's queue is not looked after: %s", error)
                return

    def _look(self) -> None:
        if self._cap.rate is None:
            self.seconds = self._sent_again = None
            return
        flows, before = self._flows(), self._sent_again
        if before is not None:
            self._cap.owe(sum(flow.sent_again_bytes - before.get(flow.key, 0) for flow in flows))
        self._sent_again = {flow.key: flow.sent_again_bytes for flow in flows}
        self.seconds = queue_seconds(flows)
        self._cap.ease(share_for(self.seconds))


def queue_seconds(flows: Sequence[Flow]) -> float:
    """How long a byte of ours waits before the link takes it, at most: what the least delayed flow waits, for the
    others may wait elsewhere, too. 0 when nothing is on its way."""
    active = [flow for flow in flows if not flow.acknowledged and flow.quiet_seconds < _RECENT_SECONDS]
    return min((flow.round_trip_seconds - flow.least_round_trip_seconds for flow in active), default=0.0)


def share_for(waiting_seconds: float) -> float:
    """Of the rate, so that such a queue is gone in time."""
    return 1.0 - min(max(waiting_seconds - _TARGET_SECONDS, 0.0) / _DRAIN_SECONDS, 1.0 - _LEAST_SHARE)
