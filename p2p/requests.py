"""What may be asked on a stream of the exchange, and what was read ahead of its answer. See `p2p.serving`.

A request is checked before it is kept: what waits in a queue is small, whatever its sender wrote.
"""

from collections import deque
from dataclasses import dataclass, field

import trio

from p2p.errors import ProtocolViolation
from p2p.manifest import is_blob_id
from p2p.news import watched_ids
from p2p.wire import Fields

MAX_SMALL_BYTES = 1 << 10  # every request but a list of blobs to watch
MAX_REQUEST_BYTES = 256 << 10
MAX_QUEUED = 512


@dataclass(frozen=True, slots=True)
class Want:
    blob_id: str
    brief: bool


@dataclass(frozen=True, slots=True)
class PieceRequest:
    index: int
    blob_id: str | None  # None: of the blob wanted last


@dataclass(frozen=True, slots=True)
class Cancel:
    index: int
    blob_id: str


@dataclass(frozen=True, slots=True)
class WatchList:
    """News name a blob by its place in it. `number`: the requester's own, which news of it repeat."""

    blob_ids: tuple[str, ...]
    number: int


class Hello: ...


class Done: ...


class Void:
    """A piece request that was cancelled: its frame will be empty."""


Request = Want | PieceRequest | Cancel | WatchList | Hello | Done | Void


def parse_request(message: object) -> Request:
    """Raises ProtocolViolation."""
    fields = Fields(message)
    if fields.has("cancel"):
        return Cancel(fields.number("cancel", 0, 2**32), _blob_id(fields, "of"))
    if fields.has("want"):
        return Want(_blob_id(fields, "want"), fields.has("brief") and fields.flag("brief"))
    if fields.has("piece"):
        return PieceRequest(fields.number("piece", 0, 2**32), _blob_id(fields, "of") if fields.has("of") else None)
    if fields.has("watch"):
        return WatchList(tuple(watched_ids(fields)), fields.number("list", 0, 2**32))
    if fields.has("hello"):
        return Hello()
    if fields.flag("done"):
        return Done()
    raise ProtocolViolation("a request that asks for nothing")


def _blob_id(request: Fields, name: str) -> str:
    blob_id = request.text(name, 64)
    if not is_blob_id(blob_id):
        raise ProtocolViolation(f"not a blob id: {blob_id!r}")
    return blob_id


@dataclass
class Queue:
    """Requests of one stream that have been read ahead."""

    requests: deque[Request] = field(default_factory=deque)
    changed: trio.Event = field(default_factory=trio.Event)
    blob_id: str = ""  # wanted last
    answering: tuple[str, int] | None = None  # the piece at the head, until its turn comes
    watches: bool = False  # nothing but lists of blobs to watch comes any more
    ended: bool = False

    def add(self, request: Request) -> None:
        """Raises ProtocolViolation for what may not follow a list to watch. Of several lists the last one counts."""
        if isinstance(request, Cancel):
            return self._cancel(request)
        if self.watches and not isinstance(request, WatchList):
            raise ProtocolViolation("another question on a stream of news")
        if self.watches and self.requests and isinstance(self.requests[-1], WatchList):
            self.requests.pop()
        self.watches = isinstance(request, WatchList)
        self.requests.append(request)
        self.wake()
        return None

    def _cancel(self, cancel: Cancel) -> None:
        """Its frame will be empty; nothing if it is on its way already."""
        if self.answering == (cancel.blob_id, cancel.index):
            self.answering = None
        asked = PieceRequest(cancel.index, cancel.blob_id)
        for place, request in enumerate(self.requests):
            if request == asked:
                self.requests[place] = Void()

    def end(self) -> None:
        """The requester closed, with or without a word."""
        self.ended = True
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()
