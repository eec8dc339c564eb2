"""`python -m covenantd.chain.ledger`: the ledger as a process."""

import argparse
import json
import logging
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.ledger.genesis import Genesis, parse_genesis, read_genesis
from covenantd.chain.ledger.listeners import open_tcp_listeners, open_unix_listener
from covenantd.chain.ledger.node import MAX_FINALITY_BLOCKS, LedgerNode
from covenantd.chain.ledger.producer import AdvanceRequest, produce_blocks
from covenantd.chain.ledger.server import MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ADDRESS, LedgerServer
from covenantd.chain.ledger.store import LedgerStore
from covenantd.errors import EXIT_OK, EXIT_TRY_AGAIN, ConfigError, CovenantError

_MAX_BLOCK_SECONDS = 3600.0
_log = logging.getLogger("covenantd.chain.ledger")


@dataclass(frozen=True)
class Options:
    database: Path
    socket: Path
    tcp: str | None
    block_seconds: float
    allow_advance: bool
    finality_blocks: int
    connections_of_address: int
    ready_fd: int | None


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="ledger: %(message)s", level=logging.INFO, stream=sys.stderr)
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words[1:] if words[:1] == ["serve"] else words)
    try:
        genesis, expected = _genesis(arguments)
        trio.run(run_ledger, _options(arguments), genesis, expected)
    except (CovenantError, sqlite3.Error, BaseExceptionGroup) as error:
        return _report(_only_cause(error), arguments.database)
    return EXIT_OK


async def run_ledger(options: Options, genesis: Genesis, expected: dict[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT."""
    _allow_open_files(MAX_CONNECTIONS + 64)
    store = LedgerStore(options.database)
    try:
        node = LedgerNode(store, genesis, lambda: time.time_ns() // 1_000_000, options.finality_blocks)
        node.require_settings(expected)
        await _serve(options, node)
    finally:
        store.close()


async def _serve(options: Options, node: LedgerNode) -> None:
    unix = open_unix_listener(options.socket)
    try:
        listeners = [unix]
        if options.tcp is not None:
            listeners += await open_tcp_listeners(options.tcp)
        send, receive = trio.open_memory_channel[AdvanceRequest](0)
        advance = send if options.allow_advance else None
        server = LedgerServer(node, options.block_seconds, advance, options.connections_of_address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            nursery.start_soon(produce_blocks, node, options.block_seconds, receive)
            await nursery.start(trio.serve_listeners, server.serve, listeners)
            _announce(options, node, listeners)
    finally:
        options.socket.unlink(missing_ok=True)


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


def _announce(options: Options, node: LedgerNode, listeners: Sequence[trio.SocketListener]) -> None:
    """One JSON line on --ready-fd: {"unix", "tcp" ("HOST:PORT" or null), "genesis", "head"}."""
    tcp = None
    if len(listeners) > 1:
        host, port = listeners[1].socket.getsockname()[:2]
        tcp = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    ready = {
        "unix": str(options.socket),
        "tcp": tcp,
        "genesis": node.genesis_hash,
        "head": node.head.number,
    }
    _log.info("serving netuid %d at %s, head %d", node.netuid, tcp or options.socket, node.head.number)
    if options.ready_fd is not None:
        with os.fdopen(options.ready_fd, "w") as file:
            file.write(json.dumps(ready) + "\n")


def _allow_open_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _genesis(arguments: argparse.Namespace) -> tuple[Genesis, dict[str, Any]]:
    """The genesis for a new database, and what an old one must agree with: whatever was said explicitly."""
    flags = {k: v for k in ("netuid", "tempo_blocks") if (v := getattr(arguments, k)) is not None}
    parse_genesis(flags)  # for its bounds
    if arguments.genesis is None:
        return parse_genesis(flags), flags
    genesis = read_genesis(arguments.genesis)
    return replace(genesis, settings=replace(genesis.settings, **flags)), flags


def _options(arguments: argparse.Namespace) -> Options:
    seconds = arguments.block_seconds
    if not isfinite(seconds) or not 0 <= seconds <= _MAX_BLOCK_SECONDS:
        raise ConfigError(f"--block-seconds must be between 0 and {_MAX_BLOCK_SECONDS:.0f}")
    if seconds == 0 and not arguments.allow_advance:
        raise ConfigError("--block-seconds 0 needs --allow-advance, or no block would ever come")
    if not 0 <= arguments.finality_blocks <= MAX_FINALITY_BLOCKS:
        raise ConfigError(f"--finality-blocks must be between 0 and {MAX_FINALITY_BLOCKS}")
    if not 1 <= arguments.connections_per_address <= MAX_CONNECTIONS:
        raise ConfigError(f"--connections-per-address must be between 1 and {MAX_CONNECTIONS}")
    return Options(
        database=arguments.database,
        socket=arguments.socket,
        tcp=arguments.tcp,
        block_seconds=seconds,
        allow_advance=arguments.allow_advance,
        finality_blocks=arguments.finality_blocks,
        connections_of_address=arguments.connections_per_address,
        ready_fd=arguments.ready_fd,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "covenantd ledger serve", description="Serves a ledger; makes it if it is not there."
    )
    parser.add_argument("--database", type=Path, required=True, metavar="PATH")
    parser.add_argument("--socket", type=Path, required=True, metavar="PATH", help="unix socket to serve at")
    parser.add_argument("--tcp", metavar="HOST:PORT", help="serve there too; port 0 picks one")
    parser.add_argument("--block-seconds", type=float, required=True, metavar="S", help="0: only by `advance`")
    parser.add_argument("--tempo-blocks", type=int, metavar="N", help="blocks between epochs")
    parser.add_argument("--netuid", type=int, metavar="N")
    parser.add_argument("--allow-advance", action="store_true", help="for tests: any client may make blocks")
    parser.add_argument(
        "--finality-blocks", type=int, default=0, metavar="N", help="blocks on top until one is final (0)"
    )
    parser.add_argument(
        "--connections-per-address",
        type=int,
        default=MAX_CONNECTIONS_OF_ADDRESS,
        metavar="N",
        help=f"over TCP, from one IP address ({MAX_CONNECTIONS_OF_ADDRESS})",
    )
    parser.add_argument("--genesis", type=Path, metavar="FILE", help="rules, neurons and balances of a new database")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="write one JSON line there when serving")
    return parser


def _only_cause(error: BaseException) -> BaseException:
    """Nurseries wrap what a task raises in groups; ours fail one task at a time."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _report(error: BaseException, database: Path) -> int:
    if isinstance(error, CovenantError):
        _log.error("%s", error)
        return error.exit_code
    if isinstance(error, sqlite3.Error):
        _log.error("%s: cannot use the database: %s", database, error)
        return EXIT_TRY_AGAIN
    raise error


if __name__ == "__main__":
    sys.exit(main())
