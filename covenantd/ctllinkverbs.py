"""Verbs of `covenantctl` about links to other peers: `limits`, `peers connect`."""

import argparse
from typing import Any

from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient
from covenantd.ctlverb import Arguments, show

_CONNECT_SECONDS = 30.0


def limits_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=("set",), help="without: show all")
    parser.add_argument("way", nargs="?", choices=("uplink", "downlink"), help="which way to hold to RATE")
    parser.add_argument("rate", nargs="?", metavar="RATE", help="a second: 5MB, 500kB, 40Mbit, none")


def limits(client: BlockingClient, args: Arguments) -> int:
    if args.what is None:
        return show(args, client.call("limits"), _limits_text)
    if args.rate is None:
        raise ControlError("usage", "write `limits set uplink RATE` or `limits set downlink RATE`, e.g. 40Mbit")
    return show(args, client.call("set-limit", {"way": args.way, "rate": args.rate}), _set_text)


def _limits_text(data: dict[str, Any]) -> str:
    from covenantd.ctloutput import clean, table

    rows = _link_rows(data["link"])
    for group, values in data["limits"].items():
        rows += [(f"{clean(group)}.{clean(name)}", _value(name, value)) for name, value in values.items()]
    return table(("limit", "value"), rows, right=set())


def _link_rows(link: dict[str, Any]) -> list[tuple[str, str]]:
    from covenantd.rates import rate_text

    rates = {name: rate_text(link[f"{name}_bytes_per_second"]) for name in ("uplink", "downlink", "up", "down")}
    queue_seconds = link.get("uplink_queue_seconds")  # older daemons do not say
    waits = "" if queue_seconds is None else f"; what is sent waits {queue_seconds * 1e3:.0f} ms for the link"
    return [
        ("uplink", f"{rates['uplink']}, now {rates['up']}{waits}"),
        ("downlink", f"{rates['downlink']}, now {rates['down']}"),
    ]


def _set_text(data: dict[str, Any]) -> str:
    from covenantd.ctloutput import aligned

    good = "until the daemon restarts; [network] uplink and downlink in the config are for good"
    return f"{aligned(_link_rows(data['link']))}\n{good}"


def _value(name: str, value: Any) -> str:
    from covenantd.ctloutput import size

    if name.endswith("_bytes"):
        return size(value)
    return f"{value:g} s" if name.endswith("_seconds") else str(value)


def connect(client: BlockingClient, args: Arguments, address: str) -> int:
    return show(args, client.call("connect", {"address": address}, _CONNECT_SECONDS), _connected_text)


def _connected_text(data: dict[str, Any]) -> str:
    from covenantd.ctloutput import clean

    note = "" if data["counts"] else "; its hotkey is not registered on the subnet, so it does not count"
    return f"connected to {clean(data['peer_id'])}, hotkey {clean(data['hotkey'])}{note}"
