"""What a blob is: its size, the size of its pieces and their BLAKE3 hashes. The blob's id is the hash of that."""

import os
import re
import struct
from dataclasses import dataclass
from functools import cached_property

from blake3 import blake3

from p2p.errors import BlobTooLarge, ProtocolViolation
from p2p.wire import Fields

MIN_PIECE_BYTES = 4 << 10
MAX_PIECE_BYTES = 16 << 20
MAX_MANIFEST_BYTES = 16 << 20  # 512k pieces: a 72B state in fp32 fits with pieces of 1 MiB
HASH_BYTES = 32
MAX_BITMAP_BYTES = MAX_MANIFEST_BYTES // HASH_BYTES // 8
_DOMAIN = b"covenantd blob 1\0"
_HEADER = struct.Struct("<QI")
_BLOB_ID = re.compile(r"[0-9a-f]{64}")


def is_blob_id(text: str) -> bool:
    return _BLOB_ID.fullmatch(text) is not None


def piece_hash(data: bytes | bytearray | memoryview) -> bytes:
    return blake3(data).digest()


@dataclass(frozen=True)
class Manifest:
    """`hashes`: 32 bytes a piece, one after the other. Raises ValueError if the three do not fit together."""

    size: int
    piece_bytes: int
    hashes: bytes

    def __post_init__(self) -> None:
        if not MIN_PIECE_BYTES <= self.piece_bytes <= MAX_PIECE_BYTES:
            raise ValueError(f"pieces of {self.piece_bytes} bytes, not {MIN_PIECE_BYTES} to {MAX_PIECE_BYTES}")
        if len(self.hashes) > MAX_MANIFEST_BYTES:
            raise ValueError(f"{self.size} bytes in pieces of {self.piece_bytes} need too many hashes")
        if self.size < 0 or len(self.hashes) != HASH_BYTES * -(-self.size // self.piece_bytes):
            raise ValueError(f"{len(self.hashes)} bytes of hashes for {self.size} bytes")

    @cached_property
    def blob_id(self) -> str:
        """BLAKE3("covenantd blob 1" || 0 || `to_bytes`), 64 hex digits."""
        return blake3(_DOMAIN + self.to_bytes()).hexdigest()

    @property
    def pieces(self) -> int:
        return len(self.hashes) // HASH_BYTES

    def offset(self, index: int) -> int:
        return index * self.piece_bytes

    def length(self, index: int) -> int:
        """Bytes of piece `index`. Raises IndexError."""
        if not 0 <= index < self.pieces:
            raise IndexError(f"piece {index} of {self.pieces}")
        return min(self.piece_bytes, self.size - self.offset(index))

    def matches(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        start = index * HASH_BYTES
        expected = self.hashes[start : start + HASH_BYTES]
        return len(data) == self.length(index) and piece_hash(data) == expected

    def to_bytes(self) -> bytes:
        """As it is hashed and kept on disk: u64 LE size, u32 LE piece bytes, hashes."""
        return _HEADER.pack(self.size, self.piece_bytes) + self.hashes

    @staticmethod
    def from_bytes(data: bytes) -> "Manifest":
        """Raises ValueError."""
        if len(data) < _HEADER.size:
            raise ValueError(f"manifest of {len(data)} bytes")
        size, piece_bytes = _HEADER.unpack_from(data)
        return Manifest(size, piece_bytes, data[_HEADER.size :])

    def as_message(self) -> dict[str, int | bytes]:
        return {"size": self.size, "piece_bytes": self.piece_bytes, "hashes": self.hashes}

    @staticmethod
    def from_message(message: object, blob_id: str, max_bytes: int) -> "Manifest":
        """A stranger's manifest. Raises ProtocolViolation if it is not `blob_id`'s; BlobTooLarge if it is."""
        fields = Fields(message)
        size = fields.number("size", 0, MAX_PIECE_BYTES * MAX_MANIFEST_BYTES // HASH_BYTES)
        piece_bytes = fields.number("piece_bytes", MIN_PIECE_BYTES, MAX_PIECE_BYTES)
        hashes = fields.raw("hashes", exact=HASH_BYTES * -(-size // piece_bytes))
        try:
            manifest = Manifest(size, piece_bytes, hashes)
        except ValueError as error:
            raise ProtocolViolation(str(error)) from error
        if manifest.blob_id != blob_id:
            raise ProtocolViolation(f"manifest of {manifest.blob_id}, expected {blob_id}")
        if size > max_bytes:
            raise BlobTooLarge(f"blob {blob_id} has {size} bytes, more than {max_bytes}")
        return manifest


def manifest_of(descriptor: int, piece_bytes: int) -> Manifest:
    """Hash an open file. Raises OSError, ValueError (piece size)."""
    size = os.fstat(descriptor).st_size
    hashes = bytearray()
    for offset in range(0, size, max(piece_bytes, 1)):
        hashes += piece_hash(os.pread(descriptor, min(piece_bytes, size - offset), offset))
    return Manifest(size, piece_bytes, bytes(hashes))


def full_bitmap(pieces: int) -> bytes:
    """Piece i is bit i % 8 of byte i // 8; bits past the end are zero."""
    return ((1 << pieces) - 1).to_bytes(bitmap_bytes(pieces), "little")


def bitmap_bytes(pieces: int) -> int:
    return -(-pieces // 8)
