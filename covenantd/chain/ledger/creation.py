"""`covenantd ledger create`: block 0 of a new ledger, from a genesis file, flags, or both."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from covenantd.chain.ledger.amounts import parse_amount
from covenantd.chain.ledger.genesis import Genesis, parse_genesis, read_genesis_json
from covenantd.errors import ConfigError


def add_create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database", type=Path, required=True, metavar="PATH", help="must not be there yet")
    parser.add_argument("--genesis", type=Path, metavar="FILE", help="rules, neurons and balances; flags come on top")
    parser.add_argument("--netuid", type=int, metavar="N")
    parser.add_argument("--tempo-blocks", type=int, metavar="N", help="blocks between epochs")
    parser.add_argument("--private", action="store_true", default=None, help="only hotkeys on the allow-list register")
    parser.add_argument("--owner", metavar="HOTKEY", help="keeps the allow-list of a private ledger")
    parser.add_argument("--allow", action="append", default=[], metavar="HOTKEY", help="may be repeated")
    parser.add_argument("--fund", action="append", default=[], metavar="HOTKEY=AMOUNT", help="balance; may be repeated")
    parser.add_argument(
        "--neuron", action="append", default=[], metavar="HOTKEY[=STAKE]", help="registered from the start"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other rule")


def create(args: argparse.Namespace) -> dict[str, Any]:
    """Raises ConfigError: wrong flags, or something lies at the path already."""
    from covenantd.chain.ledger.node import LedgerNode  # with numpy, which no other verb needs
    from covenantd.chain.ledger.store import LedgerStore

    genesis = genesis_of(args)
    if args.database.exists():
        raise ConfigError(f"{args.database}: there is something already; a ledger is never overwritten")
    if not args.database.parent.is_dir():
        raise ConfigError(f"{args.database}: no such directory")
    genesis.state()  # before there is a file
    store = LedgerStore(args.database)
    try:
        node = LedgerNode(store, genesis, lambda: time.time_ns() // 1_000_000)
        return {"database": str(args.database), "netuid": node.netuid, "genesis": node.genesis_hash}
    finally:
        store.close()


def genesis_of(args: argparse.Namespace) -> Genesis:
    value = {} if args.genesis is None else read_genesis_json(args.genesis)
    if not isinstance(value, dict):
        raise ConfigError(f"{args.genesis}: genesis: must be an object")
    named = {name: getattr(args, name) for name in ("netuid", "tempo_blocks", "private", "owner")}
    value |= {name: given for name, given in named.items() if given is not None}
    value |= dict(_setting(text) for text in args.set)
    funds, neurons = dict(map(_funded, args.fund)), [_neuron(text) for text in args.neuron]
    for name, more in (("balances", funds), ("allow_list", args.allow), ("neurons", neurons)):
        if more:
            value[name] = _joined(value.get(name, type(more)()), more, name)
    return parse_genesis(value)


def _joined(file: Any, flags: Any, name: str) -> Any:
    if type(file) is not type(flags):
        raise ConfigError(f"genesis: {name} must be {'an object' if isinstance(flags, dict) else 'a list'}")
    return file | flags if isinstance(flags, dict) else file + flags


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text!r:.80}: is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _funded(text: str) -> tuple[str, int]:
    hotkey, _, amount = text.partition("=")
    return hotkey, _parsed(amount, "--fund")


def _neuron(text: str) -> dict[str, Any]:
    hotkey, equals, stake = text.partition("=")
    return {"hotkey": hotkey, "stake": _parsed(stake, "--neuron") if equals else 0}


def _parsed(amount: str, flag: str) -> int:
    try:
        return parse_amount(amount)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from None
