"""`covenantctl`: talks to a running daemon. Starts at once: everything heavy is imported where it is used."""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from covenantd import __version__
from covenantd.controlwire import SOCKET_NAME, ControlError
from covenantd.ctlclient import BlockingClient
from covenantd.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE

_SYSTEM_SOCKET = Path("/run/covenantd") / SOCKET_NAME
_ANSWER_SECONDS = 10.0
_GRACE_SECONDS = 10.0  # what we wait for the answer beyond the daemon's own deadline
_FOREVER_SECONDS = 8 * 86400.0
_EPILOG = """\
exit codes: 0 ok, 1 failed, 2 usage, 3 not running, 4 permission, 5 timeout
environment: COVENANTD_SOCKET names the socket, COVENANTD_DIR the directory; NO_COLOR turns colours off"""

Arguments = argparse.Namespace
Action = Callable[[BlockingClient, Arguments], int]


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets a ? for our dots
    try:
        client = BlockingClient(socket_path(args.socket, args.dir, os.environ), _ANSWER_SECONDS)
        try:
            action: Action = args.action
            return action(client, args)
        finally:
            client.close()
    except ControlError as error:
        return _report(error, args.json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` closed it: no traceback
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _report(error: ControlError, as_json: bool) -> int:
    print(f"covenantctl: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({"schema": 1, "error": {"code": error.code, "message": str(error)}}))
    return error.exit_code


def socket_path(socket: str | None, directory: str | None, environ: Mapping[str, str]) -> Path:
    """The flag, else --dir, else COVENANTD_SOCKET, else COVENANTD_DIR, else the system's."""
    if socket:
        return Path(socket)
    if directory:
        return _socket_below(Path(directory))
    if environ.get("COVENANTD_SOCKET"):
        return Path(environ["COVENANTD_SOCKET"])
    if environ.get("COVENANTD_DIR"):
        return _socket_below(Path(environ["COVENANTD_DIR"]))
    return _SYSTEM_SOCKET


def _socket_below(directory: Path) -> Path:
    """Of a directory made by `covenantd init`, or of a runtime directory itself."""
    candidates = [_configured(directory), directory / "run" / SOCKET_NAME, directory / SOCKET_NAME]
    known = [one for one in candidates if one is not None]
    return next((one for one in known if one.exists()), known[0])


def _configured(directory: Path) -> Path | None:
    import tomllib

    try:
        with (directory / "covenantd.toml").open("rb") as file:
            runtime = tomllib.load(file)["node"]["runtime_directory"]
        return directory / str(runtime) / SOCKET_NAME
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a config we cannot read decides nothing; `check-config` is for complaints


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    _common(common, argparse.SUPPRESS)  # after the verb they must not undo what stood before it
    parser = _Parser(
        prog="covenantctl",
        description="Look at and steer a running covenantd.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _common(parser, None)
    parser.add_argument("--version", action="version", version=f"covenantctl {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, help: str, action: Action) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help, parents=[common])
        sub.set_defaults(action=action)
        return sub

    verb("status", "what the daemon is doing", _status)
    verb("peers", "who else is in the run, and the traffic with each", _peers)
    rounds = verb("rounds", "how the last rounds went; `rounds show R` for one", _rounds)
    rounds.add_argument("words", nargs="*", metavar="show R", help="one round in detail")
    verb("pause", "finish the round, then hold still until `resume`", _order("pause"))
    verb("resume", "go on after `pause`", _order("resume"))
    verb("drain", "finish the round, then stop the daemon", _order("drain"))
    wait = verb("wait", "return once a condition holds", _wait)
    wait.add_argument(
        "--for",
        dest="condition",
        required=True,
        metavar="CONDITION",
        help="round>=N, block>=N, peers>=N, state=STATE, phase=PHASE or idle",
    )
    wait.add_argument("--timeout", type=_seconds, metavar="S", help="give up after S seconds (exit 5)")
    verb("version", "versions of this program and of the daemon", _version)
    return parser


def _common(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument("--socket", metavar="PATH", default=default, help=f"control socket ({_SYSTEM_SOCKET})")
    parser.add_argument("--dir", metavar="DIR", default=default, help="directory of `covenantd init`")
    json_default = False if default is None else default
    parser.add_argument("--json", action="store_true", default=json_default, help="one JSON object on stdout")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 7 * 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 604800")
    return value


def _show(args: Arguments, data: dict[str, Any], human: Callable[[Any], str]) -> int:
    print(json.dumps(data) if args.json else human(data))
    sys.stdout.flush()
    return EXIT_OK


def _status(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctloutput import status_text

    return _show(args, client.call("status"), status_text)


def _peers(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctloutput import peers_text

    return _show(args, client.call("peers"), peers_text)


def _rounds(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctloutput import round_text, rounds_text

    if not args.words:
        return _show(args, client.call("rounds"), rounds_text)
    if len(args.words) != 2 or args.words[0] != "show" or not args.words[1].isdecimal():
        raise ControlError("usage", f"rounds {' '.join(args.words)}: only `rounds` and `rounds show NUMBER` are known")
    return _show(args, client.call("rounds", {"round": int(args.words[1])}), round_text)


def _order(name: str) -> Action:
    def action(client: BlockingClient, args: Arguments) -> int:
        return _show(args, client.call(name), lambda data: f"{name}: taken; state {data.get('state', '?')}")

    return action


def _wait(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctloutput import status_line

    patience = _FOREVER_SECONDS if args.timeout is None else args.timeout + _GRACE_SECONDS
    request = {"for": args.condition, "timeout_seconds": args.timeout}
    return _show(args, client.call("wait", request, patience), status_line)


def _version(client: BlockingClient, args: Arguments) -> int:
    data = {**client.call("version"), "client": __version__}
    return _show(args, data, lambda d: f"covenantctl {__version__}\ncovenantd   {d.get('version', '?')}")


if __name__ == "__main__":
    sys.exit(main())
