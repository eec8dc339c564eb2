"""The content-addressed store on disk: whole blobs, blobs in the making, and their manifests.

    complete/ID    the bytes; appears by rename, after fsync, so it is whole or not there
    partial/ID     a sparse file that is being filled; what is in it is found out by hashing
    manifests/ID   `Manifest.to_bytes`; checked against ID whenever it is read
    temporary/     emptied on open

Calls block on the disk: callers on trio put the large ones (adopt, partial, complete, verify) in a thread.
"""

import os
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from p2p.errors import BlobCorrupt, BlobError
from p2p.manifest import MAX_MANIFEST_BYTES, Manifest, full_bitmap, is_blob_id, manifest_of
from p2p.partial import PartialBlob, disk_errors

__all__ = ["BlobStore", "Manifest", "PartialBlob", "whole_file"]


def whole_file(directory: Path, blob_id: str) -> Path:
    """Where the store in `directory` has a blob once it is whole; for those who only look, beside its owner."""
    return _file(directory, "complete", blob_id)


@lru_cache(4096)  # making paths takes longer than looking at files, which is done for every piece of everybody's news
def _file(directory: Path, kind: str, blob_id: str) -> Path:
    if not is_blob_id(blob_id):
        raise ValueError(f"not a blob id: {blob_id!r:.80}")
    return directory / kind / blob_id


class BlobStore:
    """Raises ValueError for what is not a blob id, DiskFull and BlobError for what the disk says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: dict[str, PartialBlob] = {}
        self._manifests: dict[str, Manifest] = {}
        self._lock = threading.RLock()  # a blob and its manifest come and go together
        with disk_errors(directory):
            shutil.rmtree(directory / "temporary", ignore_errors=True)
            for name in ("complete", "partial", "manifests", "temporary"):
                (directory / name).mkdir(parents=True, exist_ok=True)

    def adopt(self, path: Path, piece_bytes: int, keep: bool = False) -> str:
        """Take a file in and return its blob id. It is moved, or with `keep` linked (copied across filesystems).

        A linked file must not be changed in place afterwards: what no longer matches is dropped, not served.
        """
        return self.adopt_as(path, self.measure(path, piece_bytes), keep)

    def measure(self, path: Path, piece_bytes: int) -> Manifest:
        """The manifest that `path` has as a blob; nothing is stored."""
        with disk_errors(path), path.open("rb", buffering=0) as file:
            return manifest_of(file.fileno(), piece_bytes)

    def adopt_as(self, path: Path, manifest: Manifest, keep: bool = False) -> str:
        """`adopt` with the manifest already measured."""
        blob_id = manifest.blob_id
        if self.path(blob_id) is None:
            staged = self._stage(path, blob_id, keep)
            try:
                with disk_errors(staged), staged.open("rb") as file:
                    os.fsync(file.fileno())
                with self._lock:
                    self._write_manifest(manifest)
                    self._publish(staged, blob_id)
            except BlobError:
                if keep or path.exists():
                    staged.unlink(missing_ok=True)
                elif staged.exists():
                    staged.rename(path)  # never lose the only copy
                raise
            if blob_id not in self._open:
                self._file("partial", blob_id).unlink(missing_ok=True)
        if not keep:
            path.unlink(missing_ok=True)
        return blob_id

    def path(self, blob_id: str) -> Path | None:
        """The file of a whole blob. Read it with care: only `read_piece` and `verify` check it against the hash."""
        file = self._file("complete", blob_id)
        return file if self.manifest(blob_id) is not None and file.is_file() else None

    def manifest(self, blob_id: str) -> Manifest | None:
        if blob_id not in self._manifests:
            manifest = self._read_manifest(blob_id)
            if manifest is None:
                return None
            self._manifests[blob_id] = manifest
        return self._manifests[blob_id]

    def bitmap(self, blob_id: str) -> bytes | None:
        """Which pieces can be read now; None if the blob is neither whole nor open."""
        manifest = self.manifest(blob_id)
        if manifest is not None and self._file("complete", blob_id).is_file():
            return full_bitmap(manifest.pieces)
        partial = self._open.get(blob_id)
        return partial.bitmap() if partial is not None else None

    def read_piece(self, blob_id: str, index: int) -> bytes:
        """A verified piece of a whole or open blob. Raises BlobCorrupt (and drops the piece), BlobError, IndexError.

        A whole blob with a bad piece becomes a partial one, which `partial` completes again.
        """
        manifest, file = self.manifest(blob_id), self._file("complete", blob_id)
        if manifest is not None and file.is_file():
            length = manifest.length(index)
            with disk_errors(file), file.open("rb", buffering=0) as opened:
                data = os.pread(opened.fileno(), length, manifest.offset(index))
            if manifest.matches(index, data):
                return data
            self._demote(blob_id)
            raise BlobCorrupt(f"{file}: piece {index} does not match its hash; the blob is no longer whole")
        if blob_id in self._open:
            self._open[blob_id].manifest.length(index)
            return self._open[blob_id].read_piece(index)
        raise BlobError(f"blob {blob_id} is not here")

    def verify(self, blob_id: str) -> bool:
        """Whether a whole blob still matches its hash on disk; if not it becomes a partial one."""
        manifest, file = self.manifest(blob_id), self.path(blob_id)
        if manifest is None or file is None:
            return False
        if self.measure(file, manifest.piece_bytes) == manifest:
            return True
        self._demote(blob_id)
        return False

    def partial(self, manifest: Manifest) -> PartialBlob:
        """The blob in the making, opened (and hashed) once; the same object until it is closed or completed."""
        blob_id = manifest.blob_id
        if blob_id not in self._open:
            self._write_manifest(manifest)
            self._open[blob_id] = PartialBlob(manifest, self._file("partial", blob_id))
        return self._open[blob_id]

    def seed_partial(self, manifest: Manifest, from_file: Path) -> PartialBlob:
        """`partial`, with every piece that `from_file` has at the same place already in it."""
        partial = self.partial(manifest)
        partial.seed(from_file)
        return partial

    def complete(self, partial: PartialBlob) -> Path:
        """Make a partial with every piece whole: fsync, rename. Raises BlobError if one is missing."""
        if not partial.whole:
            raise BlobError(f"{partial.path} lacks {len(partial.missing())} pieces")
        blob_id = partial.manifest.blob_id
        partial.sync()
        with self._lock:
            if self.path(blob_id) is None:  # unless it was adopted from elsewhere meanwhile
                self._write_manifest(partial.manifest)
                self._publish(partial.path, blob_id)
            partial.path.unlink(missing_ok=True)
        self.close(partial)
        return self._file("complete", blob_id)

    def close(self, partial: PartialBlob) -> None:
        """Stop filling; the file stays and a later `partial` goes on from there."""
        self._open.pop(partial.manifest.blob_id, None)
        partial.close()

    def delete(self, blob_id: str) -> None:
        """Whole or partial; nothing if it is not there."""
        with self._lock:
            if blob_id in self._open:
                self.close(self._open[blob_id])
            self._manifests.pop(blob_id, None)
            for kind in ("complete", "partial", "manifests"):
                self._file(kind, blob_id).unlink(missing_ok=True)

    def retain(self, blob_ids: Iterable[str]) -> None:
        """Delete every other blob, except those being filled right now."""
        kept = {*blob_ids, *self._open}
        for kind in ("complete", "partial", "manifests"):
            for file in list((self.directory / kind).iterdir()):
                if file.name not in kept and is_blob_id(file.name):
                    self.delete(file.name)

    @property
    def total_bytes(self) -> int:
        """Bytes on disk of whole and partial blobs; holes are not counted."""
        total = 0
        for kind in ("complete", "partial"):
            for file in (self.directory / kind).iterdir():
                with suppress(FileNotFoundError):
                    total += file.stat().st_blocks * 512
        return total

    def _file(self, kind: str, blob_id: str) -> Path:
        return _file(self.directory, kind, blob_id)

    def _stage(self, path: Path, blob_id: str, keep: bool) -> Path:
        """The file under temporary/: linked or moved there, copied where that cannot be."""
        staged = self.directory / "temporary" / f"{blob_id}.{os.urandom(4).hex()}"
        try:
            with disk_errors(path):
                (os.link if keep else os.rename)(path, staged)
        except BlobError:
            self._copy(path, staged)
        return staged

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        try:
            with disk_errors(target):
                shutil.copyfile(source, target)
        except BlobError:
            target.unlink(missing_ok=True)
            raise

    def _publish(self, file: Path, blob_id: str) -> None:
        manifest = self._file("manifests", blob_id)
        with disk_errors(manifest), manifest.open("rb") as opened:
            os.fsync(opened.fileno())
            _sync_directory(self.directory / "manifests")
        with disk_errors(file):
            file.rename(self._file("complete", blob_id))
            _sync_directory(self.directory / "complete")

    def _demote(self, blob_id: str) -> None:
        """Out of complete/, at once. A file that others have linked is copied: a repair leaves theirs alone."""
        whole, partial = self._file("complete", blob_id), self._file("partial", blob_id)
        try:
            if blob_id in self._open:
                whole.unlink()  # it is being filled already
            elif whole.stat().st_nlink > 1:
                self._copy(whole, partial)
                whole.unlink()
            else:
                whole.rename(partial)
        except FileNotFoundError:
            return  # another reader was first
        except (OSError, BlobError):
            whole.unlink(missing_ok=True)  # no room for the copy: fetched whole again

    def _write_manifest(self, manifest: Manifest) -> None:
        """Before a blob is whole it may as well be lost: it can be had again, and waiting for disks is slow."""
        blob_id = manifest.blob_id
        if self.manifest(blob_id) is not None:
            return
        temporary = self.directory / "temporary" / f"{blob_id}.{os.urandom(4).hex()}.manifest"
        try:
            with disk_errors(temporary), temporary.open("wb") as file:
                file.write(manifest.to_bytes())
                file.flush()
                temporary.rename(self._file("manifests", blob_id))
        finally:
            temporary.unlink(missing_ok=True)
        self._manifests[blob_id] = manifest

    def _read_manifest(self, blob_id: str) -> Manifest | None:
        """None if there is none or it does not match its id: it can be had again from any holder."""
        path = self._file("manifests", blob_id)
        try:
            with path.open("rb") as file:
                manifest = Manifest.from_bytes(file.read(MAX_MANIFEST_BYTES + 64))
        except (OSError, ValueError):
            return None
        return manifest if manifest.blob_id == blob_id else None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
