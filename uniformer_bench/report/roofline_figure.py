"""The roofline as SVG: arithmetic speed against arithmetic intensity, both axes logarithmic.

The line is what the measured ceilings allow; a numbered disc is a stage, as fast as it was measured.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from uniformer_bench.report.text import escape, number

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 66, 16, 26, 48
RADIUS, ROOM = 9, 1.8  # of a disc; the factor by which axes reach beyond what they show


class Point(NamedTuple):
    """A part: its mark of a letter or two, its name, FLOPs a byte, FLOPs a second and bound."""

    mark: str
    name: str
    intensity: float
    flops_per_s: float
    bound: str


class Axis(NamedTuple):
    """A logarithmic axis: pixels `start` to `end` for values `low` to `high`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies, in pixels."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def decades(self) -> list[float]:
        """The powers of ten on the axis."""
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


def roofline(points: Iterable[Point], flops_per_s: float, bytes_per_s: float) -> str:
    """The picture; points without a speed are left out. `flops_per_s` and `bytes_per_s` are the ceilings."""
    shown = [point for point in points if point.flops_per_s > 0 and point.intensity > 0]
    ridge = flops_per_s / bytes_per_s
    intensities = [ridge, *(point.intensity for point in shown)]
    speeds = [flops_per_s, *(point.flops_per_s for point in shown)]
    x = Axis(min(intensities) / ROOM, max(intensities) * ROOM, LEFT, WIDTH - RIGHT)
    y = Axis(min(speeds) / ROOM, max(speeds) * ROOM, HEIGHT - BOTTOM, TOP)
    body = _grid(x, y) + _roof(x, y, ridge, flops_per_s, bytes_per_s) + "".join(_disc(x, y, each) for each in shown)
    words = "; ".join(f"{p.name}: {number(p.intensity)} FLOP/byte, {_speed(p.flops_per_s)}" for p in shown)
    label = f"Roofline of {_speed(flops_per_s)} and {number(bytes_per_s / 1e9)} GB/s. {words}"
    return f'<svg class="roofline" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _speed(flops_per_s: float) -> str:
    return f"{number(flops_per_s / 1e9)} GFLOP/s"


def _grid(x: Axis, y: Axis) -> str:
    lines = []
    for value in x.decades():
        lines.append(f'<path class="tick" d="M{x.at(value):.1f} {y.end}V{y.start}"/>')
        lines.append(f'<text x="{x.at(value):.1f}" y="{y.start + 17}" text-anchor="middle">{number(value, 1)}</text>')
    for value in y.decades():
        lines.append(f'<path class="tick" d="M{x.start} {y.at(value):.1f}H{x.end}"/>')
        words = number(value / 1e9, 1)
        lines.append(f'<text x="{x.start - 8}" y="{y.at(value) + 4:.1f}" text-anchor="end">{words}</text>')
    middle = (x.start + x.end) / 2
    lines.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">arithmetic intensity, FLOP/byte</text>')
    lines.append(f'<text x="4" y="{TOP - 12}">GFLOP/s</text>')
    return "".join(lines)


def _roof(x: Axis, y: Axis, ridge: float, flops_per_s: float, bytes_per_s: float) -> str:
    """The slope of the copy from the left edge or the bottom, whichever it meets first, then the level."""
    start = max(x.low, y.low / bytes_per_s)
    corner_x, level = x.at(ridge), y.at(flops_per_s)
    slope = f"M{x.at(start):.1f} {y.at(start * bytes_per_s):.1f}L{corner_x:.1f} {level:.1f}H{x.end}"
    speed, copies = _speed(flops_per_s), f"{number(bytes_per_s / 1e9)} GB/s"
    return (
        f'<path class="ridge" d="M{corner_x:.1f} {level:.1f}V{y.start}"/><path class="roof" d="{slope}"/>'
        f'<text class="limit" x="{x.end}" y="{level - 7:.1f}" text-anchor="end">{speed} measured</text>'
        f'<text class="limit" x="{corner_x - 8:.1f}" y="{level - 7:.1f}" text-anchor="end">{copies} measured</text>'
    )


def _disc(x: Axis, y: Axis, point: Point) -> str:
    cx, cy = x.at(point.intensity), y.at(point.flops_per_s)
    words = f"{point.name}: {number(point.intensity)} FLOP/byte, {_speed(point.flops_per_s)}, {point.bound}"
    circle = f'<circle class="{escape(point.bound)}" cx="{cx:.1f}" cy="{cy:.1f}" r="{RADIUS}"/>'
    return (
        f"<g><title>{escape(words)}</title>{circle}"
        f'<text class="point" x="{cx:.1f}" y="{cy + 4:.1f}">{escape(point.mark)}</text></g>'
    )
