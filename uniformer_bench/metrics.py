"""Every number a trial can have, one row each. Search, storage, report and command line all read these rows."""

import math
from collections.abc import Mapping
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


def near_miss(broken: Mapping[int, Mapping[str, float]], constraints: Mapping[str, float]) -> str:
    """Of trials by number, at least one, that each break a limit by these metrics: which comes closest."""
    number = min(broken, key=lambda n: _times_over(broken[n], constraints))
    return f"nothing kept the limits yet; trial {number} came closest: {broken_limit(broken[number], constraints)}"


def _times_over(metrics: Mapping[str, float], constraints: Mapping[str, float]) -> float:
    """How many times the limit a metric is at most, over those that are known."""
    rows = [(metrics.get(LIMITS[key].metric), limit * LIMITS[key].scale) for key, limit in constraints.items()]
    return max((value / limit for value, limit in rows if value is not None), default=math.inf)
