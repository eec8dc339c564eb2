"""How one setting is described, read from TOML or text, and checked. Knows no particular setting."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

Check = Callable[[Any], str | None]
"""Value -> what is wrong with it, to be read after the setting's name, or None."""

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Setting:
    """One key: `section.key`, its type, default, one-line help and what values it takes."""

    section: str
    key: str
    kind: Any
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    check: Check | None = None

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def environment(self) -> str:
        return f"COVENANTD_{self.section}_{self.key}".upper()


def setting(default: Any, help: str, *, choices: tuple[str, ...] = (), check: Check | None = None) -> Any:
    """A dataclass field that also says what an operator must know of it."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "check": check})


def settings_of(config: type) -> dict[str, Setting]:
    """Every setting of a dataclass of sections, by name, in the order of definition."""
    found = {}
    for section, kind in get_type_hints(config).items():
        if not dataclasses.is_dataclass(kind):
            continue
        types = get_type_hints(kind)
        for f in dataclasses.fields(kind):
            one = Setting(section, f.name, types[f.name], f.default, **f.metadata)
            found[one.name] = one
    return found


class BadValue(ValueError):
    """A value of the wrong type or range; the text is to be read after the setting's name."""


def from_toml(one: Setting, value: object, base: Path) -> Any:
    """The value as the setting's type; paths are relative to `base`. Raises BadValue."""
    if _is_list(one.kind):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise BadValue(f'must be a list of strings, e.g. ["a", "b"], not {_shown(value)}')
        return _checked(one, tuple(value))
    if one.kind is Path:
        return _checked(one, _path(value, base))
    # bool is an int to Python, not to an operator
    if not isinstance(value, one.kind) or (one.kind is int and isinstance(value, bool)):
        raise BadValue(f"must be {_WORDS[one.kind]}, not {_shown(value)}")
    return _checked(one, value)


def from_text(one: Setting, text: str, base: Path) -> Any:
    """The value from an environment variable or flag; lists are comma-separated. Raises BadValue."""
    if _is_list(one.kind):
        return _checked(one, tuple(part.strip() for part in text.split(",") if part.strip()))
    if one.kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise BadValue(f"must be true or false, not {text!r}")
        return text.lower() in _TRUE
    if one.kind is int:
        return _checked(one, _number(text))
    return from_toml(one, text, base)


def _number(text: str) -> int:
    try:
        return int(text, 10)
    except ValueError:
        raise BadValue(f"must be a whole number, not {_shown(text)}") from None


_WORDS: Mapping[Any, str] = {str: 'a string in "quotes"', int: "a whole number", bool: "true or false"}


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind) == (str, Ellipsis)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(value: object, base: Path) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadValue(f'must be a path in "quotes", not {_shown(value)}')
    try:
        return Path(base, Path(value).expanduser())
    except RuntimeError as error:
        raise BadValue(f"is a path whose home directory is unknown: {error}") from None


def _checked(one: Setting, value: Any) -> Any:
    if one.choices and value not in one.choices:
        raise BadValue(f"must be one of {', '.join(one.choices)}, not {_shown(value)}")
    if one.check is not None and (problem := one.check(value)) is not None:
        raise BadValue(problem)
    return value
