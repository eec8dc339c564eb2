"""A line plot as SVG, readable in light and dark, without a plotting library."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 44, 52
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
    """The whole SVG document; lines without points are left out."""
    drawn = [line for line in lines if line.points]
    frame = _frame(drawn)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        _STYLE,
        f'<text x="{_LEFT}" y="26" font-size="16" font-weight="600">{escape(title)}</text>',
        *_axes(frame, x, y),
        *(part for index, line in enumerate(drawn) for part in _curve(frame, line, index)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _frame(lines: Sequence[Line]) -> _Frame:
    xs = [px for line in lines for px, _ in line.points] or [0.0, 1.0]
    ys = [py for line in lines for _, py in line.points] or [0.0, 1.0]
    margin = (max(ys) - min(ys)) * 0.05 or 0.5
    return _Frame(min(xs), max(max(xs), min(xs) + 1), min(ys) - margin, max(ys) + margin)


def _axes(frame: _Frame, x: str, y: str) -> list[str]:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>']
    for tick in _ticks(frame.y_low, frame.y_high, 6):
        py = frame.y(tick)
        parts.append(f'<line class="grid" x1="{left}" y1="{py:.1f}" x2="{right}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{py + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in _ticks(frame.x_low, frame.x_high, 8):
        parts.append(f'<text x="{frame.x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:.4g}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(x)}</text>')
    parts.append(f'<text x="{left}" y="{_TOP - 4}" opacity=".7">{escape(y)}</text>')
    return parts


def _curve(frame: _Frame, line: Line, index: int) -> list[str]:
    colour = _COLOURS[index % len(_COLOURS)]
    path = " ".join(f"{frame.x(px):.1f},{frame.y(py):.1f}" for px, py in line.points)
    width, opacity = (3, 1.0) if line.strong else (1.5, 0.8)
    top = _TOP + 12 + 20 * index
    left = _WIDTH - _RIGHT + 16
    return [
        f'<polyline class="line" points="{path}" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>',
        f'<line x1="{left}" y1="{top - 4}" x2="{left + 18}" y2="{top - 4}" stroke="{colour}" stroke-width="{width}"/>',
        f'<text x="{left + 24}" y="{top}">{escape(line.name)}</text>',
    ]


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in [low, high], at most about `most`."""
    step = next(s for s in _steps() if (high - low) / s <= most)
    first = -(-low // step)
    return [tick * step for tick in range(int(first), int(high // step) + 1)]


def _steps() -> Sequence[float]:
    return [base * 10.0**exponent for exponent in range(-9, 10) for base in (1, 2, 5)]
