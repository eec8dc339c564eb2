"""A child process that never outlives us: killed by the kernel if we die, reaped in every case.

subprocess.Popen and not trio.open_process: that forks in a worker thread, and PDEATHSIG fires when the *thread* that
forked ends, which trio's idle worker threads do after ten seconds.
"""

import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

import trio

_PR_SET_PDEATHSIG = 1


class Child:
    """One running child in a session of its own: a Ctrl-C in the terminal is for us to handle, in order.

    Call from the main thread. `death_signal` is what the kernel sends it when we are gone.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: IO[bytes] | int | None = None,
        stdout: IO[bytes] | int | None = None,
        environment: Mapping[str, str] | None = None,
        death_signal: int = signal.SIGKILL,
    ) -> None:
        """`output` takes stdout and stderr. Raises OSError if the program cannot be started."""
        self._popen = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output if stdout is None else stdout,
            stderr=output,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            preexec_fn=functools.partial(_die_with, os.getpid(), _libc().prctl, death_signal),
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    @property
    def stdout(self) -> IO[bytes] | None:
        """Where `stdout=subprocess.PIPE` asked for one."""
        return self._popen.stdout

    def send_signal(self, number: int) -> None:
        self._popen.send_signal(number)

    async def wait(self) -> int:
        """Its exit status, once it has one."""
        if self._popen.poll() is None:
            descriptor = os.pidfd_open(self._popen.pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        return self._popen.wait()

    async def stop(self, grace_seconds: float) -> int:
        """SIGTERM, then SIGKILL after `grace_seconds`; reaps it, also under cancellation."""
        with trio.CancelScope(shield=True):
            if grace_seconds > 0:
                self.send_signal(signal.SIGTERM)
                with trio.move_on_after(grace_seconds):
                    await self.wait()
            self.send_signal(signal.SIGKILL)  # harmless once it is reaped
            await self.wait()
        return self._popen.wait()


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _die_with(parent: int, prctl: "ctypes._NamedFuncPointer", death_signal: int) -> None:
    """Runs in the child before exec: signalled when we die, also if we already have."""
    prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        os._exit(1)
