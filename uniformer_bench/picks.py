"""Which trial of a run is meant: one by its number, or the best within limits."""

from collections.abc import Mapping
from typing import Any

from uniformer_bench.errors import NothingFeasibleError, UbenchError
from uniformer_bench.metrics import LIMITS, METRICS, Metric, broken_limit, find_metric
from uniformer_bench.runs import Record, Run


def pick_trial(run: Run, number: int | None, limits: Mapping[str, float]) -> Record:
    """The trial of that number, or else the one that is best in the run's first objective within `limits`: of the
    finalists, and only where none is within them of all complete trials.

    Raises UbenchError where there is no such trial or it has no architecture, NothingFeasibleError where none is
    within the limits.
    """
    if number is not None:
        if limits:
            raise UbenchError(f"a trial is named by its number or by limits, got both: {number} and {_text(limits)}")
        return _by_number(run, number)
    best = find_metric(run.info["objectives"][0])
    complete = [r for r in run.trials if r.get("state") == "complete" and r.get("spec")]
    within = [r for r in complete if _within(r["metrics"], limits) and r["metrics"].get(best.key) is not None]
    if not within:
        asked = _text(limits) or "no limit"
        raise NothingFeasibleError(f"a complete trial must be within the limits, got none of {len(complete)}: {asked}")
    within = [record for record in within if record.get("finalist")] or within
    sign = 1 if best.direction == "maximize" else -1
    return max(within, key=lambda record: sign * record["metrics"][best.key])


def _by_number(run: Run, number: int) -> Record:
    found = next((record for record in run.trials if record.get("number") == number), None)
    if found is None:
        raise UbenchError(f"a trial must be one of the run's {len(run.trials)}, got number {number}")
    if not found.get("spec"):
        raise UbenchError(f"a trial must have an architecture, got number {number}, which is {found.get('state')}")
    return found


def _within(metrics: Mapping[str, Any], limits: Mapping[str, float]) -> bool:
    """Whether no limit is broken, and every limited metric is known."""
    known = all(metrics.get(LIMITS[key].metric) is not None for key in limits)
    return known and broken_limit(metrics, limits) is None


def _text(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in limits.items())


def measured(record: Record) -> list[tuple[str, str]]:
    """(label, value with unit) of every number of a trial, for people."""
    rows = [(metric, record["metrics"].get(metric.key)) for metric in METRICS.values()]
    return [in_words(metric, value) for metric, value in rows if value is not None]


def in_words(metric: Metric, value: float) -> tuple[str, str]:
    """(label, value with unit), for people."""
    return metric.label, f"{metric.scale * value:.4g} {metric.unit}"
