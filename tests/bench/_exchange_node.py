"""One peer of the exchange benchmark, ours: a real p2pd and exchange; has one payload, gets all others.

It speaks JSON lines: says {"address"}, is told {"addresses"}, says {"ready"}, is told to go by any line, says
{"seconds", "received_bytes"} when it has everything and serves on, is told by any line that all have, says
{"cpu_seconds"}, and ends with its stdin.
"""

import argparse
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from p2p._background import background
from p2p._p2pd import P2pdSettings, open_p2pd
from p2p.blobs import BlobStore
from p2p.errors import TransportError
from p2p.exchange import Exchange
from p2p.identity import create_identity
from tests.bench._cpu import cpu_seconds
from tests.bench._exchange_payload import payload


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


async def hear() -> Any:
    line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return json.loads(line) if line else None


async def play(args: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        create_identity(args.directory / "p2p.key")
        settings = P2pdSettings(args.directory / "p2p.key", listen_host=args.host, runtime_directory=args.directory)
        transport = await stack.enter_async_context(open_p2pd(settings))
        exchange = Exchange(transport, BlobStore(args.directory / "blobs"))
        exchange.set_limits(uplink_bytes_per_second=args.up_mbit * 1e6 / 8)
        await exchange.start(await stack.enter_async_context(background()))
        blob_ids = []
        for index in range(args.count):
            file = args.directory / "payload"
            file.write_bytes(payload(index, args.bytes))
            if index == args.index:
                blob_ids.append(await exchange.adopt(file, args.piece_bytes))
            else:
                blob_ids.append(exchange.store.measure(file, args.piece_bytes).blob_id)
                file.unlink()
        say({"address": transport.addresses[0], "peer_id": transport.peer_id})
        peers = await hear()
        for address in peers["addresses"][: args.index]:
            await _dial(transport, address)
        say({"ready": True})
        await hear()
        cpu = cpu_seconds(os.getpid()) + cpu_seconds(transport.process_id)
        await _gather(args, exchange, blob_ids, [one.rpartition("/")[2] for one in peers["addresses"]])
        await hear()
        say({"cpu_seconds": cpu_seconds(os.getpid()) + cpu_seconds(transport.process_id) - cpu})
        await hear()


async def _dial(transport: Any, address: str) -> None:
    for _ in range(40):
        try:
            await transport.dial(address)
            return
        except TransportError:
            await trio.sleep(0.5)
    raise TransportError(f"cannot reach {address}")


async def _gather(args: argparse.Namespace, exchange: Exchange, blob_ids: list[str], peers: list[str]) -> None:
    start = time.monotonic()

    async def fetch(index: int) -> None:
        holders = [peers[index]] if args.mesh else peers
        await exchange.fetch(blob_ids[index], lambda: holders, max_bytes=1 << 40)

    async with trio.open_nursery() as nursery:
        if args.verbose:
            nursery.start_soon(_show, exchange, peers, start)
        async with trio.open_nursery() as fetches:
            for index in range(args.count):
                if index != args.index:
                    fetches.start_soon(fetch, index)
        nursery.cancel_scope.cancel()
    received = exchange.received_bytes.total()
    say({"seconds": time.monotonic() - start, "received_bytes": received})


async def _show(exchange: Exchange, peers: list[str], start: float) -> None:
    while True:
        await trio.sleep(2)
        up, down = (rate * 8e-6 for rate in exchange.rates)
        missing = sum(size - held for held, size in exchange.progress().values()) / 1e6
        sent = sum(exchange.sent_bytes.values()) / 1e6
        now = time.monotonic() - start
        agenda = exchange._fetching._agenda
        flights = {
            p[-4:]: (agenda.in_flight(p), round(agenda.window(p).rate / 1e3)) for p in exchange._fetching._sessions
        }
        print(
            f"{now:5.1f} up {up:6.1f} down {down:6.1f} missing {missing:6.1f} sent {sent:6.1f} {flights}",
            file=sys.stderr,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--piece-bytes", type=int, required=True)
    parser.add_argument("--up-mbit", type=float, required=True)
    parser.add_argument("--mesh", action="store_true", help="from its origin only")
    parser.add_argument("--verbose", action="store_true")
    trio.run(play, parser.parse_args())


if __name__ == "__main__":
    main()
