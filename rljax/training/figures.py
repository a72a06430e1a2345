"""Line charts as SVG text: no library, no external file, light and dark."""

import html
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT = 330, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 12, 34
_MOST_POINTS = 300
COLOURS = 8  # classes c0 ... c7 of the page's style sheet


class Series(NamedTuple):
    """One line of a chart; a y may be None where there is no value."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that lie in [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number in few characters: 12500 -> 12.5k, 0.000123 -> 1.2e-04."""
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.4g}{unit}"
    if size and size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}"


def _thinned(series: Series) -> Series:
    """At most _MOST_POINTS points, each the mean of those it stands for."""
    pairs = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
    size = math.ceil(len(pairs) / _MOST_POINTS) or 1
    chunks = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return Series(
        series.name,
        [chunk[-1][0] for chunk in chunks],
        [sum(y for _, y in chunk) / len(chunk) for chunk in chunks],
    )


def line_chart(
    title: str,
    lines: Sequence[Series],
    x_label: str,
    y_range: tuple[float, float] | None = None,
    markers: bool = False,
) -> str:
    """A titled figure with one line for each series, as an HTML <figure>.

    Args:
      title: caption above.
      lines: the series, all over the same kind of x.
      x_label: what x is.
      y_range: limits of y; by default those of the values.
      markers: draw the points too, for few and far ones.

    Returns:
      HTML with inline SVG; the values lie in `data-lines` for the page's script.
    """
    drawn = [_thinned(line) for line in lines]
    drawn = [line for line in drawn if line.x]
    if not drawn:
        return ""
    values = [y for line in drawn for y in line.y if y is not None]
    x_low, x_high = (f(f(line.x) for line in drawn) for f in (min, max))
    low, high = y_range or (min(values), max(values))
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at_x(x: float) -> float:
        return _LEFT + width * (
            (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        )

    def at_y(y: float) -> float:
        return _TOP + height * (1 - (min(max(y, low), high) - low) / (high - low))

    parts = [_axes(x_low, x_high, low, high, at_x, at_y, x_label)]
    for i, line in enumerate(drawn):
        points = [
            (at_x(x), at_y(y))
            for x, y in zip(line.x, line.y, strict=True)
            if y is not None
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = " dashed" if i >= COLOURS else ""
        parts.append(f'<polyline class="line c{i % COLOURS}{dash}" points="{path}"/>')
        if markers or len(points) == 1:
            parts += [
                f'<circle class="dot c{i % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
                for x, y in points
            ]
    data = {
        "left": _LEFT, "right": _WIDTH - _RIGHT, "low": x_low, "high": x_high,
        "lines": [[line.name, line.x, [_rounded(y) for y in line.y]] for line in drawn],
    }  # fmt: skip
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}" '
        f'data-lines="{html.escape(json.dumps(data))}">'
        f'{"".join(parts)}<line class="cursor" y1="{_TOP}" y2="{_TOP + height}"/></svg>'
        f"{_legend(drawn)}</figure>"
    )


def _axes(x_low, x_high, low, high, at_x, at_y, x_label) -> str:
    parts = []
    for y in ticks(low, high):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
            f'y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{at_y(y) + 3.5:.1f}" '
            f'text-anchor="end">{short(y)}</text>'
        )
    bottom = _HEIGHT - _BOTTOM
    for x in ticks(x_low, x_high):
        parts.append(
            f'<text class="tick" x="{at_x(x):.1f}" y="{bottom + 14}" '
            f'text-anchor="middle">{short(x)}</text>'
        )
    parts.append(
        f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" '
        f'text-anchor="end">{html.escape(x_label)}</text>'
    )
    return "".join(parts)


def _legend(lines: Sequence[Series]) -> str:
    if len(lines) < 2:
        return ""
    keys = (
        f'<span><i class="key c{i % COLOURS}"></i>{html.escape(line.name)}</span>'
        for i, line in enumerate(lines)
    )
    return f'<div class="legend">{"".join(keys)}</div>'


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
