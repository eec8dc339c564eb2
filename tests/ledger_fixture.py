"""A real ledger process for tests."""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trio

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.client import LedgerChain
from covenantd.errors import CovenantError

START_SECONDS = 60
T = TypeVar("T")
Limits = Callable[[], None]


class LedgerProcess:
    """`python -m covenantd.chain.ledger` in its own directory; blocks come by `advance` unless told otherwise."""

    def __init__(
        self, directory: Path, genesis: dict[str, Any] | None = None, *arguments: str, block_seconds: float = 0
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.database = directory / "ledger.db"
        self.socket = directory / "ledger.sock"
        self.ready: dict[str, Any] = {}
        self.netuid = (genesis or {}).get("netuid", 1)
        (directory / "genesis.json").write_text(json.dumps(genesis or {}))
        self.command = [sys.executable, "-m", "covenantd.chain.ledger"]
        self.command += ["--database", str(self.database), "--socket", str(self.socket)]
        self.command += ["--block-seconds", str(block_seconds), "--allow-advance"]
        self.command += ["--genesis", str(directory / "genesis.json"), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self, limits: Limits | None = None) -> "LedgerProcess":
        """Returns once it serves."""
        reader, writer = os.pipe()
        try:
            with (self.directory / "ledger.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [*self.command, "--ready-fd", str(writer)], pass_fds=[writer], stderr=log, preexec_fn=limits
                )
        finally:
            os.close(writer)
        with os.fdopen(reader, "rb") as ready:
            line = _read_line(ready.fileno())
        if not line:
            self.kill()
            raise AssertionError((self.directory / "ledger.log").read_text())
        self.ready = json.loads(line)
        return self

    def kill(self) -> None:
        """kill -9, reaped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_SECONDS)

    def chain(self, signer: Hotkey | None = None, **options: Any) -> LedgerChain:
        return LedgerChain(self.endpoint, self.netuid, signer, **options)


def _read_line(descriptor: int) -> bytes:
    """Up to a newline or the end; empty if nothing came in time."""
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not data.endswith(b"\n") and selector.select(START_SECONDS):
            chunk = os.read(descriptor, 4096)
            if not chunk:
                break
            data += chunk
    return data


class Advances(Protocol):
    async def advance(self, blocks: int) -> object: ...


async def included(chain: Advances, write: Callable[[], Awaitable[T]]) -> T:
    """Run a write while making blocks until it is in one."""
    results: list[T] = []
    refusals: list[CovenantError] = []

    async def run(scope: trio.CancelScope) -> None:
        try:
            results.append(await write())
        except CovenantError as refusal:
            refusals.append(refusal)  # raised outside of the nursery, which would wrap it
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, nursery.cancel_scope)
        while True:
            await chain.advance(1)
    if refusals:
        raise refusals[0]
    return results[0]


StartLedger = Callable[..., LedgerProcess]
"""The type of the `start_ledger` fixture."""
