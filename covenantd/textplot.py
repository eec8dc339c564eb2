"""Bars and curves out of characters: braille and blocks where the terminal has them, else ASCII. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille cell, by row and column


@dataclass(frozen=True)
class Glyphs:
    full: str
    empty: str
    rule: str
    on: str
    off: str
    up: str
    down: str
    separator: str
    steps: str  # of a sparkline, lowest first
    braille: bool


UNICODE = Glyphs("█", "░", "─", "●", "○", "↑", "↓", "·", "▁▂▃▄▅▆▇█", True)
ASCII = Glyphs("#", ".", "-", "*", "o", "^", "v", "|", "_.-=+*#", False)


def glyphs_for(encoding: str | None) -> Glyphs:
    return UNICODE if (encoding or "").lower().replace("-", "") == "utf8" else ASCII


def bar(part: float, width: int, glyphs: Glyphs) -> str:
    filled = round(max(0.0, min(1.0, part)) * width)
    return glyphs.full * filled + glyphs.empty * (width - filled)


def sparkline(values: Sequence[float], width: int, glyphs: Glyphs) -> str:
    shown = values[-width:]
    if not shown:
        return ""
    low, span = min(shown), (max(shown) - min(shown)) or 1.0
    last = len(glyphs.steps) - 1
    return "".join(glyphs.steps[round((value - low) / span * last)] for value in shown)


def curve(values: Sequence[float], width: int, height: int, glyphs: Glyphs) -> list[str]:
    """`height` lines of `width` characters: the values from left to right, scaled to fill them."""
    across, down = (2, 4) if glyphs.braille else (1, 1)
    dots = _dots(values, width * across, height * down)
    if not glyphs.braille:
        return ["".join("*" if (x, y) in dots else " " for x in range(width)) for y in range(height)]
    return ["".join(_cell(dots, x, y) for x in range(width)) for y in range(height)]


def _dots(values: Sequence[float], across: int, down: int) -> set[tuple[int, int]]:
    """A line through the values on a grid whose (0, 0) is at the top left."""
    if not values:
        return set()
    low, span = min(values), (max(values) - min(values)) or 1.0
    dots: set[tuple[int, int]] = set()
    previous: int | None = None
    for x in range(across):
        value = _at(values, x / max(1, across - 1) * (len(values) - 1))
        y = round((1 - (value - low) / span) * (down - 1)) if max(values) > min(values) else down // 2
        start = y if previous is None else previous
        dots |= {(x, between) for between in range(min(start, y), max(start, y) + 1)}
        previous = y
    return dots


def _at(values: Sequence[float], place: float) -> float:
    left = min(int(place), len(values) - 1)
    right = min(left + 1, len(values) - 1)
    return values[left] + (values[right] - values[left]) * (place - left)


def _cell(dots: set[tuple[int, int]], x: int, y: int) -> str:
    bits = sum(_DOTS[row][column] for row in range(4) for column in range(2) if (2 * x + column, 4 * y + row) in dots)
    return chr(0x2800 + bits) if bits else " "
