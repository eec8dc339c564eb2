"""More verbs of `covenantctl`: those that look into the daemon, its settings and its part in the run."""

import argparse
import os
from pathlib import Path
from typing import Any

from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient
from covenantd.ctlverb import Arguments, Connect, show
from covenantd.errors import EXIT_FAILED, EXIT_OK

_LEVELS = ("debug", "info", "warning", "error")  # of covenantd.logs, which is not imported here for its weight
_SHELLS = ("bash", "zsh", "fish")
_WHY_SECONDS = 20.0  # the chain is asked, then validators
_SLOW_SECONDS = 600.0  # hashing the states of a large model


def change_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a change of the run spec, signed by its owner")


def change(client: BlockingClient, args: Arguments) -> int:
    try:
        document = Path(args.file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ControlError("failed", f"{args.file}: cannot read it: {error}") from None
    return show(args, client.call("change", {"document": document}), _change_text)


def _change_text(data: dict[str, Any]) -> str:
    return (
        f"change {data['revision']} will be proposed by {data['certifiers']} certifiers; "
        f"it holds from round {data['first_round']} on"
    )


def why_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hotkey", nargs="?", metavar="HOTKEY", help="of another peer; without: our own")


def why(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctlnodeoutput import why_text

    return show(args, client.call("why", {"hotkey": args.hotkey} if args.hotkey else {}, _WHY_SECONDS), why_text)


def snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("list", "verify", "save"), help="verify: hash them again; save: copy one out")
    parser.add_argument("file", nargs="?", metavar="PATH", help="save: where to; verify: a ROUND, only that one")
    parser.add_argument("--round", type=_round, metavar="R", help="save: not the newest but that round's")


def _round(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a round")
    return int(text)


def snapshot(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctlnodeoutput import snapshots_text, verified_text

    if args.what == "save":
        return _save(client, args)
    if args.what == "list":
        if args.file is not None or args.round is not None:
            raise ControlError("usage", "snapshot list takes neither a file nor a round")
        return show(args, client.call("snapshots"), snapshots_text)
    request = {} if args.file is None and args.round is None else {"round": _round_of(args)}
    data = client.call("snapshot-verify", request, _SLOW_SECONDS)
    show(args, data, verified_text)
    return EXIT_OK if data["ok"] else EXIT_FAILED


def _round_of(args: Arguments) -> int:
    try:
        return _round(args.file) if args.round is None else int(args.round)
    except argparse.ArgumentTypeError as error:
        raise ControlError("usage", str(error)) from None


def _save(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctlnodeoutput import saved_text
    from covenantd.ctlsnapshot import choose, save

    if args.file is None:
        raise ControlError("usage", "snapshot save wants a PATH to copy to")
    chosen, target = choose(client.call("snapshots")["snapshots"], args.round), Path(args.file)
    save(chosen, target)
    saved = {name: chosen[name] for name in ("round", "state_hash", "bytes")}
    return show(args, {"schema": 1, "path": str(target.absolute()), **saved}, saved_text)


def chain(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctlnodeoutput import chain_text

    return show(args, client.call("chain"), chain_text)


def identity(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctlnodeoutput import identity_text

    return show(args, client.call("identity"), identity_text)


def config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("show", "reload"), help="reload: read the files again, as SIGHUP does")
    parser.add_argument("--origin", action="store_true", help="with show: where each value comes from")


def config(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctlnodeoutput import config_text, reloaded_text

    if args.what == "reload":
        return show(args, client.call("config-reload"), reloaded_text)
    return show(args, client.call("config"), lambda data: config_text(data, args.origin))


def log_level_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("level", nargs="?", choices=_LEVELS)


def log_level(client: BlockingClient, args: Arguments) -> int:
    verb, request = ("log-level", {}) if args.level is None else ("set-log-level", {"level": args.level})
    return show(args, client.call(verb, request), lambda data: str(data["level"]))


def bugreport_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="covenantd-bugreport-TIME.tar.gz here")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="whose, where no daemon runs (covenantd.toml in --dir)"
    )


def bugreport(connect: Connect, args: Arguments) -> int:
    from covenantd.ctlbugreport import default_name, gather, write_bundle

    path: Path = args.output or Path(default_name())
    directory = args.dir or os.environ.get("COVENANTD_DIR") or "/etc/covenantd"
    data = gather(connect, args.config or Path(directory) / "covenantd.toml")
    try:
        names = write_bundle(path, data)
    except OSError as error:
        raise ControlError("failed", f"{path}: {error.strerror}") from None
    written: dict[str, Any] = {"schema": 1, "path": str(path.absolute()), "files": names}
    return show(
        args, written, lambda d: f"{d['path']}: {', '.join(d['files'])}\nLook through it before you pass it on."
    )


def completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=_SHELLS)


def completion(connect: Connect, args: Arguments) -> int:
    from covenantd.completion import script
    from covenantd.ctl import parser

    print(script("covenantctl", parser(), args.shell), end="")
    return EXIT_OK
