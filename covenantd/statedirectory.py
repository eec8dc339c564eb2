"""The state directory's own format: a number in a file, so that an older covenantd never writes into a newer one's."""

import json
from pathlib import Path

from covenantd.errors import ConfigError
from covenantd.journal import write_atomically

FORMAT = 1
"""1: journal.json, scores.json, weights.json, rounds.jsonl, blobs/, engine/, staging/.

Raise it when older ones would go wrong."""

NAME = "format.json"
_MAX_BYTES = 4096


def format_problem(directory: Path) -> str | None:
    """Why this version must not work here; None: it may, also where nothing was ever written.

    PermissionError, or another OSError, where that cannot be read.
    """
    try:
        found = _found(directory)
    except ValueError:
        return f"{directory / NAME} is damaged; if nothing newer than this covenantd ever ran here, remove it"
    if found > FORMAT:
        return f"{directory} was written by a newer covenantd (state format {found}, this one writes {FORMAT})"
    return None


def claim(directory: Path) -> None:
    """Call before anything is read or written there. Raises ConfigError, and PermissionError as the system does.

    An older format is taken over and marked as ours from then on: a version that does not know ours refuses it.
    """
    problem = format_problem(directory)
    if problem is not None:
        raise ConfigError(f"{problem}: start the newer version again, or name another [node] state_directory")
    if _found(directory) < FORMAT:
        write_atomically(directory / NAME, json.dumps({"format": FORMAT}).encode() + b"\n")


def _found(directory: Path) -> int:
    """0: nothing was ever written there. ValueError: damaged."""
    try:
        with (directory / NAME).open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))["format"]
    except FileNotFoundError:
        return 0
    except (KeyError, TypeError):
        raise ValueError("no format in it") from None
    if type(found) is not int or found < 1:
        raise ValueError(f"{found!r} is no format")
    return found
