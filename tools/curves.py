"""Percentile curves: how long things take, by how rare that is; in a terminal, and as an SVG.

The way of HdrHistogram's plots: to the right, each step has a tenth of what was left before it (90 %, 99 %, 99.9 %); upwards the
time, by powers of ten. So the tail has as much room as the middle.
"""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from attrs import field, frozen

from .tables import shown_ns

MARKS = "●○▲△■□"
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
COLUMNS, ROWS = 64, 16
DECADES_MAX = 5
PERCENTS = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


@frozen
class Curve:
    """What was measured under a name: nanoseconds, sorted."""

    name: str
    values: Sequence[int] = field(repr=False)

    def at(self, percent: float) -> int:
        """The value that `percent` of all do not exceed."""
        return self.values[min(len(self.values) - 1, int(len(self.values) * percent / 100))]

    def figures(self) -> dict[str, float]:
        """Its figures in microseconds."""
        percents = shown_percents(len(self.values))
        return {
            "count": len(self.values),
            **{f"p{percent:g}_us".replace(".", ""): self.at(percent) / 1e3 for percent in percents},
            "max_us": self.values[-1] / 1e3,
        }


def shown_percents(count: int) -> list[float]:
    """The percentiles that so many values have: at least one value is beyond each."""
    return [percent for percent in PERCENTS if count * (100 - percent) >= 99.9]


@frozen
class Plane:
    """Where a time and a percentile lie, from 0 to 1 each."""

    decades: float
    least_ns: float
    most_ns: float

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> "Plane":
        """All of it, from the fastest to the slowest; to the right as far as there are values."""
        count = max(len(curve.values) for curve in curves)
        least = min(curve.values[0] for curve in curves)
        most = max(curve.values[-1] for curve in curves)
        decades = min(DECADES_MAX, max(1.0, math.log10(count)))
        return cls(decades, 10 ** math.floor(math.log10(max(1, least))), _next_power(max(2, most)))

    def percent(self, x: float) -> float:
        """The percentile there."""
        return 100 * (1 - 10 ** -(x * self.decades))

    def x(self, percent: float) -> float:
        """Where the percentile is."""
        return -math.log10(1 - percent / 100) / self.decades

    def y(self, value_ns: float) -> float:
        """Where the time is."""
        span = math.log10(self.most_ns / self.least_ns)
        return min(1.0, max(0.0, math.log10(max(1.0, value_ns) / self.least_ns) / span))

    def times(self) -> list[float]:
        """The powers of ten."""
        count = round(math.log10(self.most_ns / self.least_ns))
        return [self.least_ns * 10**step for step in range(count + 1)]

    def percents(self) -> list[float]:
        """Those that are shown below."""
        return [0.0, *(percent for percent in PERCENTS if self.x(percent) <= 1.001)]


def plot(curves: Sequence[Curve]) -> str:
    """For a terminal."""
    plane = Plane.of(curves)
    grid = [[" "] * COLUMNS for _ in range(ROWS)]
    for number, curve in enumerate(curves):
        for column in range(COLUMNS):
            value = curve.at(plane.percent(column / (COLUMNS - 1)))
            grid[round((ROWS - 1) * (1 - plane.y(value)))][column] = MARKS[number % len(MARKS)]
    labels = {round((ROWS - 1) * (1 - plane.y(at))): shown_ns(at) for at in plane.times()}
    lines = [f"{labels.get(row, ''):>8} ┤{''.join(cells)}" for row, cells in enumerate(grid)]
    below = [" "] * (COLUMNS + 8)
    for percent in plane.percents():
        at = round((COLUMNS - 1) * plane.x(percent))
        below[at : at + len(f"{percent:g}")] = f"{percent:g}"
    lines.append(f"{'':>8} └{'─' * COLUMNS}")
    lines.append(f"{'':>10}{''.join(below).rstrip()} %")
    names = (f"{MARKS[at % len(MARKS)]} {curve.name}" for at, curve in enumerate(curves))
    lines.append(f"{'':>10}{'   '.join(names)}")
    return "\n".join(lines)


def drawn(curves: Sequence[Curve], title: str) -> str:
    """An SVG: a picture in one file, that loads nothing."""
    plane = Plane.of(curves)
    left, top, width, height = 80, 50, 720, 360

    def x(percent: float) -> float:
        return left + width * plane.x(percent)

    def y(value: float) -> float:
        return top + height * (1 - plane.y(value))

    size = f'width="{left + width + 40}" height="{top + height + 80}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for at in plane.times():
        parts.append(_line(left, y(at), left + width, y(at)))
        parts.append(
            f'<text x="{left - 8}" y="{y(at) + 4:.1f}" text-anchor="end">{shown_ns(at)}</text>'
        )
    for percent in plane.percents():
        parts.append(_line(x(percent), top, x(percent), top + height))
        below = top + height + 18
        parts.append(
            f'<text x="{x(percent):.1f}" y="{below}" text-anchor="middle">{percent:g} %</text>'
        )
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        steps = [plane.percent(step / 240) for step in range(241)]
        points = " ".join(f"{x(percent):.1f},{y(curve.at(percent)):.1f}" for percent in steps)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        at_x, at_y = left + number * 190, top + height + 50
        parts.append(f'<rect x="{at_x}" y="{at_y - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{at_x + 18}" y="{at_y}">{escape(curve.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#d0d7de"/>'


def _next_power(value: float) -> float:
    return 10 ** math.ceil(math.log10(value))
