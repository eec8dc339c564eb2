"""The p2pd process: found in hivemind's wheel, started, watched, and never left behind."""

import contextlib
import errno
import importlib.util
import ipaddress
import logging
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from p2p.child import Child
from p2p.errors import PortInUse, TransportDied, TransportError

_log = logging.getLogger(__name__)
_READY_PREFIX = "Peer ID:"
_MAX_LINE_BYTES = 4096
_STOP_SECONDS = 2.0
_DYING_SECONDS = 0.3


def package_file(relative: str) -> Path:
    """A file of the installed hivemind package, which is not imported. Raises TransportError."""
    spec = importlib.util.find_spec("hivemind")
    if spec is None or not spec.submodule_search_locations:
        raise TransportError("hivemind is not installed: its wheel carries p2pd")
    path = Path(spec.submodule_search_locations[0]) / relative
    if not path.is_file():
        raise TransportError(f"{path} is missing: reinstall hivemind")
    return path


def check_port_free(host: str, port: int) -> None:
    """Raises PortInUse if somebody listens there.

    p2pd listens with SO_REUSEPORT, so a second one would bind the same port and steal half the connections
    without a word; a plain bind fails.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # lets a port in TIME_WAIT pass
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(f"port {port} on {host} is in use; stop what listens there or set another") from error
            raise TransportError(f"cannot listen on {host} port {port}: {error.strerror}") from error


class P2pdProcess:
    """One running p2pd. Its output is read all the time, or it would block on a full pipe."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.ready = trio.Event()
        self._stopping = False
        self._lines: deque[str] = deque(maxlen=5)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            command = [str(package_file("hivemind_cli/p2pd")), *arguments]
            self._child = Child(command, output=write_end, environment=environment)
        except OSError as error:
            os.close(read_end)
            raise TransportError(f"cannot start p2pd: {error.strerror}") from error
        finally:
            os.close(write_end)
        self._output = trio.lowlevel.FdStream(read_end)

    @property
    def pid(self) -> int:
        return self._child.pid

    async def died(self) -> bool:
        """Whether it is gone although nobody stopped it. A dying process closes its sockets first: a moment."""
        if not self._stopping:
            with trio.move_on_after(_DYING_SECONDS, shield=True):
                await self._child.wait()
                return True
        return False

    def death(self) -> TransportDied:
        said = " | ".join(self._lines) or "nothing"
        return TransportDied(f"p2pd exited with status {self._child.returncode}; its last words: {said}")

    async def watch(self) -> None:
        """Raises TransportDied when the process is gone."""
        await self._child.wait()
        if not self._stopping:
            raise self.death()

    async def read_output(self) -> None:
        """Keeps the last lines for the error message, the rest at debug level."""
        pending = b""
        with contextlib.suppress(trio.ClosedResourceError):
            while chunk := await self._output.receive_some(_MAX_LINE_BYTES):
                *lines, pending = (pending + chunk).split(b"\n")
                pending = pending[:_MAX_LINE_BYTES]
                for line in lines:
                    self._take_line(line.decode(errors="replace").strip()[:_MAX_LINE_BYTES])

    def _take_line(self, line: str) -> None:
        if line.startswith(_READY_PREFIX):
            self.ready.set()
        if line:
            self._lines.append(line)
            _log.debug("p2pd: %s", line)

    async def stop(self) -> None:
        """Ends and reaps it, gently first; works under cancellation."""
        self._stopping = True
        await self._child.stop(_STOP_SECONDS)
        with trio.CancelScope(shield=True):
            await self._output.aclose()
