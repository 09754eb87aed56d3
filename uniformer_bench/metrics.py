"""Every number a trial can have, one row each. Search, storage, report and command line all read these rows."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import nearest


class Metric(NamedTuple):
    """A number of a trial: `key` names it as an objective, `column` in files (with its unit).

    Values are kept in `column`'s unit; a page shows value x `scale` in `unit`.
    """

    key: str
    column: str
    label: str
    unit: str
    direction: str  # "maximize" or "minimize"
    scale: float = 1.0


_ROWS = (
    Metric("accuracy", "accuracy", "validation accuracy", "%", "maximize", 100),
    Metric("latency", "latency_ms", "latency", "ms", "minimize"),
    Metric("throughput", "throughput_clips_per_s", "throughput", "clips/s", "maximize"),
    Metric("energy", "joules_per_clip", "energy", "J/clip", "minimize"),
    Metric("macs", "macs", "MACs", "G", "minimize", 1e-9),
    Metric("flops", "flops", "FLOPs", "G", "minimize", 1e-9),
    Metric("params", "params", "parameters", "M", "minimize", 1e-6),
    Metric("memory", "memory_bytes", "inference memory", "MB", "minimize", 1e-6),
    Metric("training_memory", "training_memory_bytes", "training memory", "MB", "minimize", 1e-6),
)

METRICS = {row.key: row for row in _ROWS}


class Limit(NamedTuple):
    """A constraint's name: an upper bound on a metric, in a unit people type."""

    key: str
    metric: str
    scale: float  # the limit x scale is in the metric's own unit
    unit: str


_LIMITS = (
    Limit("max_latency_ms", "latency", 1, "ms"),
    Limit("max_memory_mb", "memory", 1e6, "MB"),
    Limit("max_gmacs", "macs", 1e9, "GMACs"),
    Limit("max_params_m", "params", 1e6, "M parameters"),
)

LIMITS = {row.key: row for row in _LIMITS}


def find_metric(key: str) -> Metric:
    """The metric of that name. Raises UbenchError with the near ones."""
    if key not in METRICS:
        raise UbenchError(f"unknown objective {key!r}{nearest(key, METRICS)}")
    return METRICS[key]


def broken_limit(metrics: Mapping[str, float], constraints: Mapping[str, float]) -> str | None:
    """The first limit that these metrics break, in words."""
    for key, limit in constraints.items():
        row = LIMITS[key]
        value = metrics.get(row.metric)
        if value is not None and value > limit * row.scale:
            return f"{key} must be at most {limit:g} {row.unit}, got {value / row.scale:.4g}"
    return None


def near_miss(trials: Iterable[tuple[int, str, Mapping[str, float]]], constraints: Mapping[str, float]) -> str | None:
    """Where no trial (its number, state and metrics) has kept the limits, but some were measured and broke them: which
    came closest."""
    broken = []
    for number, state, metrics in trials:
        if state in ("complete", "pruned"):
            return None
        if state == "infeasible" and (reason := broken_limit(metrics, constraints)):
            broken.append((_times_over(metrics, constraints), number, reason))
    if not broken:
        return None
    _, closest, reason = min(broken)
    return f"nothing kept the limits yet; trial {closest} came closest: {reason}"


def _times_over(metrics: Mapping[str, float], constraints: Mapping[str, float]) -> float:
    """How many times its limit a metric is at most, of those that are known: one at least."""
    rows = [(metrics.get(LIMITS[key].metric), limit * LIMITS[key].scale) for key, limit in constraints.items()]
    return max(value / limit for value, limit in rows if value is not None)
