"""A nursery that does not change the exceptions of the block it surrounds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """A nursery for tasks that serve a block: they are cancelled when it ends.

    A group with one exception in it is raised as that exception, so that a context manager built on this lets
    `except` clauses outside it work as if there were no nursery.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        found = leaves(group)
        raise (found[0] if len(found) == 1 else group) from None


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions of a group and of the groups in it."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
