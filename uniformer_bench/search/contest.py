"""The finalists' latency by the full protocol: in turns with each other, on a quiet device, and by stage.

A trial has 0.3 s for its latency, and the best of many short looks are lucky ones. A finalist is looked at until its
interval is narrow, in turns with those it will be compared to.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from uniformer_bench.measure.latency import measure_latencies, stage_latencies
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build, clips_like
from uniformer_bench.model.inference import for_inference
from uniformer_bench.search.evaluate import Result, latency_run, turns_of
from uniformer_bench.search.executors import Crew, only
from uniformer_bench.search.retraining import STOPPED
from uniformer_bench.space import Clip
from uniformer_bench.spec import ArchSpec

WHOLE_SHARE = 0.75  # of the time for the whole models, the rest for their stages


class Entrant(NamedTuple):
    """An architecture, and the clip that it is for."""

    spec: ArchSpec
    clip: Clip


class Contest(NamedTuple):
    """The architectures to measure together, each on its clips; it travels to a worker."""

    entrants: tuple[Entrant, ...]
    num_classes: int
    protocol: Protocol
    turns: Path  # folder of the device's locks
    budget_s: float
    seed: int


class Times(NamedTuple):
    """A finalist's latency as a document, and the median ms of each stage alone."""

    latency_ms: dict[str, Any]
    stages_ms: list[float]


def hold(contest: Contest) -> list[Times]:
    """The times of every architecture, in a worker process, while all else of ours waits."""
    protocol, turns = contest.protocol, turns_of(contest.turns)
    protocols = [replace(protocol, **each.clip._asdict()) for each in contest.entrants]
    stages_s = (1 - WHOLE_SHARE) * contest.budget_s / len(contest.entrants)
    pairs = [(each.spec, own) for each, own in zip(contest.entrants, protocols, strict=True)]
    with thread_count(protocol.threads):
        runs = [latency_run(build(spec, contest.num_classes), spec, own).run for spec, own in pairs]
        with turns.working(), turns.alone():
            found = measure_latencies(runs, protocol, budget_s=WHOLE_SHARE * contest.budget_s, seed=contest.seed)
            stages = [_stages_ms(spec, contest.num_classes, own, stages_s) for spec, own in pairs]
    return [Times(latency.to_dict(), ms) for latency, ms in zip(found, stages, strict=True)]


def _stages_ms(spec: ArchSpec, num_classes: int, protocol: Protocol, budget_s: float) -> list[float]:
    """The median of every stage, without the head: stages are never compiled, and need not add up."""
    model = for_inference(build(spec, num_classes).to(protocol.device, protocol.dtype()).eval())
    clips = clips_like(spec, protocol.batch, protocol.frames, protocol.size).to(protocol.device, protocol.dtype())
    return stage_latencies(model, clips, protocol, budget_s=budget_s)[:-1]


def measured(contest: Contest, crew: Crew, poll: Callable[[], bool]) -> list[Times] | str:
    """Holds the contest in a worker process; the times, or why there are none.

    `poll` is called twice a second, and ends the contest by a False.
    """
    found = only(hold, contest, crew, poll)
    if found is None:
        return STOPPED
    return f"the finalists' worker {found.state}: {found.reason}" if isinstance(found, Result) else found
