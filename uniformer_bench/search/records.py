"""The record of a trial: plain data, the same in the study, in trials.json and on the page."""

from typing import Any

import optuna

from uniformer_bench.search.evaluate import Result
from uniformer_bench.space import Candidate

Record = dict[str, Any]


def record_of(trial: optuna.Trial, candidate: Candidate | None, result: Result, finished_s: float) -> Record:
    """What there is to keep of a trial that came to `result`, so many seconds after its study began; of one that made
    no architecture `candidate` is None."""
    return {
        "number": trial.number,
        "state": result.state,
        "reason": result.reason,
        "spec_id": candidate.id if candidate else None,
        "pattern": candidate.spec.pattern if candidate else None,
        "baseline": trial.user_attrs.get("baseline"),
        "spec": candidate.spec.to_dict() if candidate else None,
        **_clip(candidate),
        "params": dict(trial.params),
        "metrics": dict(result.metrics),
        "intervals": {key: list(ends) for key, ends in result.intervals.items()},
        "seconds": dict(result.seconds),
        "warnings": list(result.warnings),
        "micro_batch": result.adapted.get("micro_batch"),
        "rungs": list(result.rungs),
        "finished_s": finished_s,
    }


def _clip(candidate: Candidate | None) -> dict[str, Any]:
    """The clip it is for, where clips vary."""
    if candidate is None or candidate.clip is None:
        return {}
    return {"clip": {"frames": candidate.clip.frames, "size": list(candidate.clip.size)}}


def joined(before: Record | None, after: Record) -> Record:
    """The record of a trial that paused in between: what either part measured, seconds of both together."""
    if before is None:
        return after
    phases = {*before["seconds"], *after["seconds"]}
    seconds = {phase: before["seconds"].get(phase, 0.0) + after["seconds"].get(phase, 0.0) for phase in phases}
    both = {key: before[key] | after[key] for key in ("metrics", "intervals")}
    lists = {"rungs": before["rungs"] + after["rungs"]}
    lists["warnings"] = list(dict.fromkeys(before["warnings"] + after["warnings"]))
    return after | both | lists | {"seconds": seconds}
