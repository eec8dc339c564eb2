"""`covenantd`: everything that is not said to a running daemon. Heavy modules are imported by the command chosen."""

import argparse
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from covenantd import __version__
from covenantd.errors import EXIT_BUG, EXIT_CONFIG, EXIT_DAEMON_USAGE, EXIT_OK, EXIT_TRY_AGAIN, CovenantError

EXIT_INTERRUPTED = 130
_DEFAULT_CONFIG = "/etc/covenantd/covenantd.toml"

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Command:
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    main: Callable[[Arguments], int]


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["ledger"] and _serves(words[1:]):
            _become_ledger(words[1:])
        chosen = next((word for word in words if not word.startswith("-")), None)
        args = _parser(chosen).parse_args(words)
        command: Command = args.command
        return command.main(args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` closed it: no traceback
        return 1
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:  # noqa: BLE001
        return report(error)


def report(error: BaseException) -> int:
    """Say what went wrong, a line a cause, and return the exit code; a traceback for what must be a bug."""
    causes = _leaves(error)
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        return EXIT_INTERRUPTED
    causes = [_told(cause) for cause in causes]
    codes = [_exit_code(cause) for cause in causes]
    if None in codes:
        traceback.print_exception(error)
        print("covenantd: this is a bug in covenantd; please report it with the lines above", file=sys.stderr)
        return EXIT_BUG
    for line in dict.fromkeys(line for cause in causes for line in str(cause).splitlines()):
        print(f"covenantd: {line}", file=sys.stderr)
    return codes[0] or EXIT_BUG


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


def _told(error: BaseException) -> BaseException:
    """A file that we may not use is the operator's to put right, whichever it is."""
    from covenantd.refusal import is_refusal, refusal

    return refusal(error) if isinstance(error, OSError) and is_refusal(error) else error


def _exit_code(error: BaseException) -> int | None:
    """None: a bug."""
    from p2p.errors import IdentityError, P2pError

    if isinstance(error, CovenantError):
        return error.exit_code
    if isinstance(error, IdentityError):
        return EXIT_CONFIG
    return EXIT_TRY_AGAIN if isinstance(error, P2pError) else None


def _serves(words: list[str]) -> bool:
    """`covenantd ledger --database ...` is `covenantd ledger serve --database ...`."""
    return words[:1] == ["serve"] or (bool(words) and words[0].startswith("-") and words[0] not in ("-h", "--help"))


def _become_ledger(words: list[str]) -> NoReturn:
    """The ledger takes this process over, signals and exit code included."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "covenantd.chain.ledger", *words])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_DAEMON_USAGE, f"covenantd: {message}; see `{self.prog} --help`\n")


def _parser(chosen: str | None, whole: bool = False) -> argparse.ArgumentParser:
    """With the arguments of the chosen command alone, or of all: they are in modules that take long to import."""
    parser = _Parser(
        prog="covenantd",
        description="Strangers train one large language model together, peer to peer.",
        epilog="covenantctl talks to a running daemon. `covenantd help` lists topics.",
    )
    parser.add_argument("--version", action="version", version=f"covenantd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        sub.set_defaults(command=command)
        if whole or name == chosen:
            command.add_arguments(sub)
    return parser


def _from_module(name: str, help: str) -> Command:
    """A command that lives in a module with `add_arguments(parser)` and `main(args) -> int`."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        importlib.import_module(name).add_arguments(parser)

    def run(args: Arguments) -> int:
        return int(importlib.import_module(name).main(args))

    return Command(help, add_arguments, run)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", default=Path(_DEFAULT_CONFIG), help=_DEFAULT_CONFIG)
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    parser.add_argument("--behavior", metavar="KIND", help="for tests only: honest or noise")
    _set_argument(parser)


def _set_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="SECTION.KEY=VALUE",
        help="any setting of the config; may be repeated",
    )


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not SECTION.KEY=VALUE")
    return name.strip(), value


def _flags(args: Arguments, named: dict[str, str | None]) -> dict[str, str]:
    return {**dict(args.set), **{name: value for name, value in named.items() if value is not None}}


def _run(args: Arguments) -> int:
    from covenantd import logs
    from covenantd.config import load_config, missing_files
    from covenantd.errors import ConfigError

    flags = _flags(args, {"node.log_level": args.log_level, "testing.behavior": args.behavior})
    config = load_config(args.config, flags)
    if missing := missing_files(config):
        raise ConfigError("\n".join(str(problem) for problem in missing))
    logs.configure(config.node.log_level, config.node.log_format)
    daemon = importlib.import_module("covenantd.daemon")
    return int(daemon.main(config))


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", nargs="?", default=Path(_DEFAULT_CONFIG))
    parser.add_argument("--origins", action="store_true", help="show every setting and where it comes from")


def _check(args: Arguments) -> int:
    from covenantd.configcheck import origins_text, problems_of, summary_text

    config, problems = problems_of(args.file)
    if args.origins:
        print(origins_text(config))
    for problem in problems:
        print(f"covenantd: {problem}", file=sys.stderr)
    if problems:
        return EXIT_CONFIG
    if not args.origins:
        print(f"ok: {args.file}\n{summary_text(config)}")
    return EXIT_OK


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dir", type=Path, metavar="DIR", help="made if it is not there")
    where.add_argument("--system", action="store_true", help="/etc/covenantd, as the systemd service wants it")
    parser.add_argument("--role", metavar="ROLE", help="miner (the default), validator or bootstrap")
    parser.add_argument("--run-spec", type=Path, metavar="FILE", help="the run to join; copied into DIR")
    parser.add_argument("--bootstrap", action="append", metavar="ADDRESS", help="peer to join through; may be repeated")
    parser.add_argument("--chain", metavar="ENDPOINT", help="as in [chain] endpoint, e.g. tcp://HOST:PORT or finney")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    _set_argument(parser)


def _init(args: Arguments) -> int:
    from covenantd.chain.bittensor.endpoint import chain_kind
    from covenantd.init import SYSTEM_DIRECTORY, initialise

    directory = SYSTEM_DIRECTORY if args.system else args.dir.absolute()
    bootstrap = ",".join(args.bootstrap) if args.bootstrap else None
    kind = None if args.chain is None else chain_kind(args.chain)
    named = {"node.role": args.role, "network.bootstrap": bootstrap, "chain.endpoint": args.chain, "chain.kind": kind}
    prepared = initialise(directory, _flags(args, named), args.run_spec, directory == SYSTEM_DIRECTORY)
    if args.json:
        print(json.dumps(prepared.as_dict()))
        return EXIT_OK
    print(f"hotkey   {prepared.hotkey}")
    if prepared.peer_id:
        print(f"peer id  {prepared.peer_id}")
    if prepared.run_id:
        print(f"run      {prepared.run_name} ({prepared.run_id[:16]})")
    for path in prepared.created:
        print(f"wrote    {path}")
    for path in prepared.kept:
        print(f"kept     {path}")
    print("\nNext:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(prepared.next, 1)))
    return EXIT_OK


def _help_arguments(parser: argparse.ArgumentParser) -> None:
    from covenantd.helptopics import TOPICS

    parser.add_argument("topic", nargs="?", metavar="TOPIC", choices=tuple(TOPICS), help="without: what there is")


def _help(args: Arguments) -> int:
    from covenantd.helptopics import TOPICS, overview

    print(overview() if args.topic is None else TOPICS[args.topic][1](), end="")
    return EXIT_OK


def _completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def _completion(args: Arguments) -> int:
    from covenantd.completion import script

    print(script("covenantd", _parser(None, whole=True), args.shell), end="")
    return EXIT_OK


COMMANDS = {
    "run": Command("take part in a run, in the foreground", _run_arguments, _run),
    "swarm": _from_module("covenantd.local", "a whole swarm on this machine, to see it train"),
    "init": Command("write a config and keys for one peer", _init_arguments, _init),
    "check-config": Command("find the mistakes in a config", _check_arguments, _check),
    "doctor": _from_module("covenantd.doctor", "find what stands in an operator's way, with the fix"),
    "plan": _from_module("covenantd.plan", "make the run spec of a new run"),
    "data": _from_module("covenantd.data", "make the tokens of a text, for `plan --data`"),
    "export": _from_module("covenantd.export", "the model as Hugging Face reads it: safetensors and config.json"),
    "change": _from_module("covenantd.change", "write and sign a change of a running run's spec"),
    "register": _from_module("covenantd.registration", "give this peer's hotkey a uid on the ledger"),
    "ledger": _from_module("covenantd.chain.ledger.commands", "the embedded chain: serve, create, fund, inspect"),
    "install-service": _from_module("covenantd.service", "put the systemd unit in place"),
    "completion": Command("a completion script for a shell", _completion_arguments, _completion),
    "help": Command("topics worth reading", _help_arguments, _help),
}


if __name__ == "__main__":
    sys.exit(main())
