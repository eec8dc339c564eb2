"""The engine process: `python -m model.worker --socket PATH [--allow-faults]`.

Connects to the daemon's unix socket and answers `model.messages` there. A thread reads, so that `Stop`, `Profile`, and
the end of the daemon, are seen while the main thread trains: when the socket closes, the process exits at once.
Exit codes: 0 the socket was closed, 69 it could not be connected, 70 a bug, with a traceback on stderr, 75 the GPU is
full.
"""

import argparse
import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

import torch

from model import messages
from model.engine import Engine

EXIT_NO_SOCKET = 69
EXIT_BUG = 70
EXIT_TRY_AGAIN = 75
_PR_SET_PDEATHSIG = 1
_PREFIX_BYTES = 4


class Closed(Exception):
    """The daemon closed the socket, or is gone."""


class Connection:
    """Requests in, replies and events out."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.requests: queue.SimpleQueue[messages.Message] = queue.SimpleQueue()
        self.stop = threading.Event()
        self._profiles: queue.SimpleQueue[messages.Profile] = queue.SimpleQueue()

    def read_forever(self) -> None:
        """The reader thread. Ends only with the process."""
        try:
            while True:
                length = messages.frame_length(self._receive_exactly(_PREFIX_BYTES))
                self._take(messages.decode(self._receive_exactly(length)))
        except Closed:
            os._exit(0)
        finally:  # a thread's exception would otherwise leave a deaf engine behind
            traceback.print_exc()
            os._exit(EXIT_BUG)

    def _take(self, message: messages.Message) -> None:
        if isinstance(message, messages.Stop):
            self.stop.set()
            return
        if isinstance(message, messages.Profile):
            self._profiles.put(message)
            return
        if isinstance(message, messages.Train):
            self.stop.clear()  # here, in order of arrival: a Stop right behind its Train must not be lost
        self.requests.put(message)

    def wanted_profile(self) -> messages.Profile | None:
        """The next trace asked for, once."""
        try:
            return self._profiles.get_nowait()
        except queue.Empty:
            return None

    def _receive_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                part = self._socket.recv(min(count - len(data), 1 << 20))
            except ConnectionError as error:
                raise Closed from error
            if not part:
                raise Closed
            data += part
        return bytes(data)

    def send(self, message: messages.Message) -> None:
        """Exits the process if nobody listens any more."""
        try:
            self._socket.sendall(messages.encode(message))
        except ConnectionError:
            os._exit(0)


def serve(connection: Connection, *, allow_faults: bool) -> None:
    """Answer for ever; a bug is reported, then raised, and so is that the GPU is full: what a broken-off request left
    there goes with this process, and the next one loads the state anew."""
    engine = Engine(
        allow_faults=allow_faults,
        emit=connection.send,
        should_stop=connection.stop.is_set,
        wanted_profile=connection.wanted_profile,
    )
    threading.Thread(target=connection.read_forever, name="reader", daemon=True).start()
    while True:
        request = connection.requests.get()
        try:
            reply = engine.answer(request)
        except torch.OutOfMemoryError as error:
            connection.send(messages.Failed("memory", f"{type(request).__name__}: {_gpu_full(error)}"))
            raise SystemExit(EXIT_TRY_AGAIN) from error
        except Exception as error:
            connection.send(messages.Failed("bug", f"{type(request).__name__}: {error!r}"))
            raise
        connection.send(reply)


def _gpu_full(error: torch.OutOfMemoryError) -> str:
    said = str(error).partition(" Of the allocated memory")[0].partition(" If reserved")[0]  # then: for programmers
    return f'{said} End what else uses the GPU, or choose another device in [engine], as device = "cpu"'


def die_with_parent() -> None:
    """Have the kernel kill us with our parent, where that is safe.

    The signal is sent when the *thread* that started us ends, and trio starts processes from worker threads that
    end when idle: then we would die with the daemon well. So only if its main thread started us; else the closed
    socket alone tells us.
    """
    parent = os.getppid()
    children = Path(f"/proc/{parent}/task/{parent}/children")
    try:
        started_by_main_thread = str(os.getpid()) in children.read_text().split()
    except OSError:
        return
    if started_by_main_thread:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m model.worker", description="covenantd's training engine")
    parser.add_argument("--socket", required=True, help="the daemon's unix socket to connect to")
    parser.add_argument("--allow-faults", action="store_true", help="tests only: obey FlipBit")
    arguments = parser.parse_args()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the daemon decides what ends
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(arguments.socket)
    except OSError as error:
        print(f"engine: cannot connect to {arguments.socket}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_NO_SOCKET)
    try:
        serve(Connection(sock), allow_faults=arguments.allow_faults)
    except Exception:  # noqa: BLE001 - the last resort of the process: say it, and exit with the code for bugs
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(EXIT_BUG)


if __name__ == "__main__":
    main()
