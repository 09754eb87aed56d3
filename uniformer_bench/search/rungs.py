"""Asynchronous successive halving over several objectives: which paused trial goes on with its short run.

A rung is a share of the run at which trials are compared by what is known there: the loss in place of accuracy,
and costs as they were measured. Of all that reached a rung the best `keep` go on, by non-dominated rank, so that a
small fast model is not stopped for being less accurate than a large one; within a rank those go first that are far
from the others. (Asynchronous halving: Li et al. 2020, arXiv 1810.05934; several objectives: Schmucker et al. 2021,
arXiv 2106.12639, whose order within a rank this is.)
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uniformer_bench.search.pareto import Point, to_losses

Outlook = Callable[[Sequence[int]], Mapping[int, float]]  # of trials by number; empty where nothing is believed yet


def losses_at(record: Mapping[str, Any], rung: int, objectives: Sequence[str]) -> Point:
    """What a trial is ranked by at a rung: the training loss there in place of accuracy, and the costs it has."""
    costs = [(key, record["metrics"].get(key)) for key in objectives if key != "accuracy"]
    known = (math.inf if value is None else to_losses([key], [value])[0] for key, value in costs)
    return (record["rungs"][rung]["loss"], *known)


class Climber(NamedTuple):
    """A trial that reached a rung: its losses there, less being better, and whether it has gone on from it."""

    number: int
    losses: Point
    went_on: bool


def next_up(climbers: Sequence[Climber], keep: float, outlook: Outlook | None = None) -> int | None:
    """The number of the trial that goes on from a rung which these reached; None where nobody does yet.

    Where a model of the space has an `outlook` on those that wait, the one that is expected to add most to the front
    goes; else it goes by rank.

    Those that have gone on never are more than the share kept. Without that rule, which asynchronous halving does
    not have, a sampler that learns finds a new best third again and again, and 127 of 200 went on in a search.
    """
    allowed = math.floor(len(climbers) * keep)
    waiting = [climber.number for climber in climbers if not climber.went_on]
    if not waiting or len(climbers) - len(waiting) >= allowed:
        return None
    if worth := outlook(waiting) if outlook else {}:
        return max(worth, key=worth.__getitem__)
    best = ranking([climber.losses for climber in climbers])[:allowed]
    return next((climbers[i].number for i in best if not climbers[i].went_on), None)


def ranking(points: Sequence[Point]) -> list[int]:
    """All indices, best first: by non-dominated rank, and within a rank as `spread` has them."""
    order: list[int] = []
    for rank in _ranks(points):
        order += [rank[i] for i in spread([points[i] for i in rank])]
    return order


def _ranks(points: Sequence[Point]) -> Iterator[list[int]]:
    """The indices of the front, then of what is the front without it, and so on."""
    at = np.array(points, dtype=float).reshape(len(points), len(points[0]) if points else 1)
    nowhere_worse = np.asarray((at[:, None] <= at[None]).all(-1))
    beaten_by = nowhere_worse & ~nowhere_worse.T  # [i, j]: i dominates j
    left = np.ones(len(points), dtype=bool)
    while left.any():
        rank = left & ~beaten_by[left].any(0)
        yield [int(i) for i in rank.nonzero()[0]]
        left &= ~rank


def spread(points: Sequence[Point]) -> list[int]:
    """Indices in an order whose every beginning covers the points: the best on the first axis, then always the one
    farthest from those before it, axes counted by place so that no scale rules."""
    places = [_places([point[axis] for point in points]) for axis in range(len(points[0]))] if points else []
    at = list(zip(*places, strict=True))
    order = [min(range(len(points)), key=lambda i: at[i])] if points else []
    while len(order) < len(points):
        rest = [i for i in range(len(points)) if i not in order]
        order.append(max(rest, key=lambda i: min(math.dist(at[i], at[j]) for j in order)))
    return order


def _places(values: Sequence[float]) -> list[int]:
    ordered = sorted(set(values))
    return [ordered.index(value) for value in values]
