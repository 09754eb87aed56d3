"""The hypervolume of a search: its axes, fixed once and for all when the first costs are known, and its course."""

from collections.abc import Mapping, Sequence
from typing import Any

from uniformer_bench.metrics import METRICS
from uniformer_bench.search.pareto import Scale, hypervolume
from uniformer_bench.search.run_files import complete, front
from uniformer_bench.search.study import COUNTED
from uniformer_bench.space import Space

ENOUGH = 10  # trials after which axes do not wait for baselines any more


def fixed_axes(records: Sequence[Mapping[str, Any]], space: Space, classes: int) -> dict[str, Scale]:
    """The axes, once every baseline has ended or ten trials have; nothing before that, or where none was measured."""
    enough = sum(record["state"] in COUNTED for record in records) >= ENOUGH
    ended = {record["baseline"] for record in records if record["state"] != "interrupted"}
    if not enough and not {name for name, _ in space.baseline_picks()} <= ended:
        return {}
    rows = of_axes(records, space.objectives, enough)
    return scales_of(rows, space.objectives, classes) if rows else {}


def of_axes(
    records: Sequence[Mapping[str, Any]], objectives: Sequence[str], enough: bool = True
) -> list[Mapping[str, Any]]:
    """The records whose costs are to fix the axes: complete baselines, else those that a limit ended once they were
    measured, else complete trials, else, where there are `enough`, measured ones. Without axes no model suggests: a
    limit that all baselines break must not keep a search waiting for them."""
    costs = [key for key in objectives if key != "accuracy"]
    measured = [r for r in records if all(r["metrics"].get(key) is not None for key in costs)]
    ended = [r for r in measured if r["state"] == "complete"]
    choices = [[r for r in ended if r["baseline"]], [r for r in measured if r["baseline"]], ended]
    return next((rows for rows in choices + [measured] * enough if rows), [])


def scales_of(baselines: Sequence[Mapping[str, Any]], objectives: Sequence[str], classes: int) -> dict[str, Scale]:
    """The hypervolume's axes, to be fixed when a study starts.

    Accuracy runs from chance to 1. A cost runs, on a logarithm, from a hundredth of its worst value to
    that value: twice the dearest baseline's. Throughput is the mirror image of a cost.
    """
    scales = {}
    for key in objectives:
        if key == "accuracy":
            scales[key] = Scale(worst=1 / classes, best=1.0, log=False)
            continue
        values = [row["metrics"][key] for row in baselines]
        more = METRICS[key].direction == "maximize"
        worst = min(values) / 2 if more else 2 * max(values)
        scales[key] = Scale(worst=worst, best=worst * 100 if more else worst / 100, log=True)
    return scales


def hypervolume_of(
    records: Sequence[Mapping[str, Any]], objectives: Sequence[str], scales: Mapping[str, Scale]
) -> float:
    """The share of the scaled box that the complete trials dominate."""
    rows = complete(records, objectives)
    return hypervolume([tuple(scales[key].loss(row["metrics"][key]) for key in objectives) for row in rows])


def history(
    records: Sequence[Mapping[str, Any]], objectives: Sequence[str], scales: Mapping[str, Scale]
) -> list[list[float]]:
    """[finished_s, trial, hypervolume] after each complete trial, in the order they ended."""
    ordered = sorted(complete(records, objectives), key=lambda row: row["finished_s"])
    members: list[Mapping[str, Any]] = []
    rows = []
    for record in ordered:
        members = front([*members, record], objectives)
        rows.append([record["finished_s"], record["number"], hypervolume_of(members, objectives, scales)])
    return rows


def described(
    records: Sequence[Mapping[str, Any]], objectives: Sequence[str], scales: Mapping[str, Scale]
) -> dict[str, Any]:
    """The hypervolume with its axes and its course, as run.json has them; null until the axes are fixed."""
    if not scales:
        return {"value": None, "scales": {}, "history": [], "reason": "no baseline has ended yet"}
    return {
        "value": hypervolume_of(records, objectives, scales),
        "scales": {key: scale._asdict() for key, scale in scales.items()},
        "history": history(records, objectives, scales),
    }
