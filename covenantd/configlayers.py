"""The layers of a config: files, environment, flags; where each value came from and on which line."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covenantd.configtypes import BadValue, Setting, from_text, from_toml
from covenantd.errors import ConfigError, CovenantError
from covenantd.refusal import is_refusal, refusal

MAX_FILE_BYTES = 1 << 20
# Read by other programs of ours, so not settings of the daemon.
_NOT_SETTINGS = ("COVENANTD_SOCKET", "COVENANTD_DIR", "COVENANTD_SKIP_APT")


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where (file:line, variable, flag) and what to do about it."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Layer:
    """Values by setting name, each with its origin. `is_text`: values are strings still to be read."""

    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    base: Path = field(default_factory=Path.cwd)
    is_text: bool = False
    problems: tuple[Problem, ...] = ()


def file_layers(path: Path) -> list[Layer]:
    """The file and the `conf.d/*.toml` beside it, in the order of their names.

    A file that is missing or no TOML at all raises ConfigError, one that we may not read PermissionRefused: nothing
    more can be said of it.
    """
    first = _file_layer(path)
    return [first, *map(_file_layer, drop_ins(path))]


def drop_ins(path: Path) -> list[Path]:
    """Those of the config at `path`. A directory that we may not list is an error: what is in it would not count."""
    directory = path.parent / "conf.d"
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".toml")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(directory, error) from None
    return [directory / name for name in sorted(names)]


def _file_layer(path: Path) -> Layer:
    text = _read(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(path, text, str(error))) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply to be a config") from None
    lines = key_lines(text)
    values, origins, problems = {}, {}, []
    for section, body in table.items():
        where = f"{path}:{lines.get(section, 1)}"
        if not isinstance(body, dict):
            problems.append(Problem(where, f"{section} must stand in a [section], e.g. [node]"))
            continue
        for key, value in body.items():
            name = f"{section}.{key}"
            values[name] = value
            origins[name] = f"{path}:{lines.get(name, lines.get(section, 1))}"
        if not body:
            values[section], origins[section] = {}, where
    return Layer(values, origins, path.absolute().parent, problems=tuple(problems))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; `covenantd init --dir DIR` writes one") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_FILE_BYTES} bytes; this is no covenantd config")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from None


def _unreadable(path: Path, error: OSError) -> CovenantError:
    return refusal(error) if is_refusal(error) else ConfigError(f"{path}: cannot be read: {error.strerror}")


def _syntax(path: Path, text: str, message: str) -> str:
    at = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if at is None:
        return f"{path}: not TOML: {message}"
    line = at.group(1) or max(1, len(text.splitlines()))
    return f"{path}:{line}: not TOML: {message[: at.start()]}"


_HEADER = re.compile(r"\s*\[\s*([\w.\"' -]+?)\s*\]")
_KEY = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=")


def key_lines(text: str) -> dict[str, int]:
    """Line (from 1) of each `section` and `section.key`, for messages only: tomllib does not tell."""
    lines: dict[str, int] = {}
    prefix, quotes = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if quotes:  # inside a multi-line string
            quotes = "" if quotes in line else quotes
            continue
        if header := _HEADER.match(line):
            prefix = _plain(header.group(1))
            lines.setdefault(prefix, number)
        elif key := _KEY.match(line):
            name = ".".join(filter(None, (prefix, _plain(key.group(1)))))
            lines.setdefault(name, number)
            lines.setdefault(name.partition(".")[0], number)
        quotes = next((q for q in ('"""', "'''") if line.count(q) % 2), "")
    return lines


def _plain(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def environment_layer(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> Layer:
    """COVENANTD_SECTION_KEY; one that is no setting is a problem: it would silently not count."""
    names = {one.environment: one.name for one in settings.values()}
    values, origins, problems = {}, {}, []
    for variable in sorted(environ):
        if not variable.startswith("COVENANTD_") or variable in _NOT_SETTINGS:
            continue
        if variable not in names:
            problems.append(Problem(variable, f"no such setting{_nearest(variable, list(names))}"))
            continue
        values[names[variable]], origins[names[variable]] = environ[variable], variable
    return Layer(values, origins, is_text=True, problems=tuple(problems))


def flag_layer(flags: Mapping[str, str]) -> Layer:
    return Layer(flags, {name: f"flag {name}" for name in flags}, is_text=True)


def merge(settings: Mapping[str, Setting], layers: list[Layer]) -> tuple[dict[str, Any], dict[str, str], list[Problem]]:
    """Values and origins by setting name, and every problem of every layer."""
    values = {one.name: one.default for one in settings.values()}
    origins = dict.fromkeys(settings, "default")
    problems: list[Problem] = []
    for layer in layers:
        problems += layer.problems
        for name, raw in layer.values.items():
            where = layer.origins[name]
            if name not in settings:
                problems += _unknown(settings, name, raw, where)
                continue
            try:
                values[name] = (from_text if layer.is_text else from_toml)(settings[name], raw, layer.base)
                origins[name] = where
            except BadValue as error:
                problems.append(Problem(where, f"{name} {error}"))
    return values, origins, problems


def _unknown(settings: Mapping[str, Setting], name: str, raw: object, where: str) -> list[Problem]:
    section, _, key = name.partition(".")
    sections = list(dict.fromkeys(one.section for one in settings.values()))
    if section not in sections:
        return [Problem(where, f"[{section}] is not a section{_nearest(section, sections)}")]
    if not key:
        return []  # an empty [section] does no harm
    return [Problem(where, f"{name} is not a setting{_nearest(name, list(settings))}")]


def _nearest(name: str, known: list[str]) -> str:
    """The likeliest meant; a key in the wrong section counts as near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    key = name.rpartition(".")[2]
    close = close or [one for one in known if one.rpartition(".")[2] == key]
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if not close:
        return f"; known: {', '.join(known)}" if len(known) <= 10 else "; see `covenantd help config`"
    return f"; did you mean {close[0]}?"
