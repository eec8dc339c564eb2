"""A commented covenantd.toml from the one definition. `python -m covenantd.configtext` prints it."""

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covenantd.config import SETTINGS
from covenantd.configtypes import Setting

_HEAD = """\
# covenantd: the config of one peer. Every setting is here; those behind a # stand at their default.
# Relative paths count from this file's directory. Also read: conf.d/*.toml beside this file, then
# the environment (COVENANTD_SECTION_KEY). `covenantd check-config FILE` finds mistakes.
"""


def toml_value(value: Any) -> str:
    """One value as TOML: a string, a path, a whole number, a bool or a list of strings."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    # JSON strings are TOML basic strings, but for DEL, which JSON leaves bare
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def render(values: Mapping[str, Any] | None = None) -> str:
    """The whole file; settings in `values` (by name) are set, the others stand as comments."""
    chosen = values or {}
    parts, section = [_HEAD], ""
    for one in SETTINGS.values():
        if one.section != section:
            section = one.section
            parts.append(f"\n[{section}]\n")
        parts.append(_lines(one, chosen))
    return "".join(parts)


def _lines(one: Setting, chosen: Mapping[str, Any]) -> str:
    help = textwrap.fill(one.help, 100, initial_indent="# ", subsequent_indent="# ")
    if one.name in chosen:
        return f"{help}\n{one.key} = {toml_value(chosen[one.name])}\n"
    return f"{help}\n#{one.key} = {toml_value(one.default)}\n"


def default_toml() -> str:
    """`assets/default.toml` as it ships; a test holds it equal to `render()`."""
    return (Path(__file__).parent / "assets" / "default.toml").read_text(encoding="utf-8")


if __name__ == "__main__":
    print(render(), end="")
