"""A blob that is not whole yet: a sparse file of which only verified pieces count."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy

from p2p.errors import NO_ROOM, BlobCorrupt, BlobError, DiskFull
from p2p.manifest import Manifest


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """OSError becomes DiskFull or BlobError, with the path and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(
                f"no room on disk for {path}: {error.strerror}; free space there, then it goes on by itself"
            ) from error
        raise BlobError(f"{path}: {error.strerror}") from error


def write_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """pwrite may write less than asked, most of all when the disk is almost full."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class PartialBlob:
    """Opening recomputes by hash which pieces are there, so nothing else about it needs to survive a crash.

    Methods may run in threads: pieces do not overlap, each flag is set in one step, and a closed file's number is
    never used again.
    """

    def __init__(self, manifest: Manifest, path: Path) -> None:
        """Raises DiskFull, BlobError."""
        self.manifest = manifest
        self.path = path
        self._have = bytearray(manifest.pieces)  # one byte a piece: set without a lock
        self._lock = threading.Lock()
        with disk_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with disk_errors(path):
                os.ftruncate(self._descriptor, manifest.size)
            for index in self._written_pieces():
                self._have[index] = manifest.matches(index, self._read(index))
        except BlobError:
            self.close()
            raise

    @property
    def whole(self) -> bool:
        return all(self._have)

    @property
    def count(self) -> int:
        """Pieces that are there."""
        return sum(self._have)

    @property
    def held_bytes(self) -> int:
        return sum(self.manifest.length(index) for index, have in enumerate(self._have) if have)

    def has(self, index: int) -> bool:
        return bool(self._have[index])

    def missing(self) -> list[int]:
        return [index for index, have in enumerate(self._have) if not have]

    def bitmap(self) -> bytes:
        """Piece i is bit i % 8 of byte i // 8."""
        return numpy.packbits(numpy.frombuffer(self._have, numpy.uint8), bitorder="little").tobytes()

    def write_piece(self, index: int, data: bytes | bytearray | memoryview) -> None:
        """Raises BlobCorrupt if it is not that piece; DiskFull, BlobError."""
        if not self.manifest.matches(index, data):
            raise BlobCorrupt(f"piece {index} of {self.manifest.blob_id} does not match its hash")
        with self._lock, disk_errors(self.path):
            write_all(self._descriptor, data, self.manifest.offset(index))
        self._have[index] = 1

    def read_piece(self, index: int) -> bytes:
        """Verified again: disks flip bits. Raises BlobCorrupt, and forgets the piece, if it went bad."""
        if not self._have[index]:
            raise BlobCorrupt(f"piece {index} of {self.manifest.blob_id} is not there")
        data = self._read(index)
        if not self.manifest.matches(index, data):
            self._have[index] = 0
            raise BlobCorrupt(f"{self.path}: piece {index} changed on disk")
        return data

    def seed(self, source: Path) -> int:
        """Take the missing pieces that a similar local file has at the same place; returns how many."""
        before = self.count
        with disk_errors(source), source.open("rb", buffering=0) as file:
            for index in self.missing():
                data = os.pread(file.fileno(), self.manifest.length(index), self.manifest.offset(index))
                if self.manifest.matches(index, data):
                    self.write_piece(index, data)
        return self.count - before

    def sync(self) -> None:
        """Onto the platter. Raises DiskFull, BlobError."""
        with self._lock, disk_errors(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """The file stays for a later try; reads and writes raise BlobError from now on."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1

    def _read(self, index: int) -> bytes:
        with self._lock, disk_errors(self.path):
            return os.pread(self._descriptor, self.manifest.length(index), self.manifest.offset(index))

    def _written_pieces(self) -> Iterator[int]:
        """Those not wholly in a hole of the file, which would take long to hash and cannot match."""
        index = 0
        while index < self.manifest.pieces:
            try:
                written = os.lseek(self._descriptor, self.manifest.offset(index), os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole from here on
                return
            index = max(index, written // self.manifest.piece_bytes)
            yield index
            index += 1
