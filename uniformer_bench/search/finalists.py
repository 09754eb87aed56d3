"""What a search ends with, measured by the full protocol: the front and the baselines, in turns on a quiet device.

A trial has 0.3 s for its latency, and the best of many short looks are lucky ones. A finalist is looked at until
its interval is narrow, in turns with those it will be compared to. The study keeps what the search went by; the
run's files and its page have the finalists' latency.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uniformer_bench.measure.latency import measure_latencies
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build
from uniformer_bench.search.evaluate import Result, latency_run, turns_of
from uniformer_bench.search.executors import LocalExecutor
from uniformer_bench.spec import ArchSpec

EACH_S, ALL_S = 2.0, 40.0  # for one finalist and for all, at most
POLL_S = 0.5
MOST = 20  # of the front: a longer one is thinned, its ends kept

Record = Mapping[str, Any]


class Contest(NamedTuple):
    """The architectures to measure together; it travels to a worker."""

    specs: tuple[ArchSpec, ...]
    num_classes: int
    protocol: Protocol
    turns: Path  # folder of the device's locks
    budget_s: float
    seed: int


class Finalists(NamedTuple):
    """Their rows for run.json, or the reason why there are none."""

    rows: list[dict[str, Any]]
    reason: str | None


def finalists_of(front: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """The front, thinned evenly where it is long, and the baselines that are not on it."""
    step = max(1.0, (len(front) - 1) / (MOST - 1))
    kept = [front[round(i * step)] for i in range(min(len(front), MOST))]
    numbers = {row["number"] for row in kept}
    baselines = [row for row in records if row["baseline"] and row["state"] == "complete"]
    return kept + [row for row in baselines if row["number"] not in numbers]


def hold(contest: Contest) -> list[dict[str, Any]]:
    """The latency of every architecture as a document, in a worker process, while all else of ours waits."""
    protocol, turns = contest.protocol, turns_of(contest.turns)
    with thread_count(protocol.threads):
        runs = [latency_run(build(spec, contest.num_classes), spec, protocol).run for spec in contest.specs]
        with turns.working(), turns.alone():
            found = measure_latencies(runs, protocol, budget_s=contest.budget_s, seed=contest.seed)
    return [latency.to_dict() for latency in found]


def measured(contest: Contest, poll: Callable[[], bool]) -> list[dict[str, Any]] | str:
    """Holds the contest in a worker process; the documents, or why there are none.

    `poll` is called twice a second, and ends the contest by a False.
    """
    executor = LocalExecutor(1, None, hold)
    executor.submit(None, contest)
    try:
        while poll():
            for _, found in executor.finished(POLL_S):
                return f"the finalists' worker {found.state}: {found.reason}" if isinstance(found, Result) else found
    finally:
        executor.stop()
    return "the search was stopped"


def rows_of(finalists: Sequence[Record], documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`finalists` of run.json: who they are, their latency, and the one that the search went by."""
    names = ("spec_id", "pattern", "baseline")
    return [
        {"trial": row["number"]}
        | {name: row[name] for name in names}
        | {"latency_ms": dict(document), "latency_ms_in_search": row["metrics"]["latency"]}
        for row, document in zip(finalists, documents, strict=True)
    ]
