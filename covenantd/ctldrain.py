"""`covenantctl drain`: the round in work is finished, then the daemon leaves; with --wait, so do we, no sooner."""

import argparse
import os
import select
from typing import Any

from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient
from covenantd.ctlverb import Arguments, Connect, show

_MAX_SECONDS = 7 * 86400.0


def drain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="return once the daemon has left")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="S", help="with --wait: give up after S seconds (exit 5); it drains on"
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {_MAX_SECONDS:.0f}")
    return value


def drain(connect: Connect, args: Arguments) -> int:
    if args.timeout is not None and not args.wait:
        raise ControlError("usage", "--timeout says how long to --wait; without that nothing is waited for")
    client = connect()
    try:
        if not args.wait:
            taken = "drain: taken; the daemon leaves once the round in work is done"
            return show(args, client.call("drain"), lambda data: taken)
        _wait_until_gone(client, _MAX_SECONDS if args.timeout is None else args.timeout)
    finally:
        client.close()
    _refuse_another(connect)
    data: dict[str, Any] = {"schema": 1, "verb": "drain", "state": "gone"}
    return show(args, data, lambda data: "drain: done; the daemon has left")


def _wait_until_gone(client: BlockingClient, timeout_seconds: float) -> None:
    """Its process, not its socket: a socket closes before the state is wholly on disk."""
    process = _opened(client.daemon_process)  # before it is told to leave
    try:
        client.call("drain")
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        if not waiting.poll(timeout_seconds * 1000):
            raise ControlError("timeout", f"the daemon has not left in {timeout_seconds:g} s; it goes on draining")
    finally:
        os.close(process)


def _opened(process: int) -> int:
    try:
        if process > 0:  # 0: it is in a namespace that we do not see
            return os.pidfd_open(process)
    except OSError:
        pass
    raise ControlError("failed", "the daemon's process cannot be seen from here; drain it without --wait")


def _refuse_another(connect: Connect) -> None:
    try:
        connect().close()
    except ControlError as error:
        if error.code == "not running":
            return
        raise
    raise ControlError("failed", "the daemon left, and another one answers already: its supervisor starts it again")
