"""Reading files whose size is known before, from places we do not trust."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO


class Unreadable(Exception):
    """Not a regular file, missing, forbidden or short; the message says which."""


@contextmanager
def opened(path: str) -> Iterator[tuple[FileIO, int]]:
    """The open file and its size in bytes. Never blocks on a FIFO or device. Raises Unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with FileIO(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("not a regular file")
            yield file, status.st_size
    except (OSError, ValueError) as error:
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from error


def fill(file: FileIO, buffer: memoryview) -> None:
    """Read until `buffer` is full. Raises Unreadable if the file ends first."""
    done = 0
    while done < len(buffer):
        got = file.readinto(buffer[done:])
        if not got:
            raise Unreadable(f"ended after {done} of {len(buffer)} bytes")
        done += got
