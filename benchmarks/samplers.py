"""Which search finds most within its budget: each replayed over a surrogate of the tiny space, by its own clock.

    python benchmarks/samplers.py results/2026-11-23_tiny_table/table.csv --seeds 20      about 40 minutes on one core

The searches are those of `ubench search` itself, driver, study and rungs; only the workers are replayed, two of them,
which answer by the surrogate and take the seconds that it says. Stock TPE is replayed as the plain loop that it comes
as, two trials at a time, which trains again what it suggests again. A budget is so many evaluations' worth: the mean
time of a full training and its measurement, of a random architecture.

Shown is the share of the scaled box (accuracy from chance to 1, latency on a logarithm) that is dominated by the front
that a search would hand over, at what its members are truly worth; beside it, what the search saw of it itself, which
luck makes larger. Intervals are of the mean over seeds, differences paired by seed.
"""

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import optuna
import torch
from scipy.stats import t as student
from surrogate import CLASSES, SPACE, Surrogate, fit
from table import read_table

from uniformer_bench.files import read_text, to_json, write_whole
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.recipe import Halving
from uniformer_bench.search.axes import hypervolume_of, scales_of
from uniformer_bench.search.driver import Search
from uniformer_bench.search.evaluate import Result, Task
from uniformer_bench.search.finalists import Finalists
from uniformer_bench.search.pareto import Scale
from uniformer_bench.search.question import Before, Means, Question
from uniformer_bench.search.run_files import complete, front
from uniformer_bench.search.study import Study, optuna_pick
from uniformer_bench.space import Space, random_pick, stored_pick
from uniformer_bench.spec import ArchSpec

WORKERS = 2
LOOK_S = 0.7  # to build a model and to measure its latency and memory
BUDGETS = (50, 200)  # evaluations' worth
PLENTY = 100_000  # trials: it is the budget that ends a search


class Contestant(NamedTuple):
    """A search as somebody would set it up."""

    name: str
    sampler: str
    halving: Halving
    stock: bool = False  # Optuna's own settings of TPE, in a loop of its own


NO_RUNGS = Halving()
CONTESTANTS = (
    Contestant("random", "random", NO_RUNGS),
    Contestant("NSGA-II, population 20", "nsga2", NO_RUNGS),
    Contestant("TPE, stock", "tpe", NO_RUNGS, stock=True),
    Contestant("TPE, multivariate and grouped", "tpe", NO_RUNGS),
    Contestant("TPE and halving", "tpe", SPACE.halving),
    Contestant("model, no halving", "model", NO_RUNGS),
    Contestant("default", "model", SPACE.halving),
)


# ---------------------------------------------------------------- replaying


class _OverError(Exception):
    """The budget is spent."""


class Replay:
    """Workers that answer by the surrogate; its own clock goes on by what their work takes, `times` as long as the
    surrogate says. Does as LocalExecutor."""

    def __init__(self, surrogate: Surrogate, workers: int, times: float = 1.0) -> None:
        self.now = self.worked_s = 0.0
        self._surrogate, self._workers, self._times = surrogate, workers, times
        self._at_work: list[tuple[float, int, int, Result]] = []
        self._order = itertools.count()

    @property
    def free(self) -> int:
        return self._workers - len(self._at_work)

    def submit(self, number: int, task: Task) -> None:
        """Begins a trial, whose end is known at once and told in its time."""
        result = replayed(self._surrogate, task)
        took_s = self._times * sum(result.seconds.values())
        self.worked_s += took_s
        heapq.heappush(self._at_work, (self.now + took_s, next(self._order), number, result))

    def finished(self, wait_s: float) -> list[tuple[int, Result]]:
        """The trials that have ended, or else the one that ends next."""
        self.now, ended = max(self.now, self._at_work[0][0]), []
        while self._at_work and self._at_work[0][0] <= self.now:
            ended.append(heapq.heappop(self._at_work))
        return [(number, result) for _, _, number, result in ended]

    def stop(self) -> list[int]:
        return [number for _, _, number, _ in self._at_work]


def replayed(surrogate: Surrogate, task: Task) -> Result:
    """What `evaluate` would have given, by the surrogate."""
    run = surrogate.training(task.spec, task.seed)
    begun = max((share for share in task.rungs if share < task.until), default=0.0) if task.resumed else 0.0
    rungs = [
        {
            "share": share,
            "epochs": share * task.recipe.epochs,
            "loss": run.rung_loss[share],
            "seconds": run.seconds(share),
        }
        for share in task.rungs
        if begun < share <= task.until
    ]
    metrics = {} if task.resumed else {"latency": run.latency_ms, "memory": 1e6}
    seconds = {"train": run.seconds(task.until) - run.seconds(begun)} | ({} if task.resumed else {"latency": LOOK_S})
    if task.until < 1:
        return Result("paused", "paused", metrics, {}, seconds, [], rungs, {})
    return Result("complete", None, metrics | {"accuracy": run.accuracy}, {}, seconds, [], rungs, {})


def search(contestant: Contestant, surrogate: Surrogate, seed: int, until_s: float) -> list[dict[str, Any]]:
    """The records of a search up to this time of its own clock."""
    if contestant.stock:
        return stock_loop(surrogate, seed, until_s=until_s, training_seed=seed)
    replay = Replay(surrogate, WORKERS)
    with searching(contestant, seed, clock=lambda: replay.now, workers=WORKERS, trials=PLENTY) as running:
        try:
            running._loop(replay, _stop_after(until_s))
        except _OverError:
            pass
    return running.records


@contextmanager
def searching(
    contestant: Contestant, seed: int, *, clock: Callable[[], float], workers: int, trials: int
) -> Iterator[Search]:
    """A search on a study of its own, to be run without its finalists, whom nobody here can train."""
    space = replace(SPACE, halving=contestant.halving)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(f"sqlite:///{folder}/study.db", "replay", space.objectives, contestant.sampler, seed)
        study.enqueue(space.baseline_picks())
        yield Search(
            _question(space, contestant.sampler, seed),
            Means(("cpu",) * workers, 1, Path(folder), Path(folder), trials, None, None),
            study,
            Before(0.0, {}, Finalists([], None)),
            clock=clock,
        )


def stock_loop(
    surrogate: Surrogate,
    seed: int,
    *,
    trials: float = math.inf,
    until_s: float = math.inf,
    training_seed: int = 0,
    times: float = 1.0,
    look_s: float = LOOK_S,
) -> list[dict[str, Any]]:
    """Optuna's multi-objective TPE as it comes: its trials as records, up to so many or to a time. A trial takes
    `look_s` and `times` the surrogate's seconds of a training."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=seed))
    running: list[tuple[float, int, optuna.Trial, ArchSpec]] = []
    rows, now = list[dict[str, Any]](), 0.0
    while len(rows) < trials and now <= until_s:
        if len(running) == WORKERS:
            now, _, trial, spec = heapq.heappop(running)
            found = surrogate.training(spec, training_seed)
            study.tell(trial, (found.accuracy, found.latency_ms))
            metrics = {"accuracy": found.accuracy, "latency": found.latency_ms}
            rows.append({"state": "complete", "finished_s": now, "metrics": metrics, "spec": spec.to_dict()})
        trial = study.ask()
        spec = SPACE.candidate(optuna_pick(trial)).trained
        took_s = look_s + times * surrogate.training(spec, training_seed).seconds(1.0)
        heapq.heappush(running, (now + took_s, trial.number, trial, spec))
    return rows


def _question(space: Space, sampler: str, seed: int) -> Question:
    at, clips = space.input, SimpleNamespace(classes=tuple(range(CLASSES)))
    protocol = Protocol(device="cpu", batch=at.batch, frames=at.frames, size=at.size)
    return Question(space, clips, {}, protocol, seed, sampler)  # type: ignore[arg-type]  # only classes are looked at


def _stop_after(until_s: float) -> Callable[[Search], None]:
    def look(now: Search) -> None:
        if now.elapsed_s > until_s:
            raise _OverError

    return look


# ---------------------------------------------------------------- what it is worth


class Worth(NamedTuple):
    """Hypervolumes of a search at a time: of its front in truth, of the same as it saw it; and its trials by then."""

    true: float
    seen: float
    trials: int
    complete: int


def worth(
    records: Sequence[Mapping[str, Any]], at_s: float, surrogate: Surrogate, scales: Mapping[str, Scale]
) -> Worth:
    """What the search had at this time."""
    by_then = [record for record in records if record["finished_s"] <= at_s]
    members = front(by_then, SPACE.objectives)
    truth = [{**row, "metrics": row["metrics"] | true_metrics(surrogate, row["spec"])} for row in members]
    counted = [record for record in by_then if record["state"] not in ("repeated", "refused", "interrupted")]
    return Worth(
        hypervolume_of(truth, SPACE.objectives, scales),
        hypervolume_of(members, SPACE.objectives, scales),
        len(counted),
        len(complete(by_then, SPACE.objectives)),
    )


def true_metrics(surrogate: Surrogate, spec: Mapping[str, Any]) -> dict[str, float]:
    """An architecture's means."""
    means = surrogate.means(ArchSpec.from_dict(spec))
    return {"accuracy": means.accuracy, "latency": means.latency_ms}


def true_scales(surrogate: Surrogate) -> dict[str, Scale]:
    """The hypervolume's axes by the baselines' means: the same for all contestants and seeds."""
    specs = [SPACE.candidate(stored_pick(picks)).spec for _, picks in SPACE.baseline_picks()]
    rows = [{"metrics": true_metrics(surrogate, spec.to_dict())} for spec in specs]
    return scales_of(rows, SPACE.objectives, CLASSES)


def evaluation_s(surrogate: Surrogate) -> float:
    """The mean seconds of a full evaluation of a random architecture."""

    rng = random.Random(0)
    specs = [SPACE.candidate(random_pick(rng)).spec for _ in range(200)]
    return LOOK_S + statistics.mean(surrogate.means(spec).seconds(1.0) for spec in specs)


# ---------------------------------------------------------------- the table


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval, by Student's t."""
    if len(values) < 2:
        return values[0], math.nan
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(half)


def lines(found: Mapping[str, Sequence[Sequence[Worth]]], reference: str) -> list[str]:
    """By budget and contestant: true and seen hypervolume, trials, and what the reference has more, paired by seed."""
    rows = []
    for i, budget in enumerate(BUDGETS):
        rows.append(f"\n{budget} evaluations' worth")
        rows.append(f"{'':32}{'true':>18}{'seen':>8}{'trials':>8}{'in full':>8}   {reference} has more by")
        for name, runs in found.items():
            at = [run[i] for run in runs]
            mean, half = interval([w.true for w in at])
            seen, trials, full = (
                statistics.mean(getattr(w, key) for w in at) for key in ("seen", "trials", "complete")
            )
            paired = [b[i].true - a[i].true for a, b in zip(runs, found.get(reference, []), strict=False)]
            more = "" if name == reference or not paired else "{:+.4f} ± {:.4f}".format(*interval(paired))
            rows.append(f"{name:32}{mean:>9.4f} ± {half:.4f}{seen:>8.4f}{trials:>8.0f}{full:>8.0f}   {more}")
    return rows


def main(table: Path, seeds: int, only: Sequence[str], out: Path | None) -> None:
    torch.set_num_threads(1)
    surrogate = fit(read_table(table))
    scales, each_s = true_scales(surrogate), evaluation_s(surrogate)
    print(f"an evaluation takes {each_s:.2f} s on average; {WORKERS} workers", flush=True)
    times = [budget * each_s / WORKERS for budget in BUDGETS]
    found = _replayed_before(out)
    chosen = [contestant for contestant in CONTESTANTS if contestant.name in only or not only]
    for seed, contestant in itertools.product(range(seeds), chosen):
        runs = found.setdefault(contestant.name, [])
        if seed < len(runs):
            continue
        records = search(contestant, surrogate, seed, times[-1])
        runs.append([worth(records, at, surrogate, scales) for at in times])
        if out:
            write_whole(
                out, to_json({name: [[w._asdict() for w in run] for run in runs] for name, runs in found.items()})
            )
    whole = min(len(found[contestant.name]) for contestant in chosen)
    print(f"{whole} seeds", "\n".join(lines({c.name: found[c.name][:whole] for c in chosen}, "default")))


def _replayed_before(out: Path | None) -> dict[str, list[list[Worth]]]:
    """By contestant and seed what an earlier call has written there."""
    if not out or not out.exists():
        return {}
    rows = json.loads(read_text(out))
    return {name: [[Worth(**at) for at in run] for run in runs] for name, runs in rows.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", action="append", default=[], help="a contestant's name; may be given again")
    parser.add_argument("--out", type=Path, help="JSON of every seed's hypervolumes, from which a call goes on")
    arguments = parser.parse_args()
    main(arguments.table, arguments.seeds, arguments.only, arguments.out)
