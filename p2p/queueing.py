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
_RETRY_SECONDS = 60.0  # when the kernel said nothing
_RECENT_SECONDS = 1.0  # older round trips say nothing of the queue now
_TARGET_SECONDS = 0.06  # a queue that short is none; nor is a part of a piece, which a slow link takes longer for
_DRAIN_SECONDS = 2.0  # what is beyond the target is to be gone by then
_LEAST_SHARE = 0.7  # whoever else makes us wait, as a full downlink does that delays acknowledgements


class UplinkQueue:
    """`seconds`: how long what we send waited there when `keep_short` looked last; None where nobody looks, for want
    of a cap or of a kernel that says."""

    def __init__(self, cap: Cap, flows: Callable[[], Sequence[Flow]]) -> None:
        self.seconds: float | None = None
        self._cap = cap
        self._flows = flows
        self._sent_again: dict[int, int] | None = None  # bytes by flow, when we looked last

    async def keep_short(self) -> None:
        """For ever: ease the cap, and charge it for what had to be sent again. While the kernel tells nothing the cap
        works as well as it can without."""
        while True:
            await trio.sleep(_LOOK_SECONDS)
            if self._cap.rate is None:
                self._forget()
                continue
            try:
                flows = self._flows()
            except OSError as error:
                _log.info("how long what is sent waits for the link is not known: %s", error)
                self._forget()
                await trio.sleep(_RETRY_SECONDS)
            else:
                self._look(flows)

    def _look(self, flows: Sequence[Flow]) -> None:
        before = self._sent_again
        if before is not None:
            self._cap.owe(sum(flow.sent_again_bytes - before.get(flow.key, 0) for flow in flows))
        self._sent_again = {flow.key: flow.sent_again_bytes for flow in flows}
        self.seconds = queue_seconds(flows)
        target_seconds = max(_TARGET_SECONDS, self._cap.part_bytes / self._cap.allowed)
        self._cap.ease(1.0 if self._cap.unspent else share_for(self.seconds, target_seconds))

    def _forget(self) -> None:
        self.seconds = self._sent_again = None
        self._cap.ease(1.0)


def queue_seconds(flows: Sequence[Flow]) -> float:
    """How long a byte of ours waits before the link takes it, at most: what the least delayed flow waits, for the
    others may wait elsewhere, too. 0 when nothing is on its way."""
    active = [flow for flow in flows if not flow.acknowledged and flow.quiet_seconds < _RECENT_SECONDS]
    waits = [flow.round_trip_seconds - flow.least_round_trip_seconds for flow in active]
    return min((seconds for seconds in waits if seconds >= 0), default=0.0)  # negative: not measured yet


def share_for(waiting_seconds: float, target_seconds: float = _TARGET_SECONDS) -> float:
    """Of the rate, so that what waits beyond the target is gone in time."""
    return 1.0 - min(max(waiting_seconds - target_seconds, 0.0) / _DRAIN_SECONDS, 1.0 - _LEAST_SHARE)
