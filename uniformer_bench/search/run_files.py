"""The files of a run: run.json, trials.json, trials.csv, front.json and the page, all made from the study."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import to_json, write_whole
from uniformer_bench.metrics import METRICS, broken_limit
from uniformer_bench.runs import write_csv
from uniformer_bench.search.pareto import front_of, to_losses

MOST = 20  # finalists of a front: a longer one is thinned, its ends kept


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits over everything that must match for two trials to be comparable."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def check_identity(info: Mapping[str, Any], identity: Mapping[str, Any], run: Path) -> None:
    """Raises UbenchError with the difference where a run asks another question than the one in its folder."""
    old = info.get("identity", {})
    changed = [key for key in sorted({*old, *identity}) if old.get(key) != identity.get(key)]
    if changed:
        parts = "; ".join(f"{key} was {_short(old.get(key))}, now {_short(identity.get(key))}" for key in changed)
        raise UbenchError(f"a run can only be resumed with the same question, got {parts} in {run}; name another --run")


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def complete(records: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[Mapping[str, Any]]:
    """The records that have all objectives, each architecture once."""
    found = [r for r in records if r["state"] == "complete"]
    return [r for r in found if all(r["metrics"].get(key) is not None for key in objectives)]


def front(records: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[Mapping[str, Any]]:
    """The non-dominated records, best first by the first objective."""
    rows = complete(records, objectives)
    points = [_losses(row, objectives) for row in rows]
    return sorted((rows[i] for i in front_of(points)), key=lambda row: _losses(row, objectives))


def _losses(record: Mapping[str, Any], objectives: Sequence[str]) -> tuple[float, ...]:
    return to_losses(objectives, [record["metrics"][key] for key in objectives])


def finalists_of(records: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[Mapping[str, Any]]:
    """The front, thinned evenly where it is long, and the baselines that are not on it."""
    kept = _thinned(front(records, objectives))
    numbers = {row["number"] for row in kept}
    return kept + [row for row in complete(records, objectives) if row["baseline"] and row["number"] not in numbers]


def challengers_of(
    records: Sequence[Mapping[str, Any]], finalists: Sequence[Mapping[str, Any]], objectives: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Those that are no finalists and are dominated by none, now that these have their later numbers: they stood behind
    one that was lucky. Thinned as the front is; what the thinning of the front left out is not asked again."""
    others = {row["trial"] for row in finalists} | {row["number"] for row in front(records, objectives)}
    found = front(remeasured(records, finalists, {}), objectives)
    return _thinned([row for row in found if row["number"] not in others])


def _thinned(members: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most MOST of them, evenly spread, the ends kept."""
    step = max(1.0, (len(members) - 1) / (MOST - 1))
    return [members[round(i * step)] for i in range(min(len(members), MOST))]


def remeasured(
    records: Sequence[Mapping[str, Any]], finalists: Sequence[Mapping[str, Any]], constraints: Mapping[str, float]
) -> list[Mapping[str, Any]]:
    """The records with the accuracy, latency and throughput of those that were finalists: a short look beside other
    work may be far off, and one training lucky. Which of them then breaks a limit is infeasible, as any trial would
    be. What the search saw stays in the finalists' rows."""
    rows = {row["trial"]: row for row in finalists}
    found = [_with_finals(row, rows[row["number"]]) if row["number"] in rows else row for row in records]
    return [_held_to(record, constraints) if record["number"] in rows else record for record in found]


def _held_to(record: Mapping[str, Any], constraints: Mapping[str, float]) -> Mapping[str, Any]:
    reason = broken_limit(record["metrics"], constraints)
    return {**record, "state": "infeasible", "reason": f"{reason}, measured again"} if reason else record


def _with_finals(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    metrics, intervals = dict(record["metrics"]), dict(record["intervals"])
    if latency_ms := row.get("latency_ms"):
        median = latency_ms["median"]
        metrics |= {"latency": median, "throughput": metrics["throughput"] * metrics["latency"] / median}
        intervals |= {"latency": list(latency_ms["ci95"])} if latency_ms["ci95"] else {}
    if accuracy := row.get("accuracy"):
        metrics["accuracy"], intervals["accuracy"] = accuracy["mean"], list(accuracy["ci95"])
    stages = {"stages": row["stages"]} if row.get("stages") else {}
    return {**record, "metrics": metrics, "intervals": intervals, **stages}


def decided(
    records: Sequence[Mapping[str, Any]],
    finalists: Sequence[Mapping[str, Any]],
    objectives: Sequence[str],
    constraints: Mapping[str, float],
) -> list[dict[str, Any]]:
    """The records as the files have them: by the finalists' numbers, and marked `finalist` and `front`.

    The front is that of the finalists, where those of these records are among them: one training of any other trial
    is no match for the mean of theirs. While a search goes on, there are none yet, or those of an earlier end.
    """
    chosen, final = finalists_of(records, objectives), {row["trial"] for row in finalists}
    final = final if {row["number"] for row in chosen} <= final else set()
    found = remeasured(records, finalists, constraints)
    if not any(record["state"] == "complete" for record in found if record["number"] in final):
        final = set()  # a limit left none of them
    members = {r["number"] for r in front([r for r in found if not final or r["number"] in final], objectives)}
    return [dict(r, front=r["number"] in members, finalist=r["number"] in final) for r in found]


def as_searched(records: Sequence[Mapping[str, Any]], finalists: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of trials.json as the study had them: with what the search went by, and without marks."""
    found = {row["trial"]: row for row in finalists}
    marks = ("front", "finalist", "stages")
    plain = [{key: value for key, value in record.items() if key not in marks} for record in records]
    return [_without_finals(row, found[row["number"]]) if row["number"] in found else row for row in plain]


def _without_finals(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    metrics = dict(record["metrics"])
    if row.get("latency_ms") and (median := row.get("latency_ms_in_search")):
        metrics |= {"latency": median, "throughput": metrics["throughput"] * metrics["latency"] / median}
    if row.get("accuracy") and row.get("accuracy_in_search") is not None:
        metrics["accuracy"] = row["accuracy_in_search"]
    was = {"state": "complete", "reason": None} if record["state"] == "infeasible" else {}  # or it were no finalist
    return {**record, "metrics": metrics, **was}


def front_rows(marked: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[dict[str, Any]]:
    """front.json, of records that are marked: trial, spec_id and every metric under its column's name, best first."""
    members = sorted((row for row in marked if row["front"]), key=lambda row: _losses(row, objectives))
    return [
        {"trial": row["number"], "spec_id": row["spec_id"], "pattern": row["pattern"], "baseline": row["baseline"]}
        | {metric.column: row["metrics"].get(metric.key) for metric in METRICS.values()}
        for row in members
    ]


def write_run(run: Path, info: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the run's files by what the study holds now, decided by the finalists where there are any."""
    marked = decided(records, info.get("finalists", []), info["objectives"], info["constraints"])
    write_whole(run / "trials.json", to_json(marked))
    write_whole(run / "trials.csv", write_csv(marked))
    write_whole(run / "front.json", to_json(front_rows(marked, info["objectives"])))
    write_whole(run / "run.json", to_json(dict(info)))
