"""`covenantd ledger VERB`: what an operator does with a ledger besides serving it."""

import argparse
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.keys import load_hotkey, public_key
from covenantd.chain.ledger.amounts import amount_text, parse_amount
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.ledger.creation import add_create_arguments, create
from covenantd.chain.ledger.inspection import inspection_text
from covenantd.errors import EXIT_OK

Write = Callable[[LedgerChain, argparse.Namespace], Awaitable[int]]
SCHEMA = 1
_SERVING = """\
covenantd ledger serve --database PATH --socket PATH --block-seconds S [--tcp HOST:PORT] serves a ledger;
`covenantd ledger serve --help` has the rest.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _SERVING
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    verbs.add_parser("serve", help="serve a ledger (also without a verb)", add_help=False)
    _verb(verbs, "create", create, "make a ledger, to be served later", add_create_arguments, connects=False)
    _verb(verbs, "inspect", _inspect, "neurons, balances, epoch, rules", _inspect_arguments)
    _verb(verbs, "balance", _balance, "what a hotkey holds", _hotkey_arguments)
    for name, (help, add, write) in _WRITES.items():
        sub = _verb(verbs, name, _write, help, add)
        sub.add_argument("--hotkey", type=Path, required=True, metavar="FILE", help="key file that signs")
        sub.set_defaults(write=write)


def main(args: argparse.Namespace) -> int:
    result: dict[str, Any] = args.run(args)
    if args.json:
        print(json.dumps({"schema": SCHEMA, **result}))
    else:
        print(args.show(result) if "show" in args else _said(args.verb, result), end="")
    return EXIT_OK


def _verb(
    verbs: Any,
    name: str,
    run: Callable[[argparse.Namespace], dict[str, Any]],
    help: str,
    add: Callable[[argparse.ArgumentParser], None],
    connects: bool = True,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help)
    add(parser)
    if connects:
        parser.add_argument("--endpoint", required=True, metavar="ENDPOINT", help="unix:///PATH or tcp://HOST:PORT")
        parser.add_argument("--netuid", type=int, default=1, metavar="N", help="1")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(verb=name, run=run)
    return parser


def _said(verb: str, result: dict[str, Any]) -> str:
    return "".join(f"{name:8}{value}\n" for name, value in {"did": verb, **result}.items())


def _asked(args: argparse.Namespace, ask: Callable[[LedgerChain], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        signer = load_hotkey(args.hotkey) if "write" in args else None
        chain = LedgerChain(args.endpoint, args.netuid, signer)
        try:
            return await ask(chain)
        finally:
            await chain.aclose()

    return trio.run(run)


def _write(args: argparse.Namespace) -> dict[str, Any]:
    async def write(chain: LedgerChain) -> dict[str, Any]:
        return {"block": await args.write(chain, args)}

    return _asked(args, write)


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--block", type=int, metavar="N", help="as it was after that block")
    parser.set_defaults(show=inspection_text)


def _inspect(args: argparse.Namespace) -> dict[str, Any]:
    return _asked(args, lambda chain: chain.inspect(args.block))


def _balance(args: argparse.Namespace) -> dict[str, Any]:
    async def ask(chain: LedgerChain) -> dict[str, Any]:
        balance, stake = await chain.holdings(args.who)
        return {"hotkey": args.who, "balance": balance, "stake": stake}

    args.show = lambda result: f"{amount_text(result['balance'])} free, {amount_text(result['stake'])} staked\n"
    return _asked(args, ask)


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _amount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("amount", type=_amount, metavar="AMOUNT", help="such as 1.5, or 100rao")


def _transfer_arguments(parser: argparse.ArgumentParser) -> None:
    _hotkey_arguments(parser)
    _amount_arguments(parser)


def _hotkey_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("who", type=_hotkey, metavar="HOTKEY", help="ss58 address")


def _amount(text: str) -> int:
    try:
        return parse_amount(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _hotkey(text: str) -> str:
    try:
        public_key(text)
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not an ss58 hotkey") from None
    return text


_WRITES: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Write]] = {
    "register": ("take a uid", _nothing, lambda chain, args: chain.register()),
    "stake": ("turn balance into stake", _amount_arguments, lambda chain, args: chain.add_stake(args.amount)),
    "transfer": ("send balance", _transfer_arguments, lambda chain, args: chain.transfer(args.who, args.amount)),
    "fund": ("the same as transfer", _transfer_arguments, lambda chain, args: chain.transfer(args.who, args.amount)),
    "swap-hotkey": ("hand everything over", _hotkey_arguments, lambda chain, args: chain.swap_hotkey(args.who)),
    "allow": ("let a hotkey register", _hotkey_arguments, lambda chain, args: chain.allow(args.who)),
    "disallow": ("no longer", _hotkey_arguments, lambda chain, args: chain.allow(args.who, allowed=False)),
}
