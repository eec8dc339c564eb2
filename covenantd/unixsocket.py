"""Unix sockets at paths of any length, and who is at the other end. No trio: `covenantctl` uses it too."""

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from covenantd.errors import CovenantError, PermissionRefused

_MAX_PATH_BYTES = 107  # sockaddr_un.sun_path less its NUL
_SO_PEERGROUPS = 59  # linux/asm-generic/socket.h; absent from Python's socket module
_MAX_GROUPS = 65536
_PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Peer:
    """Process at the other end of a unix socket, as the kernel saw it when it connected."""

    pid: int
    uid: int
    gids: frozenset[int]  # primary and supplementary


@contextmanager
def addressable(path: Path) -> Iterator[str]:
    """An address for `bind` and `connect` while inside; long paths go through /proc/self/fd."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def connect(path: Path, timeout_seconds: float) -> socket.socket:
    """A blocking connection; OSError as the kernel gives it."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(timeout_seconds)
        with addressable(path) as address:
            client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


def peer_of(connection: socket.socket) -> Peer:
    pid, uid, gid = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return Peer(pid, uid, frozenset({gid, *_groups_of(connection)}))


def _groups_of(connection: socket.socket) -> tuple[int, ...]:
    """Supplementary groups (Linux 4.13); none where the kernel does not tell."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * 64)
    except OSError as error:
        if error.errno != errno.ERANGE:
            return ()
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    return struct.unpack(f"{len(data) // 4}I", data)


def listen(path: Path, mode: int, backlog: int = 64) -> socket.socket:
    """A non-blocking listener that replaces a dead socket, never a living one nor another kind of file.

    It is bound beside `path` and renamed, so nobody meets it before its mode is set.
    """
    _refuse_living(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        beside.unlink(missing_ok=True)
        with addressable(beside) as address:
            listener.bind(address)
        beside.chmod(mode)
        listener.listen(backlog)
        beside.replace(path)
    except OSError as error:
        listener.close()
        beside.unlink(missing_ok=True)
        raise _cannot_listen(path, error) from None
    return listener


def _cannot_listen(path: Path, error: OSError) -> CovenantError:
    if isinstance(error, PermissionError):
        return PermissionRefused(f"{path}: cannot make a socket here: {error.strerror}")
    return CovenantError(f"{path}: cannot make a socket here: {error.strerror}")


def _refuse_living(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_listen(path, error) from None
    if not stat.S_ISSOCK(kind):
        raise CovenantError(f"{path} is not a socket; move it away, it is in the way of ours")
    try:
        connect(path, _PROBE_SECONDS).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return
    except OSError as error:
        # no answer in time is still somebody: a hung daemon must be ended by hand
        raise CovenantError(f"{path}: somebody holds this socket: {error.strerror or error}") from None
    raise CovenantError(f"{path}: another covenantd answers here; stop it, or give this one another directory")


@contextmanager
def removed_at_exit(path: Path) -> Iterator[None]:
    """Unlink `path` at the end, unless somebody put another socket there meanwhile."""
    ours = path.lstat().st_ino
    try:
        yield
    finally:
        try:
            if path.lstat().st_ino == ours:
                path.unlink()
        except FileNotFoundError:
            pass  # the whole directory may be gone, which is as well
