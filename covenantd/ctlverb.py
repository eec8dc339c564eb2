"""What a verb of `covenantctl` is, and how its answer is shown."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from covenantd.ctlclient import BlockingClient
from covenantd.errors import EXIT_OK

Arguments = argparse.Namespace
Connect = Callable[[], BlockingClient]


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


@dataclass(frozen=True)
class Verb:
    """`action` gets a connection; `by_itself` opens one, or none, when it likes."""

    help: str
    action: Callable[[BlockingClient, Arguments], int] | None = None
    add_arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments
    by_itself: Callable[[Connect, Arguments], int] | None = None


def show(args: Arguments, data: dict[str, Any], human: Callable[[Any], str]) -> int:
    print(json.dumps(data) if args.json else human(data))
    sys.stdout.flush()
    return EXIT_OK
