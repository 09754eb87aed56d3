"""Which trials no other beats, and how much of the plane they cover.

Everything here minimises: `to_losses` turns a metric's value round where more is better. The hypervolume
is taken after each axis has been scaled by a fixed `Scale`, so that it is a share of the unit box.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from uniformer_bench.metrics import METRICS

Point = tuple[float, ...]


class Scale(NamedTuple):
    """An axis of the hypervolume: `worst` scales to 1 and `best` to 0, on a logarithm where `log`."""

    worst: float
    best: float
    log: bool

    def loss(self, value: float) -> float:
        """`value` as a share of the way from best to worst; below 0 and above 1 where it lies outside."""
        if not self.log:
            return (value - self.best) / (self.worst - self.best)
        return math.log(max(value, 1e-300) / self.best) / math.log(self.worst / self.best)


def to_losses(objectives: Sequence[str], values: Sequence[float]) -> Point:
    """The values of these metrics, each so that less is better."""
    pairs = zip(objectives, values, strict=True)
    return tuple(-v if METRICS[key].direction == "maximize" else v for key, v in pairs)


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def front_of(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates; of equal points the first.

    In lexicographic order, where what dominates a point stands before it, so that each is compared to the front alone.
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i], i)):
        if not any(points[j] == points[i] or dominates(points[j], points[i]) for j in kept):
            kept.append(i)
    return sorted(kept)


def hypervolume(points: Sequence[Point]) -> float:
    """The share of the unit box that the points dominate, 0 being best on every axis.

    By slices along the last axis, recursively (the HSO algorithm): exact, and quick enough for a front
    of a few hundred points on up to four axes.
    """
    inside = [tuple(max(x, 0.0) for x in point) for point in points if all(x < 1 for x in point)]
    return _slices([inside[i] for i in front_of(inside)])


def _slices(points: list[Point]) -> float:
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return 1 - min(point[0] for point in points)
    ordered = sorted(points, key=lambda point: point[-1])
    bounds = [*(point[-1] for point in ordered[1:]), 1.0]
    total = 0.0
    for i, (point, end) in enumerate(zip(ordered, bounds, strict=True)):
        if end > point[-1]:
            below = [p[:-1] for p in ordered[: i + 1]]
            total += (end - point[-1]) * _slices([below[j] for j in front_of(below)])
    return total
