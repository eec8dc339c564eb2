"""One stream to a holder, and what was asked on it."""

from collections import deque
from dataclasses import dataclass, field

import trio

from p2p.agenda import Ask
from p2p.protocols import Stream
from p2p.wire import send_frame


@dataclass(frozen=True)
class ManifestAsk:
    blob_id: str
    priority: int


class Hello:
    """The first question on a lane: a holder at a limit answers that it is busy."""


@dataclass(eq=False)
class Lane:
    """One stream. What matters more has lanes of its own, so as not to wait behind what matters less."""

    stream: Stream
    priority: int
    asked: deque[Ask | ManifestAsk | Hello] = field(default_factory=deque)  # in the order of the answers
    asked_at: deque[float] = field(default_factory=deque)
    asked_bytes: int = 0
    filled: trio.Event = field(default_factory=trio.Event)
    sending: trio.Lock = field(default_factory=trio.Lock)

    async def ask(self, what: Ask | ManifestAsk | Hello) -> None:
        self.asked.append(what)
        self.asked_at.append(trio.current_time())
        self.asked_bytes += what.size_bytes if isinstance(what, Ask) else 0
        self.filled.set()
        await self.say(_message(what))

    async def say(self, message: dict[str, object]) -> None:
        async with self.sending:
            await send_frame(self.stream, message)

    def landed(self) -> None:
        what = self.asked.popleft()
        self.asked_at.popleft()
        self.asked_bytes -= what.size_bytes if isinstance(what, Ask) else 0


def _message(what: Ask | ManifestAsk | Hello) -> dict[str, object]:
    if isinstance(what, Ask):
        return {"piece": what.piece, "of": what.blob_id}
    return {"want": what.blob_id} if isinstance(what, ManifestAsk) else {"hello": True}
