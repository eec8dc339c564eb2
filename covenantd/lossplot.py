"""A line plot as SVG, readable in light and dark, without a plotting library."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 44, 52
_LEGEND_SPACING = 20
_LEGEND_ROWS = (_HEIGHT - _TOP - _BOTTOM) // _LEGEND_SPACING
_MAX_NAME = 18  # characters that fit beside the frame
_COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
_STYLE = """<style>
svg { background: #fff; color: #1f2937; font: 13px system-ui, sans-serif }
@media (prefers-color-scheme: dark) { svg { background: #111827; color: #e5e7eb } }
text { fill: currentColor } .grid { stroke: currentColor; opacity: .15 } .axis { stroke: currentColor; opacity: .6 }
.line { fill: none; stroke-linejoin: round }
</style>"""


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]
    strong: bool = False


@dataclass(frozen=True)
class _Frame:
    """Maps data to pixels."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)


def plot(lines: Sequence[Line], *, title: str, x: str, y: str) -> str:
    """The whole SVG document; points that are not finite are left out, and so are lines without points."""
    drawn = [line for line in map(_finite, lines) if line.points]
    frame = _frame(drawn)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{_text(title)}">',
        _STYLE,
        f'<text x="{_LEFT}" y="26" font-size="16" font-weight="600">{_text(title)}</text>',
        *_axes(frame, x, y),
        *(_curve(frame, line, index) for index, line in enumerate(drawn)),
        *(part for index, line in enumerate(drawn[: _LEGEND_ROWS - 1]) for part in _legend(line.name, line, index)),
        *_more(len(drawn) - (_LEGEND_ROWS - 1)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _finite(line: Line) -> Line:
    return replace(line, points=[point for point in line.points if all(map(_drawable, point))])


def _drawable(value: float) -> bool:
    return math.isfinite(value) and abs(value) < 1e100  # differences and ratios of such numbers are finite, too


def _text(text: str) -> str:
    """As XML may hold it: some characters have no escape."""
    return escape("".join(c if c.isprintable() else "?" for c in text))


def _frame(lines: Sequence[Line]) -> _Frame:
    """Never of zero width, however close the values or far from zero."""
    xs = [px for line in lines for px, _ in line.points] or [0.0, 1.0]
    ys = [py for line in lines for _, py in line.points] or [0.0, 1.0]
    grain = 1e-9 * max(1e-9, *map(abs, (min(ys), max(ys))))
    spread = max(ys) - min(ys)
    margin = max(spread * 0.05, grain) if spread else max(0.5, grain)
    right = max(max(xs), min(xs) + max(1, 1e-9 * abs(min(xs))))
    return _Frame(min(xs), right, min(ys) - margin, max(ys) + margin)


def _axes(frame: _Frame, x: str, y: str) -> list[str]:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>']
    for tick in _ticks(frame.y_low, frame.y_high, 6):
        py = frame.y(tick)
        parts.append(f'<line class="grid" x1="{left}" y1="{py:.1f}" x2="{right}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{py + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in _ticks(frame.x_low, frame.x_high, 8):
        parts.append(f'<text x="{frame.x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:.4g}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{_text(x)}</text>')
    parts.append(f'<text x="{left}" y="{_TOP - 4}" opacity=".7">{_text(y)}</text>')
    return parts


def _curve(frame: _Frame, line: Line, index: int) -> str:
    path = " ".join(f"{frame.x(px):.1f},{frame.y(py):.1f}" for px, py in line.points)
    return f'<polyline class="line" points="{path}" {_stroke(line, index)} opacity="{1.0 if line.strong else 0.8}"/>'


def _legend(name: str, line: Line, index: int) -> list[str]:
    top = _TOP + 12 + _LEGEND_SPACING * index
    left = _WIDTH - _RIGHT + 16
    shown = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
    return [
        f'<line x1="{left}" y1="{top - 4}" x2="{left + 18}" y2="{top - 4}" {_stroke(line, index)}/>',
        f'<text x="{left + 24}" y="{top}">{_text(shown)}</text>',
    ]


def _more(count: int) -> Iterator[str]:
    if count > 0:
        top = _TOP + 12 + _LEGEND_SPACING * (_LEGEND_ROWS - 1)
        yield f'<text x="{_WIDTH - _RIGHT + 16}" y="{top}">and {count} more</text>'


def _stroke(line: Line, index: int) -> str:
    return f'stroke="{_COLOURS[index % len(_COLOURS)]}" stroke-width="{3 if line.strong else 1.5}"'


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in [low, high], at most about `most`."""
    step = _step((high - low) / most)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [tick * step for tick in range(first, last + 1)]


def _step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((power * base for base in (1, 2, 5) if power * base >= least), power * 10)
