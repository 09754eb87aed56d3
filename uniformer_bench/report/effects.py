"""What matters, as pure data: each choice's effect on a metric, and patterns of mixers against it.

Effects are marginal: the mean over complete trials with a choice against the mean over all that have the
parameter. A sampler that learns does not draw choices evenly, so they describe this search and prove no cause.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from uniformer_bench.metrics import METRICS
from uniformer_bench.report.info import Trial
from uniformer_bench.report.text import plain

MOST_CHOICES = 6  # a numeric parameter with more values is cut in thirds
Z95 = 1.96


class Effect(NamedTuple):
    """A choice's mean against the mean of all, with a 95 % normal interval; see `is_relative`."""

    choice: str
    n: int
    mean: float
    low: float
    high: float


class ParameterEffect(NamedTuple):
    """A parameter: the share of the metric's variance its choices go with (adjusted eta squared), and each choice."""

    parameter: str
    share: float
    effects: tuple[Effect, ...]


class PatternCell(NamedTuple):
    """Trials whose first stages have mixers `early` and whose last ones `late`: how many, median and best."""

    early: str
    late: str
    n: int
    median: float
    best: float


def is_relative(key: str) -> bool:
    """Whether effects on this metric are ratios minus one; those on a percentage are differences."""
    return METRICS[key].unit != "%"


def effects(trials: Sequence[Trial], key: str) -> tuple[ParameterEffect, ...]:
    """Every parameter that took two choices or more, the one that explains most first."""
    done = [t for t in trials if t.state == "complete" and t.has(key) and (t.values[key] > 0 or not is_relative(key))]
    names = dict.fromkeys(name for t in done for name in t.params)
    found = [_parameter(name, [t for t in done if name in t.params], key) for name in names]
    return tuple(sorted((f for f in found if f), key=lambda f: (-f.share, f.parameter)))


def _parameter(name: str, trials: Sequence[Trial], key: str) -> ParameterEffect | None:
    scale = math.log if is_relative(key) else float
    label = _choices([t.params[name] for t in trials])
    groups: dict[str, list[float]] = {text: [] for text in label.values()}
    for trial in trials:
        groups[label[trial.params[name]]].append(scale(trial.values[key]))
    if len(groups) < 2:
        return None
    values = [value for group in groups.values() for value in group]
    centre = statistics.fmean(values)
    rows = tuple(_effect(choice, group, centre, key) for choice, group in groups.items())
    return ParameterEffect(name, _share(list(groups.values()), values), rows)


def _effect(choice: str, group: list[float], centre: float, key: str) -> Effect:
    mean = statistics.fmean(group) - centre
    half = Z95 * statistics.stdev(group) / math.sqrt(len(group)) if len(group) > 1 else math.nan
    ends = (mean, mean - half, mean + half) if len(group) > 1 else (mean, mean, mean)
    mean, low, high = (math.expm1(end) if is_relative(key) else end for end in ends)
    return Effect(choice, len(group), mean, low, high)


def _share(groups: list[list[float]], values: list[float]) -> float:
    n, k = len(values), len(groups)
    total, within = _squares(values), sum(_squares(group) for group in groups)
    if n <= k or total == 0:
        return 0.0
    return max(0.0, 1 - (within / (n - k)) / (total / (n - 1)))


def _squares(values: list[float]) -> float:
    mean = statistics.fmean(values)
    return sum((value - mean) ** 2 for value in values)


def _choices(values: Sequence[Any]) -> dict[Any, str]:
    """Each value's label, in order; many numbers share the label of their third."""
    distinct = sorted(set(values), key=lambda v: (isinstance(v, str), v))
    numeric = all(not isinstance(v, str) for v in distinct)
    if not numeric or len(distinct) <= MOST_CHOICES:
        return {v: v if isinstance(v, str) else plain(v) for v in distinct}
    size = math.ceil(len(distinct) / 3)
    thirds = [distinct[i : i + size] for i in range(0, len(distinct), size)]
    return {v: f"{plain(third[0])} to {plain(third[-1])}" for third in thirds for v in third}


def patterns(trials: Sequence[Trial], key: str) -> tuple[PatternCell, ...]:
    """Complete trials by the mixers of the first half of their stages and of the rest, in that order."""
    groups: dict[tuple[str, str], list[float]] = {}
    for trial in trials:
        if trial.state == "complete" and trial.pattern and trial.has(key):
            half = len(trial.pattern) // 2
            groups.setdefault((trial.pattern[:half], trial.pattern[half:]), []).append(trial.values[key])
    best = max if METRICS[key].direction == "maximize" else min
    return tuple(PatternCell(*at, len(g), statistics.median(g), best(g)) for at, g in sorted(groups.items()))
