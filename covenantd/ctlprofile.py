"""`covenantctl profile`: have the engine's next inner steps traced."""

import argparse
from typing import Any

from covenantd.ctlclient import BlockingClient
from covenantd.ctlverb import Arguments, show

_GRACE_SECONDS = 10.0  # what we wait for the answer beyond the daemon's own deadline
_MAX_STEPS = 100  # of covenantd.profiling, which is not imported here for its weight


def profile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=_steps, default=5, metavar="N", help="how many inner steps (5)")
    parser.add_argument(
        "--timeout", type=_timeout, default=600.0, metavar="S", help="how long to wait until they are trained (600)"
    )


def _steps(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:9]) <= _MAX_STEPS:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {_MAX_STEPS}")
    return int(text)


def _timeout(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 86400")
    return value


def profile(client: BlockingClient, args: Arguments) -> int:
    request = {"steps": args.steps, "timeout_seconds": args.timeout}
    return show(args, client.call("profile", request, args.timeout + _GRACE_SECONDS), _text)


def _text(data: dict[str, Any]) -> str:
    from covenantd.ctloutput import clean

    return (
        f"{clean(data['path'])}: {data['steps']} steps\n"
        "Open it in https://ui.perfetto.dev or chrome://tracing; the next `profile` replaces it."
    )
