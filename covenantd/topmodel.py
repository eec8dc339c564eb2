"""What `covenantctl top` remembers between two looks at a daemon: rates and the course of the loss. Pure."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from covenantd.status import PeerStatus, RoundSummary, Status

_WINDOW_SECONDS = 10.0  # rates are means over this long: pieces come in bursts
_KEPT_LOSSES = 512


@dataclass(frozen=True)
class Rate:
    """Bytes a second, as we see it: `up` is what we send."""

    up: float = 0.0
    down: float = 0.0


class History:
    """Fed with every status; `now` is any monotonic clock in seconds."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Status]] = deque()
        self._steps: deque[float] = deque(maxlen=_KEPT_LOSSES)
        self.rounds: tuple[RoundSummary, ...] = ()
        self.trouble: str | None = "no answer yet"

    @property
    def status(self) -> Status | None:
        return self._looks[-1][1] if self._looks else None

    def see(self, now: float, status: Status) -> None:
        previous = self.status
        if previous is not None and previous.started_at != status.started_at:
            self._looks.clear()  # another process: its counters start at zero
        if status.loss is not None and (previous is None or _step(previous) != _step(status)):
            self._steps.append(status.loss)
        self._looks.append((now, status))
        while len(self._looks) > 2 and now - self._looks[1][0] >= _WINDOW_SECONDS:
            self._looks.popleft()
        self.trouble = None

    @property
    def steps(self) -> tuple[float, ...]:
        """The last losses seen, one a look with news."""
        return tuple(self._steps)

    def rate(self) -> Rate:
        """Of all peers together."""
        return self._rate([(at, one.sent_bytes, one.received_bytes) for at, one in self._looks])

    def peer_rate(self, peer: PeerStatus) -> Rate:
        found = [(at, _peer(one, peer.peer_id)) for at, one in self._looks]
        return self._rate([(at, one.sent_bytes, one.received_bytes) for at, one in found if one is not None])

    def losses(self) -> tuple[float, ...]:
        """One a round, then the present one; while there are no rounds to show, one a look."""
        rounds = [_loss(one) for one in self.rounds]
        known = [loss for loss in rounds if loss is not None]
        if len(known) < 2:
            return tuple(self._steps)
        now = self.status.loss if self.status else None
        return tuple([*known, *([] if now is None else [now])])

    @staticmethod
    def _rate(counts: Sequence[tuple[float, int, int]]) -> Rate:
        if len(counts) < 2 or counts[-1][0] <= counts[0][0]:
            return Rate()
        (since, up, down), (until, up_now, down_now) = counts[0], counts[-1]
        return Rate(max(0, up_now - up) / (until - since), max(0, down_now - down) / (until - since))


def _step(status: Status) -> tuple[int | None, int]:
    return status.round, status.inner_step


def _peer(status: Status, peer_id: str) -> PeerStatus | None:
    return next((peer for peer in status.peers if peer.peer_id == peer_id), None)


def _loss(summary: RoundSummary) -> float | None:
    """A validator trains nothing: what it knows is the held-out loss."""
    return summary.heldout_loss if summary.loss is None else summary.loss
