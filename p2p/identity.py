"""The transport's identity: an Ed25519 key file as p2pd reads it.

The file is libp2p's protobuf `PrivateKey {Type = 1 (Ed25519), Data = seed || public key}`; the peer id is the
base58 of the identity multihash of the protobuf `PublicKey` (libp2p specs, peer-ids). It authenticates
connections only: the hotkey signs records, and records name the peer id.
"""

import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from p2p.errors import NO_ROOM, DiskFull, IdentityError
from p2p.protocols import PeerId

_PRIVATE_HEADER = bytes([0x08, 1, 0x12, 64])  # field 1 varint 1 (Ed25519); field 2, 64 bytes
_PUBLIC_HEADER = bytes([0x08, 1, 0x12, 32])
_IDENTITY_MULTIHASH = bytes([0x00, 36])
_SEED_BYTES = 32
_FILE_BYTES = len(_PRIVATE_HEADER) + 2 * _SEED_BYTES
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def create_identity(path: Path) -> PeerId:
    """Write a new key, mode 0600, and return its peer id. Raises IdentityError if `path` exists."""
    seed = secrets.token_bytes(_SEED_BYTES)
    public = _public_key(seed)
    _write_new(path, _PRIVATE_HEADER + seed + public)
    return _peer_id(public)


def peer_id_of(path: Path) -> PeerId:
    """The peer id of an identity file. IdentityError: missing, readable by others, not such a key."""
    data = _read_private(path)
    if len(data) != _FILE_BYTES or not data.startswith(_PRIVATE_HEADER):
        raise IdentityError(f"{path}: not an Ed25519 libp2p identity; remove it and run `covenantd init` for a new one")
    seed, public = data[4:36], data[36:]
    if _public_key(seed) != public:
        raise IdentityError(f"{path}: the two halves of the key disagree; remove it and run `covenantd init`")
    return _peer_id(public)


def ensure_identity(path: Path) -> PeerId:
    """The peer id of the identity at `path`, which is created when there is none."""
    return peer_id_of(path) if path.exists() else create_identity(path)


def base58(data: bytes) -> str:
    """Bitcoin's base58."""
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    zeros = len(data) - len(data.lstrip(b"\0"))
    return _ALPHABET[0] * zeros + digits


def _public_key(seed: bytes) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _peer_id(public: bytes) -> PeerId:
    return base58(_IDENTITY_MULTIHASH + _PUBLIC_HEADER + public)


def _write_new(path: Path, data: bytes) -> None:
    """Whole or not at all, and never over an existing file: a temporary one is linked into place."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(temporary, path)
    except FileExistsError as error:
        raise IdentityError(f"{path} exists; an identity is never overwritten") from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(f"no room on disk for {path}: {error.strerror}; free space there") from error
        raise IdentityError(f"cannot write identity {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise IdentityError(f"{path}: no identity; `covenantd init` makes one") from error
    except OSError as error:
        raise IdentityError(f"cannot read identity {path}: {error.strerror}") from error
    try:
        mode = os.fstat(descriptor).st_mode & 0o777
        if mode & 0o077:
            raise IdentityError(f"{path}: mode {mode:04o} lets others read the key; run `chmod 600 {path}`")
        return os.read(descriptor, _FILE_BYTES + 1)
    except OSError as error:
        raise IdentityError(f"cannot read identity {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
