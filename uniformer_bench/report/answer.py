"""Which architecture to take, as pure data: the pick, two alternatives, and the pick under any budget.

The rule: the pick is the cheapest front member within one standard error of the most accurate one that costs no more
than the reference baseline (the one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984,
section 3.4.3): the most accurate of many is by a hair, and by luck. Without a reference it is the knee of the front.
Only complete trials, which keep to every constraint, are candidates.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from uniformer_bench.metrics import METRICS
from uniformer_bench.report.effects import Z95
from uniformer_bench.report.info import Axes, Trial, contenders, front_of, gain
from uniformer_bench.report.text import TIMES, number, shown, signed

CHEAPER = 0.75  # without a reference, the cheaper alternative costs at most this share of the pick


class Choice(NamedTuple):
    """Trial numbers: the pick, a cheaper one and a better one; None where there is none."""

    pick: int
    cheaper: int | None = None
    better: int | None = None


class Step(NamedTuple):
    """From this limit on (in the metric's file unit), this is the choice."""

    limit: float
    choice: Choice


class Answer(NamedTuple):
    """The choice by the rule that `rule` says; `ladders` gives it under a budget on each metric."""

    axes: Axes
    rule: str
    reference: int | None
    baselines: tuple[int, ...]
    choice: Choice | None
    sentences: dict[int, str]
    ladders: dict[str, tuple[Step, ...]]


def answer(trials: Sequence[Trial], axes: Axes) -> Answer:
    """The answer a run gives; `choice` is None where no trial has both metrics."""
    front = front_of(contenders(trials), axes)
    reference = find_reference(trials, axes)
    pick, rule = _pick(front, reference, axes)
    choice = _choice(pick, front, front, reference, axes) if pick else None
    ladders = _ladders(trials, front, reference, axes)
    baselines = tuple(t.number for t in trials if t.baseline)
    named = {n for c in [choice, *(s.choice for ladder in ladders.values() for s in ladder)] if c for n in c}
    said = {
        t.number: sentence(t, reference, axes) for t in trials if t.number in named or (t.baseline and t.has(*axes))
    }
    return Answer(axes, rule, reference.number if reference else None, baselines, choice, said, ladders)


def find_reference(trials: Sequence[Trial], axes: Axes) -> Trial | None:
    """The baseline to compare with: the paper's pattern by name, else the first one that was measured."""
    measured = [t for t in trials if t.baseline and t.state == "complete" and t.has(*axes)]
    return min(measured, key=lambda t: ("paper" not in str(t.baseline).lower(), t.number), default=None)


def knee(front: Sequence[Trial], axes: Axes) -> Trial:
    """The member farthest from the line between the front's ends, both axes scaled to one."""
    points = [(gain(axes.cost, t.values[axes.cost]), gain(axes.quality, t.values[axes.quality])) for t in front]
    (x0, y0), (x1, y1) = points[0], points[-1]
    if len(front) < 3:
        return front[-1]
    height = [(y - y0) / (y1 - y0) - (x - x0) / (x1 - x0) for x, y in points]
    return front[max(range(len(front)), key=height.__getitem__)]


def _pick(front: Sequence[Trial], reference: Trial | None, axes: Axes) -> tuple[Trial | None, str]:
    quality, cost = (METRICS[key].label for key in axes)
    best = f"best {quality}" if axes.quality != "accuracy" else "most accurate"
    if not front:
        return None, f"No trial has both {quality} and {cost} yet."
    if reference is None:
        rule = f"The knee of the front of {quality} against {cost}: there is no baseline to compare with."
        return knee(front, axes), rule
    within = [t for t in front if gain(axes.cost, t.values[axes.cost]) >= gain(axes.cost, reference.values[axes.cost])]
    costly, cheapest = ("slower", "fastest") if axes.cost == "latency" else (f"worse in {cost}", f"best in {cost}")
    top = f"{best} architecture that is no {costly} than the baseline “{reference.baseline}”"
    pick = next(t for t in within if _is_level(t, within[-1], axes.quality))
    if pick is within[-1]:
        return pick, f"The {top}."
    return pick, f"The {cheapest} within one standard error of the {top}, trial {within[-1].number}."


def _is_level(trial: Trial, best: Trial, quality: str) -> bool:
    """Whether a trial is within one standard error of the best one's quality."""
    low, high = best.intervals.get(quality, (0.0, 0.0))
    return gain(quality, best.values[quality]) - gain(quality, trial.values[quality]) <= (high - low) / (2 * Z95)


def _choice(
    pick: Trial, within: Sequence[Trial], front: Sequence[Trial], reference: Trial | None, axes: Axes
) -> Choice:
    """`within` are the front members that keep to the budget, cheapest first."""
    cheap = [t for t in within if _cost_ratio(t, pick, axes) > 1]
    if reference and reference.number != pick.number:
        bar = gain(axes.quality, reference.values[axes.quality])
        cheaper = [t.number for t in cheap if gain(axes.quality, t.values[axes.quality]) >= bar][:1]
    else:
        cheaper = [t.number for t in cheap if _cost_ratio(t, pick, axes) >= 1 / CHEAPER][-1:]
    best = front[-1] if front else pick
    is_better = gain(axes.quality, best.values[axes.quality]) > gain(axes.quality, pick.values[axes.quality])
    return Choice(pick.number, cheaper[0] if cheaper else None, best.number if is_better else None)


def _cost_ratio(trial: Trial, other: Trial, axes: Axes) -> float:
    """How many times cheaper `trial` is than `other`."""
    a, b = trial.values[axes.cost], other.values[axes.cost]
    a, b = (a, b) if METRICS[axes.cost].direction == "minimize" else (b, a)
    return b / a if a > 0 else math.inf


def _ladders(
    trials: Sequence[Trial], front: Sequence[Trial], reference: Trial | None, axes: Axes
) -> dict[str, tuple[Step, ...]]:
    costs = [key for key, metric in METRICS.items() if metric.direction == "minimize"]
    ladders = {key: ladder(trials, front, reference, axes, key) for key in costs}
    return {key: steps for key, steps in ladders.items() if steps}


def ladder(
    trials: Sequence[Trial], front: Sequence[Trial], reference: Trial | None, axes: Axes, key: str
) -> tuple[Step, ...]:
    """The choice under "metric `key` at most L" for every L: the most accurate finalist within it, or, where none is,
    the most accurate complete trial."""
    final, others = (front_of(each, Axes(axes.quality, key)) for each in (contenders(trials), trials))
    picks = (*(t for t in others if not final or t.values[key] < final[0].values[key]), *final)
    picks = tuple(t for t in picks if t.has(*axes))
    limits = sorted({t.values[key] for t in (*picks, *front) if t.has(key)})
    steps: list[Step] = []
    for limit in limits:
        fitting = [t for t in picks if t.values[key] <= limit]
        if not fitting:
            continue
        within = [t for t in front if t.has(key) and t.values[key] <= limit]
        choice = _choice(fitting[-1], within, front, reference, axes)
        if not steps or steps[-1].choice != choice:
            steps.append(Step(limit, choice))
    return tuple(steps)


def sentence(trial: Trial, reference: Trial | None, axes: Axes, name: str = "") -> str:
    """What `trial` is beside the reference, called `name`: ratio of cost and difference of quality with intervals."""
    values = f"{shown(axes.quality, trial.values[axes.quality])} at {shown(axes.cost, trial.values[axes.cost])}"
    if reference is None:
        return f"{values}."
    if trial.number == reference.number:
        return f"The baseline “{reference.baseline}” itself: {values}."
    name = name or f"“{reference.baseline}”"
    return f"{_cost_words(trial, reference, axes, name)} {_quality_words(trial, reference, axes)}."


def _cost_words(trial: Trial, reference: Trial, axes: Axes, name: str) -> str:
    label = METRICS[axes.cost].label
    ratio, (low, high) = _cost_ratio(trial, reference, axes), cost_interval(trial, reference, axes)
    if low <= 1 <= high:
        return f"Level with {name} in {label}{f' ({_ratio(ratio)}, {_span(low, high)})' if low < high else ''},"
    better, worse = ("faster", "slower") if axes.cost == "latency" else (f"better in {label}", f"worse in {label}")
    word = better if ratio > 1 else worse
    if ratio < 1:
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    return f"{_ratio(ratio)} {word} than {name}{f' ({_span(low, high)})' if low < high else ''}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}{TIMES}" if ratio < 10 else f"{number(ratio)}{TIMES}"


def _span(low: float, high: float) -> str:
    return f"{_ratio(low)[:-1]} to {_ratio(high)}"


def _quality_words(trial: Trial, reference: Trial, axes: Axes) -> str:
    metric = METRICS[axes.quality]
    difference = (trial.values[axes.quality] - reference.values[axes.quality]) * metric.scale
    low, high = (end * metric.scale for end in quality_interval(trial, reference, axes))
    unit = "points" if metric.unit == "%" else metric.unit
    span = f"{signed(low)} to {signed(high)}"
    if low < 0 < high:
        return f"with no difference in {metric.label} that could be told ({signed(difference)} {unit}, {span})"
    if difference == 0:
        return f"at the same {metric.label}"
    return f"at {signed(difference)} {unit} of {metric.label}{f' ({span})' if low < high else ''}"


def cost_interval(trial: Trial, reference: Trial, axes: Axes) -> tuple[float, float]:
    """The ratio's interval: relative half widths of both intervals, taken as independent, added in quadrature."""
    ratio = _cost_ratio(trial, reference, axes)
    spread = math.hypot(_log_half(trial, axes.cost), _log_half(reference, axes.cost))
    return ratio * math.exp(-spread), ratio * math.exp(spread)


def quality_interval(trial: Trial, reference: Trial, axes: Axes) -> tuple[float, float]:
    """The difference's interval: half widths of both intervals, taken as independent, added in quadrature."""
    difference = trial.values[axes.quality] - reference.values[axes.quality]
    halves = [(t.intervals[axes.quality][1] - t.intervals[axes.quality][0]) / 2 for t in (trial, reference)
              if axes.quality in t.intervals]  # fmt: skip
    return difference - math.hypot(*halves), difference + math.hypot(*halves)


def _log_half(trial: Trial, key: str) -> float:
    low, high = trial.intervals.get(key, (1.0, 1.0))
    return math.log(high / low) / 2 if 0 < low <= high else 0.0
