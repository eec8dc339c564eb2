"""One peer as a process of its own: p2pd, DHT, swarm and exchange, doing what the lines on its stdin say.

Started with one JSON object: directory, name (its hotkey) and fields of P2pdSettings (`transport`), of SwarmSettings
(`swarm`). It answers each line, a JSON list of a command and its arguments, by a line; its first line is its address.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.keys import Hotkey, verify
from p2p._background import background
from p2p._p2pd import P2pdSettings, P2pdTransport, open_p2pd
from p2p.blobs import BlobStore
from p2p.dht import Dht, open_dht
from p2p.exchange import Exchange
from p2p.identity import ensure_identity
from p2p.peercache import PeerCache
from p2p.published import place_by_signature
from p2p.swarm import Swarm, SwarmSettings

ROOT = Path(__file__).parents[1]
RUN = "5a" * 32
ANSWER_SECONDS = 90.0
_PIECE_BYTES = 64 << 10


@dataclass(frozen=True)
class Served:
    """What the commands work on."""

    directory: Path
    transport: P2pdTransport
    dht: Dht
    swarm: Swarm
    exchange: Exchange

    async def book(self) -> dict[str, Any]:
        """By hotkey, every peer of the book: [peer id, addresses, connected]."""
        return {one.hotkey: [one.peer_id, one.addresses, one.connected] for one in self.swarm.peers()}

    async def nodes(self) -> int:
        return await self.dht.size()

    async def addresses(self) -> tuple[str, ...]:
        return self.transport.addresses

    async def dial(self, address: str) -> str:
        return await self.transport.dial(address)

    async def adopt(self, size_bytes: int) -> str:
        """A blob of made-up bytes."""
        file = trio.Path(self.directory / "made")
        await file.write_bytes(os.urandom(size_bytes))
        return await self.exchange.adopt(Path(file), _PIECE_BYTES)

    async def fetch(self, blob_id: str, holder: str, seconds: float) -> int:
        """The size of what came."""
        path = await self.exchange.fetch(blob_id, lambda: [holder], max_bytes=1 << 30, deadline_seconds=seconds)
        return (await trio.Path(path).stat()).st_size


async def serve(order: dict[str, Any]) -> None:
    directory = Path(order["directory"])
    ensure_identity(directory / "p2p.key")
    settings = P2pdSettings(directory / "p2p.key", **order["transport"])
    async with (
        open_p2pd(settings) as transport,
        open_dht(transport, place_by_signature(RUN, verify)) as dht,
        background() as nursery,
    ):
        cache = PeerCache(directory / "peers.json")
        swarm_settings = SwarmSettings(RUN, "miner", **order["swarm"])
        swarm = Swarm(transport, dht, Hotkey.from_uri(f"//{order['name']}"), verify, swarm_settings, cache=cache)
        exchange = Exchange(swarm.transport, BlobStore(directory / "blobs"), reputation=swarm.reputation)
        await exchange.start(nursery)
        await nursery.start(swarm.run)
        _say([transport.peer_id, transport.addresses])
        served = Served(directory, transport, dht, swarm, exchange)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            command, *arguments = json.loads(line)
            _say(await getattr(served, command)(*arguments))


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


# The other side


class SwarmPeer:
    """A running one. Every answer has a deadline."""

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.hotkey = Hotkey.from_uri(f"//{name}").hotkey
        self.process = process
        self.peer_id = ""
        self.addresses: tuple[str, ...] = ()
        self._log = log
        self._unread = b""

    async def ask(self, command: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps([command, *arguments]).encode() + b"\n")
        return await self.hear()

    async def hear(self) -> Any:
        assert self.process.stdout is not None
        with trio.fail_after(ANSWER_SECONDS):
            while b"\n" not in self._unread:
                chunk = await self.process.stdout.receive_some(1 << 16)
                assert chunk, self._log.read_text()[-3000:]  # it died
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    async def until_met(self, *others: "SwarmPeer") -> None:
        """Until they are connected peers of its book. The test's own deadline ends this: no event of ours tells."""
        wanted = {other.hotkey for other in others}
        while True:
            book = await self.ask("book")
            if wanted <= {hotkey for hotkey, (_, _, connected) in book.items() if connected}:
                return
            await trio.sleep(0.2)


@asynccontextmanager
async def open_peer(
    directory: Path,
    name: str,
    *,
    transport: Mapping[str, Any],
    swarm: Mapping[str, Any] | None = None,
    within: Callable[[list[str]], list[str]] = list,
) -> AsyncIterator[SwarmPeer]:
    """Started and ready; killed on the way out. `within` wraps the command, e.g. to run it in a namespace.

    Its identity, peer cache, blobs and log are in `directory`/`name`: a second start there is the same peer.
    """
    home = directory / name
    home.mkdir(exist_ok=True)
    order = {"directory": str(home), "name": name, "transport": dict(transport), "swarm": dict(swarm or {})}
    command = within([sys.executable, "-m", "tests.swarmpeer", json.dumps(order)])
    log = home / "log"
    with log.open("ab") as errors:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT
        )
    try:
        peer = SwarmPeer(name, process, log)
        peer.peer_id, peer.addresses = await peer.hear()
        yield peer
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG if "SWARMPEER_DEBUG" in os.environ else logging.INFO)
    trio.run(serve, json.loads(sys.argv[1]))
