"""The axes of the parallel coordinates, as pure data: metrics first, then the parameters that explain most.

The page's script draws a line for every complete trial; a parameter that a trial does not have breaks its line.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from uniformer_bench.metrics import METRICS
from uniformer_bench.report.effects import ParameterEffect
from uniformer_bench.report.info import Axes, Trial
from uniformer_bench.report.text import plain

MOST = 10  # axes
MOST_CHOICES = 9  # a number that takes more values has a scale
METRICS_SHOWN = ("macs", "params", "memory")
LOG_FROM = 10  # highest over lowest


class Dimension(NamedTuple):
    """An axis: the table's column, its title, and its choices in order, or the ends of its scale in page units."""

    column: str
    title: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    scale: float = 1.0


def dimensions(trials: Sequence[Trial], axes: Axes, found: Sequence[ParameterEffect]) -> tuple[Dimension, ...]:
    """Metrics that differ among complete trials, then parameters in the order of `found`; none of fewer than two."""
    done = [trial for trial in trials if trial.state == "complete"]
    keys = dict.fromkeys((*axes, *METRICS_SHOWN))
    made = [_metric(key, [t.values[key] for t in done if t.has(key)]) for key in keys]
    made += [_parameter(effect.parameter, [t.params.get(effect.parameter) for t in done]) for effect in found]
    kept = tuple(dimension for dimension in made if dimension)[:MOST]
    return kept if len(kept) > 1 else ()


def _metric(key: str, values: Sequence[float]) -> Dimension | None:
    if len(set(values)) < 2:
        return None
    metric = METRICS[key]
    title = f"{metric.label} ({metric.unit})"
    return _scaled(metric.column, title, [value * metric.scale for value in values])._replace(scale=metric.scale)


def _parameter(name: str, values: Sequence[Any]) -> Dimension | None:
    known = {value for value in values if value is not None}
    if len(known) < 2:
        return None
    numeric = all(not isinstance(value, str) for value in known)
    if numeric and len(known) > MOST_CHOICES:
        return _scaled(f"param_{name}", name, sorted(known))
    ordered = sorted(known, key=lambda value: (isinstance(value, str), value))
    return Dimension(f"param_{name}", name, tuple(v if isinstance(v, str) else plain(v) for v in ordered))


def _scaled(column: str, title: str, values: Sequence[float]) -> Dimension:
    low, high = min(values), max(values)
    return Dimension(column, title, low=low, high=high, log=low > 0 and high / low > LOG_FROM)
