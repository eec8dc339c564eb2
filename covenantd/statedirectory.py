"""The state directory's own format: a number in a file, so that an older covenantd never writes into a newer one's."""

import json
from pathlib import Path

from covenantd.errors import ConfigError

FORMAT = 1
"""1: journal.json, scores.json, rounds.jsonl, blobs/, engine/, staging/. Raise it when older ones would go wrong."""

NAME = "format.json"
_MAX_BYTES = 4096


def format_problem(directory: Path) -> str | None:
    """Why this version must not work here; None: it may, also where nothing was ever written."""
    try:
        with (directory / NAME).open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))["format"]
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{directory / NAME}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{directory / NAME} is damaged; if nothing newer than this covenantd ever ran here, remove it"
    if type(found) is not int or found < 1:
        return f"{directory / NAME} is damaged; if nothing newer than this covenantd ever ran here, remove it"
    if found > FORMAT:
        return f"{directory} was written by a newer covenantd (state format {found}, this one writes {FORMAT})"
    return None


def claim(directory: Path) -> None:
    """Call before anything is read or written there. Raises ConfigError; an older format is taken over."""
    problem = format_problem(directory)
    if problem is not None:
        raise ConfigError(f"{problem}: start the newer version again, or name another [node] state_directory")
    path = directory / NAME
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"format": FORMAT}) + "\n")
        temporary.replace(path)
