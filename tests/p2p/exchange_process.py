"""One peer of a test on shaped links: a process with a p2pd and an exchange, told what to do by JSON lines.

It says {"peer_id", "address", "p2pd"} and answers each line {verb: argument} with {verb: result}, in the order in
which they are done: "dial" an address, "adopt" [path, piece bytes], "fetch" [blob id, peer ids], "limits" [up, down]
in bytes a second, "look" at rates and counts. It ends with its standard input.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import trio

from p2p._background import background
from p2p._p2pd import P2pdSettings, P2pdTransport, open_p2pd
from p2p.blobs import BlobStore
from p2p.exchange import Exchange
from p2p.identity import create_identity
from tests.netlab.lab import Lab

ROOT = Path(__file__).parents[2]


class PeerProcess:
    """The test's end of it."""

    def __init__(self, lab: Lab, index: int, directory: Path) -> None:
        directory.mkdir()
        command = [sys.executable, "-m", "tests.p2p.exchange_process", str(directory), lab.address(index)]
        self.process = subprocess.Popen(
            lab.command(index, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT
        )
        self.directory = directory
        self._heard: list[dict[str, Any]] = []
        self._read = b""
        hello = self._hear(60.0)
        self.peer_id, self.address, self.p2pd, self.pid = (hello[k] for k in ("peer_id", "address", "p2pd", "pid"))

    def tell(self, verb: str, argument: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({verb: argument}).encode() + b"\n")

    def hear(self, verb: str, timeout_seconds: float = 60.0) -> Any:
        """The next answer of that kind. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_seconds
        while not any(verb in one for one in self._heard):
            self._heard.append(self._hear(deadline - time.monotonic()))
        found = next(one for one in self._heard if verb in one)
        self._heard.remove(found)
        return found[verb]

    def ask(self, verb: str, argument: object = None) -> Any:
        self.tell(verb, argument)
        return self.hear(verb)

    def _hear(self, timeout_seconds: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_seconds
        while b"\n" not in self._read:
            left = max(deadline - time.monotonic(), 0.0)
            if not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError("a peer did not answer in time")
            self._read += (more := os.read(self.process.stdout.fileno(), 1 << 16))
            assert more, "a peer failed"
        line, _, self._read = self._read.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def peers(lab: Lab, directory: Path) -> Iterator[list[PeerProcess]]:
    """One in each namespace; they know nobody yet."""
    started: list[PeerProcess] = []
    try:
        for index in range(len(lab.links)):
            started.append(PeerProcess(lab, index, directory / str(index)))
        yield started
    finally:
        for one in started:
            one.process.kill()
        for one in started:
            one.process.communicate()


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


async def play(directory: Path, host: str) -> None:
    create_identity(directory / "p2p.key")
    settings = P2pdSettings(directory / "p2p.key", listen_host=host, runtime_directory=directory)
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(open_p2pd(settings))
        exchange = Exchange(transport, BlobStore(directory / "blobs"))
        nursery = await stack.enter_async_context(background())
        await exchange.start(nursery)
        here = {"peer_id": transport.peer_id, "address": transport.addresses[0]}
        say({**here, "p2pd": transport.process_id, "pid": os.getpid()})
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            ((verb, argument),) = json.loads(line).items()
            nursery.start_soon(answer, transport, exchange, verb, argument)


async def answer(transport: P2pdTransport, exchange: Exchange, verb: str, argument: Any) -> None:
    result: object = None
    match verb, argument:
        case "dial", address:
            result = await transport.dial(address)
        case "adopt", (path, piece_bytes):
            result = await exchange.adopt(Path(path), piece_bytes)
        case "fetch", (blob_id, holders):
            started = time.monotonic()
            await exchange.fetch(blob_id, lambda: holders, max_bytes=1 << 40)
            result = time.monotonic() - started
        case "limits", limits:
            exchange.set_limits(*limits)
        case "look", _:
            result = {
                "rates": exchange.rates,
                "best": exchange.best_rates,
                "received": dict(exchange.received_bytes),
                "sent": dict(exchange.sent_bytes),
                "held": sum(held for held, _ in exchange.progress().values()),
            }
    say({verb: result})


if __name__ == "__main__":
    trio.run(play, Path(sys.argv[1]), sys.argv[2])
