"""The lists of blobs that one holder was asked to watch for us: its news name a blob by its place in one of them."""

from collections.abc import Iterable

import trio

from p2p.errors import ProtocolViolation

_MAX_LISTS = 32  # of which news may still be under way


class WatchLists:
    def __init__(self) -> None:
        self._lists: dict[int, list[str]] = {}  # by number; of older ones nothing can come any more
        self._told = 0
        self._settled = trio.Event()

    def next(self, blob_ids: Iterable[str]) -> dict[str, object]:
        """The message that asks for news of them."""
        self._told += 1
        self._lists[self._told] = sorted(blob_ids)
        return {"watch": self._lists[self._told], "list": self._told}

    async def room(self) -> None:
        """Until there may be another: a holder that has not spoken since is silent, or slow."""
        while len(self._lists) >= _MAX_LISTS:
            self._settled = trio.Event()
            await self._settled.wait()

    def named(self, number: int) -> list[str]:
        """What news of that list are about. Raises ProtocolViolation."""
        if number not in self._lists:
            raise ProtocolViolation("news of a list that was not asked for, or of one before the last")
        for older in [one for one in self._lists if one < number]:
            del self._lists[older]
            self._settled.set()
        return self._lists[number]
