"""`covenantctl`: talks to a running daemon. Starts at once: everything heavy is imported where it is used."""

import argparse
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from covenantd import __version__
from covenantd.controlwire import SOCKET_NAME, ControlError
from covenantd.ctlclient import BlockingClient
from covenantd.ctlverb import Verb
from covenantd.ctlverbs import VERBS
from covenantd.errors import EXIT_FAILED, EXIT_USAGE

_SYSTEM_SOCKET = Path("/run/covenantd") / SOCKET_NAME
_ANSWER_SECONDS = 10.0
_EPILOG = """\
exit codes: 0 ok, 1 failed, 2 usage, 3 not running, 4 permission, 5 timeout
environment: COVENANTD_SOCKET names the socket, COVENANTD_DIR the directory; NO_COLOR turns colours off"""

Arguments = argparse.Namespace


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets a ? for our dots
    try:
        return _act(args)
    except ControlError as error:
        return _report(error, args.json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` closed it: no traceback
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _act(args: Arguments) -> int:
    def connect() -> BlockingClient:
        return BlockingClient(socket_path(args.socket, args.dir, os.environ), _ANSWER_SECONDS)

    verb: Verb = args.verb
    if verb.by_itself is not None:
        return verb.by_itself(connect, args)
    client = connect()
    try:
        assert verb.action is not None
        return verb.action(client, args)
    finally:
        client.close()


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
    """As the config there says, its drop-ins included; one that we cannot read decides nothing."""
    import tomllib

    runtime: object = _SYSTEM_SOCKET.parent
    try:
        for path in (directory / "covenantd.toml", *sorted((directory / "conf.d").glob("*.toml"))):
            with path.open("rb") as file:
                runtime = tomllib.load(file).get("node", {}).get("runtime_directory", runtime)
        return directory / Path(str(runtime)).expanduser() / SOCKET_NAME
    except (OSError, ValueError, AttributeError, RuntimeError):
        return None  # `check-config` is for complaints


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    _common(common, argparse.SUPPRESS)  # after the verb they must not undo what stood before it
    whole = _Parser(
        prog="covenantctl",
        description="Look at and steer a running covenantd.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _common(whole, None)
    whole.add_argument("--version", action="version", version=f"covenantctl {__version__}")
    verbs = whole.add_subparsers(title="verbs", required=True, metavar="VERB", parser_class=_Parser)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.help, description=verb.help, parents=[common])
        sub.set_defaults(verb=verb)
        verb.add_arguments(sub)
    return whole


def _common(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument("--socket", metavar="PATH", default=default, help=f"control socket ({_SYSTEM_SOCKET})")
    parser.add_argument("--dir", metavar="DIR", default=default, help="directory of `covenantd init`")
    json_default = False if default is None else default
    parser.add_argument("--json", action="store_true", default=json_default, help="one JSON object on stdout")


if __name__ == "__main__":
    sys.exit(main())
