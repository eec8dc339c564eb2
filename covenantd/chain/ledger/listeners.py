"""Where the ledger listens."""

import errno
import socket
import stat
from pathlib import Path

import trio

from covenantd.errors import ConfigError, PermissionRefused, TryAgain

_BACKLOG = 256
_MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un


def open_unix_listener(path: Path) -> trio.SocketListener:
    """Listen at `path`, mode 0660, over a stale socket if there is one.

    Raises ConfigError (path too long, or something else lies there), TryAgain (somebody listens there).
    """
    if len(bytes(path)) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"{path}: a socket path has at most {_MAX_SOCKET_PATH_BYTES} bytes")
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _explained(str(path), error) from None
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing there; binding names any other trouble
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path}: there is something else than a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise _explained(str(path), error) from None
    raise TryAgain(f"{path}: another process listens there")


async def open_tcp_listeners(address: str) -> list[trio.SocketListener]:
    """Listen at `HOST:PORT` (an IPv6 host in brackets; port 0 picks one). Raises ConfigError, TryAgain."""
    host, port = split_address(address)
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    except OSError as error:
        raise _explained(address, error) from None


def split_address(address: str) -> tuple[str, int]:
    """Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _explained(where: str, error: OSError) -> ConfigError | TryAgain | PermissionRefused:
    reason = f"{where}: cannot listen: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        return TryAgain(f"{reason}; another process listens there")
    if isinstance(error, PermissionError):
        return PermissionRefused(reason)
    return ConfigError(reason)
