"""The hotkey: one sr25519 key in a file, as Bittensor's wallets keep an unencrypted hotkey.

The file is JSON with `secretPhrase` or `secretSeed`, `ss58Address`, `publicKey`; `btcli` reads what we write and
we read what it leaves. The hotkey is the only secret on the host, so a file that others may read is refused.
"""

import os
import stat
from pathlib import Path

import bittensor_core

from covenantd.errors import ConfigError, PermissionRefused

MAX_KEY_FILE_BYTES = 64 << 10
SIGNATURE_BYTES = 64
_MAX_ADDRESS_CHARACTERS = 64
_MNEMONIC_WORDS = 12


class Hotkey:
    """Signs as one ss58 address. Implements `p2p.protocols.Signer`."""

    def __init__(self, keypair: bittensor_core.Keypair) -> None:
        self._keypair = keypair

    @classmethod
    def generate(cls) -> "Hotkey":
        """A new random key, never written anywhere."""
        phrase = bittensor_core.Keypair.generate_mnemonic(_MNEMONIC_WORDS)
        return cls(bittensor_core.Keypair.from_mnemonic(phrase))

    @classmethod
    def from_uri(cls, uri: str) -> "Hotkey":
        """A key derived from a well-known word such as `//Alice`. For tests and local swarms: anyone can derive it."""
        return cls(bittensor_core.Keypair.from_uri(uri))

    @property
    def hotkey(self) -> str:
        """ss58 address."""
        return str(self._keypair.ss58_address)

    @property
    def public_key_hex(self) -> str:
        """The raw 32-byte public key as 64 hex digits."""
        return bytes(self._keypair.public_key).hex()

    def sign(self, message: bytes) -> bytes:
        """A 64-byte sr25519 signature; two of the same message differ."""
        return bytes(self._keypair.sign(message))

    def file_bytes(self) -> bytes:
        """The key file's content, secret included."""
        return bytes(bittensor_core.serialized_keypair_to_keyfile_data(self._keypair))

    def __repr__(self) -> str:
        return f"Hotkey({self.hotkey})"  # never the secret


def public_key(hotkey: str) -> bytes:
    """The 32 raw bytes behind an ss58 address.

    Raises ValueError unless it is the address in its one accepted spelling (format 42): a key that could be
    written in two ways could stand twice in any table that is keyed by hotkey.
    """
    if not isinstance(hotkey, str) or len(hotkey) > _MAX_ADDRESS_CHARACTERS:
        raise ValueError("not an ss58 address")
    raw = bytes(bittensor_core.ss58_decode(hotkey))
    if bittensor_core.ss58_encode(raw) != hotkey:
        raise ValueError("an ss58 address of another network")
    return raw


def address(public_key: bytes) -> str:
    """The ss58 address (format 42) of 32 raw bytes, whether they are anybody's key or not. Raises ValueError."""
    if len(public_key) != 32:
        raise ValueError(f"a public key of {len(public_key)} bytes")
    return str(bittensor_core.ss58_encode(public_key))


def verify(hotkey: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` is `hotkey`'s. Never raises on hostile input."""
    try:
        public_key(hotkey)
        if len(signature) != SIGNATURE_BYTES:
            return False
        return bool(bittensor_core.verify_signature(bytes(message), bytes(signature), hotkey))
    except (ValueError, TypeError):
        return False


def create_hotkey(path: Path) -> Hotkey:
    """Generate a key and write it to `path`, mode 0600, never over an existing file.

    Raises ConfigError if the file is there, PermissionRefused if the directory is not ours to write.
    """
    key = Hotkey.generate()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path}: there is a key file already; it is never overwritten") from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such directory for the key file") from None
    except PermissionError as error:
        raise PermissionRefused(f"{path}: cannot write the key file: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)  # a umask cannot have widened it, but may have taken our own bits
        file.write(key.file_bytes())
        file.flush()
        os.fsync(descriptor)
    return key


def load_hotkey(path: Path) -> Hotkey:
    """Read a key file.

    Raises ConfigError for a missing, readable-by-others, encrypted, public-only or damaged file and
    PermissionRefused where the system forbids reading; the message names the file, never its content.
    """
    data = _read_private(path)
    if bittensor_core.keyfile_data_is_encrypted(data):
        raise ConfigError(
            f"{path}: the key file is encrypted, and a daemon has nobody to ask for the password; "
            "give it an unencrypted hotkey (its coldkey stays elsewhere)"
        )
    try:
        key = Hotkey(bittensor_core.deserialize_keypair_from_keyfile_data(data))
        address_is_derived = verify(key.hotkey, b"self-test", key.sign(b"self-test"))
    except (ValueError, TypeError, bittensor_core.KeyfileError):
        # The library's message may quote the file; the cause is cut off for the same reason.
        raise ConfigError(f"{path}: not a hotkey file with a usable sr25519 secret") from None
    if not address_is_derived:
        raise ConfigError(f"{path}: the secret in the key file does not belong to its address")
    return key


def _read_private(path: Path) -> bytes:
    try:
        # Non-blocking, or a fifo at that path would hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such key file; `covenantd init` makes one") from None
    except PermissionError as error:
        raise PermissionRefused(f"{path}: cannot read the key file: {error.strerror}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot open the key file: {error.strerror}") from None
    try:
        _require_private(path, os.fstat(descriptor))  # of what was opened, not of what the path names by now
        return os.read(descriptor, MAX_KEY_FILE_BYTES)
    finally:
        os.close(descriptor)


def _require_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: the key file is not a regular file")
    if status.st_mode & 0o077 and not _is_systemd_credential(path):
        raise ConfigError(f"{path}: others can read the key file (mode {status.st_mode & 0o777:04o}); chmod 600 {path}")
    if status.st_size > MAX_KEY_FILE_BYTES:
        raise ConfigError(f"{path}: {status.st_size} bytes is too long for a key file")


def _is_systemd_credential(path: Path) -> bool:
    """systemd hands credentials over with group bits set (an ACL mask) in a directory only the service can enter."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and path.resolve().is_relative_to(Path(directory or "/").resolve())
