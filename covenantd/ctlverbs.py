"""The verbs of `covenantctl`: their arguments, the question each asks, how its answer is printed."""

import argparse
from collections.abc import Callable
from typing import Any

from covenantd import __version__
from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient
from covenantd.ctldrain import drain, drain_arguments
from covenantd.ctllinkverbs import connect, limits, limits_arguments
from covenantd.ctlnodeverbs import (
    bugreport,
    bugreport_arguments,
    chain,
    change,
    change_arguments,
    completion,
    completion_arguments,
    config,
    config_arguments,
    identity,
    log_level,
    log_level_arguments,
    snapshot,
    snapshot_arguments,
    why,
    why_arguments,
)
from covenantd.ctlprofile import profile, profile_arguments
from covenantd.ctlverb import Arguments, Connect, Verb, show

_GRACE_SECONDS = 10.0  # what we wait for the answer beyond the daemon's own deadline
_FOREVER_SECONDS = 8 * 86400.0


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 7 * 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 604800")
    return value


def _status(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctloutput import status_text

    return show(args, client.call("status"), status_text)


def _top_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interval", type=_interval, default=1.0, metavar="S", help="seconds between looks (1)")
    parser.add_argument("--once", action="store_true", help="print one frame and leave; with --json the status")


def _interval(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 3600")
    return value


def _top(connect: Connect, args: Arguments) -> int:
    from covenantd import top

    if args.json and not args.once:
        raise ControlError("usage", "top --json wants --once: it then prints the status that a frame shows")
    if args.json:
        client = connect()
        try:
            return show(args, client.call("status"), str)
        finally:
            client.close()
    return top.main(connect, args.interval, args.once)


def _peers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", choices=("show", "connect", "bans", "ban", "unban"), help="without: all peers"
    )
    parser.add_argument("peer", nargs="?", metavar="PEER", help="its peer id or hotkey; for connect its ADDRESS")


def _peers(client: BlockingClient, args: Arguments) -> int:
    from covenantd import ctlnodeoutput
    from covenantd.ctloutput import peers_text

    if args.what is None:
        return show(args, client.call("peers"), peers_text)
    if args.what == "bans":
        return show(args, client.call("bans"), ctlnodeoutput.bans_text)
    if args.peer is None and args.what == "connect":
        raise ControlError("usage", "peers connect wants an ADDRESS, e.g. /ip4/203.0.113.7/tcp/31330/p2p/PEER_ID")
    if args.peer is None:
        raise ControlError("usage", f"peers {args.what} wants a PEER: a peer id or hotkey, as `peers` lists them")
    if args.what == "connect":
        return connect(client, args, args.peer)
    if args.what == "show":
        return show(args, _one_peer(client.call("peers"), args.peer), ctlnodeoutput.peer_text)
    return show(args, client.call(args.what, {"peer": args.peer}), ctlnodeoutput.banned_text)


def _one_peer(data: dict[str, Any], wanted: str) -> dict[str, Any]:
    found = [one for one in data["peers"] if wanted in (one["peer_id"], one["hotkey"])]
    if not found:
        raise ControlError("failed", f"no peer {wanted} is known; `covenantctl peers` lists them")
    return {"schema": data["schema"], **found[0]}


def _rounds_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=("show",), help="one round in detail; without: the last ones")
    parser.add_argument("round", nargs="?", metavar="R", help="with show: its number")


def _rounds(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctloutput import round_text, rounds_text

    if args.what is None:
        return show(args, client.call("rounds"), rounds_text)
    if args.round is None or not (args.round.isascii() and args.round.isdecimal() and len(args.round) < 16):
        raise ControlError("usage", "rounds show wants the number R of a round, as `rounds` lists them")
    data = client.call("rounds", {"round": int(args.round)})
    return show(args, data, lambda found: round_text(found, client.call("status")["hotkey"]))


def _order(name: str, follows: str) -> Callable[[BlockingClient, Arguments], int]:
    """An order is taken at once and carried out later: `follows` says what happens then."""

    def action(client: BlockingClient, args: Arguments) -> int:
        return show(args, client.call(name), lambda data: f"{name}: taken; {follows}")

    return action


def _wait_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for",
        dest="condition",
        required=True,
        metavar="CONDITION",
        help="round>=N, block>=N, peers>=N, state=STATE, phase=PHASE or idle",
    )
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="give up after S seconds (exit 5)")


def _wait(client: BlockingClient, args: Arguments) -> int:
    from covenantd.ctloutput import status_line

    patience = _FOREVER_SECONDS if args.timeout is None else args.timeout + _GRACE_SECONDS
    request = {"for": args.condition, "timeout_seconds": args.timeout}
    return show(args, client.call("wait", request, patience), status_line)


def _version(client: BlockingClient, args: Arguments) -> int:
    data = {**client.call("version"), "client": __version__}
    return show(args, data, lambda d: f"covenantctl {__version__}\ncovenantd   {d.get('version', '?')}")


VERBS = {
    "status": Verb("what the daemon is doing", _status),
    "top": Verb("the same, live; q quits", None, _top_arguments, _top),
    "peers": Verb(
        "who else is in the run; `peers show|ban|unban PEER`, `peers bans`, `peers connect ADDRESS`",
        _peers,
        _peers_arguments,
    ),
    "rounds": Verb("how the last rounds went; `rounds show R` for one", _rounds, _rounds_arguments),
    "change": Verb("propose a change of the run spec (validators)", change, change_arguments),
    "why": Verb("why a weight is what it is: ours, or a HOTKEY's", why, why_arguments),
    "pause": Verb(
        "finish the round, then hold still until `resume`",
        _order("pause", "the daemon holds still once the round in work is done"),
    ),
    "resume": Verb("go on after `pause`", _order("resume", "the daemon joins the next round")),
    "drain": Verb("finish the round, then stop the daemon; --wait until it has", None, drain_arguments, drain),
    "wait": Verb("return once a condition holds", _wait, _wait_arguments),
    "snapshot": Verb(
        "the model states kept here: `snapshot list|verify`, `snapshot save PATH`", snapshot, snapshot_arguments
    ),
    "chain": Verb("what the chain says of the run and of us", chain),
    "identity": Verb("hotkey, peer id and addresses", identity),
    "limits": Verb("caps of our link and of strangers; `limits set uplink|downlink RATE`", limits, limits_arguments),
    "profile": Verb("trace the next inner steps with torch's profiler", profile, profile_arguments),
    "config": Verb("the settings in force: `config show [--origin]`, `config reload`", config, config_arguments),
    "log-level": Verb("show the log level, or set it until the next restart", log_level, log_level_arguments),
    "bugreport": Verb(
        "write a tar.gz to attach to a bug report, without secrets", None, bugreport_arguments, bugreport
    ),
    "completion": Verb("a completion script for a shell", None, completion_arguments, completion),
    "version": Verb("versions of this program and of the daemon", _version),
}
