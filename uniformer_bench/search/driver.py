"""The search: one driver asks, workers evaluate, the study is told; files and page are rewritten as it goes."""

import math
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import optuna

from uniformer_bench.cost import Cost, cost
from uniformer_bench.data.clips import Clips
from uniformer_bench.errors import NothingFeasibleError, SpecError
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.metrics import LIMITS, broken_limit
from uniformer_bench.search.evaluate import Result, Task, evaluate, trained_spec
from uniformer_bench.search.executors import LocalExecutor
from uniformer_bench.search.finalists import ALL_S, EACH_S, Contest, Finalists, finalists_of, measured, rows_of
from uniformer_bench.search.pareto import Scale
from uniformer_bench.search.run_files import front, history, hypervolume_of, scales_of
from uniformer_bench.search.study import COUNTED, Study, optuna_pick
from uniformer_bench.space import Candidate, Space, random_pick
from uniformer_bench.spec import ArchSpec

POLL_S = 0.5  # how soon a signal, the budget or the display is looked after
MAX_SKIPPED = 1000  # refused or repeated in a row: the space is as good as exhausted
FEASIBILITY_SAMPLES = 2000
FINALISTS_SHARE = 0.1  # of a time to stop in, kept for the finalists, but no more than they may take
SEARCHING, FINALISTS = "searching", "measuring the finalists"

Record = dict[str, Any]


class Question(NamedTuple):
    """What a search asks: everything that its trials depend on."""

    space: Space
    clips: Clips
    data: dict[str, Any]  # arguments of load_clips, for the workers
    protocol: Protocol
    seed: int


class Means(NamedTuple):
    """What a search may use; changing it changes no number."""

    devices: tuple[str, ...]  # one entry a worker
    training_threads: int
    turns: Path
    trials: int
    deadline_s: float | None
    timeout_s: float | None


class Before(NamedTuple):
    """What earlier starts of a study left in its files: seconds searched, the hypervolume's axes, the finalists."""

    elapsed_s: float
    scales: dict[str, Scale]
    finalists: Finalists


class Progress(NamedTuple):
    """Where a search stands, for whoever shows it."""

    records: list[Record]
    running: int
    trials: int
    elapsed_s: float
    left_s: float | None
    phase: str = SEARCHING


class Stopped(NamedTuple):
    """Why the search ended before its count: a signal's number, or a sentence."""

    signal: int | None
    reason: str | None


def closed_form_metrics(total: Cost) -> dict[str, float]:
    """What is known of an architecture before it is built, by metric."""
    return {"params": total.params, "macs": total.macs, "flops": total.flops}


def cost_of(spec: Any, space: Space, num_classes: int) -> Cost:
    """The cost of `spec` for the clips that the space measures at."""
    return cost(spec, frames=space.input.frames, size=space.input.size, num_classes=num_classes)


def check_feasible(space: Space, num_classes: int, seed: int) -> None:
    """Raises NothingFeasibleError where no sampled architecture passes the limits that closed forms know."""
    rng, reasons = random.Random(seed), Counter[str]()
    least: dict[str, float] = {}
    for _ in range(min(FEASIBILITY_SAMPLES, 4 * space.size())):
        metrics = closed_form_metrics(cost_of(space.candidate(random_pick(rng)).spec, space, num_classes))
        if broken_limit(metrics, space.constraints) is None:
            return
        for key in space.constraints:
            value = metrics.get(LIMITS[key].metric)
            if value is not None:
                least[key] = min(least.get(key, value), value)
        reasons[str(broken_limit(metrics, space.constraints))] += 1
    found = ", ".join(f"the least {k} found is {v / LIMITS[k].scale:.4g} {LIMITS[k].unit}" for k, v in least.items())
    raise NothingFeasibleError(
        f"some architecture must meet {dict(space.constraints)}, got none of {reasons.total()}; {found}"
    )


class Search:
    """A running search. `run()` goes on until the study holds its trials, or it is stopped."""

    def __init__(self, question: Question, means: Means, study: Study, before: Before) -> None:
        self.question, self.means, self.study = question, means, study
        self.records = study.records()
        self.scales, self.finalists = before.scales, before.finalists
        self.phase = SEARCHING
        self._known = {r["spec_id"]: r for r in self.records if r["state"] in (*COUNTED, "refused")}
        self._in_flight: dict[int, tuple[optuna.Trial, Candidate, str]] = {}
        self._start, self._before_s = time.monotonic(), before.elapsed_s
        self._done_before = self.counted
        self._signal: int | None = None

    @property
    def counted(self) -> int:
        return sum(record["state"] in COUNTED for record in self.records)

    @property
    def elapsed_s(self) -> float:
        """Seconds that this study has been searched for, over all its starts."""
        return self._before_s + time.monotonic() - self._start

    def progress(self) -> Progress:
        done = self.counted - self._done_before
        pace = (time.monotonic() - self._start) / done if done else None
        left = None if pace is None else pace * (self.means.trials - self.counted)
        return Progress(self.records, len(self._in_flight), self.means.trials, self.elapsed_s, left, self.phase)

    def run(self, on_change: Callable[["Search"], None]) -> Stopped:
        """Runs until done; `on_change` is called after every trial and at least every half second."""
        executor = LocalExecutor(len(self.means.devices), self.means.timeout_s, evaluate)
        with self._signals():
            try:
                reason = self._loop(executor, on_change)
            finally:
                self._mark_interrupted(executor.stop())
            if self._signal is None:
                self._measure_finalists(on_change)
        return Stopped(self._signal, reason)

    def _measure_finalists(self, on_change: Callable[["Search"], None]) -> None:
        """The full latency protocol for the front and the baselines, once for the same of them."""
        rows = finalists_of(self.front(), self.records)
        if "latency" not in self.question.space.measure or not rows:
            self.finalists = Finalists([], "latency was not measured" if rows else "no trial is complete")
            return
        if [row["trial"] for row in self.finalists.rows] == [row["number"] for row in rows]:
            return
        budget_s = min(EACH_S * len(rows), ALL_S, self._left_s())
        if budget_s <= 0:
            self.finalists = Finalists([], "the budget was spent")
            return

        def poll() -> bool:
            on_change(self)
            return self._signal is None

        self.phase = FINALISTS
        found = measured(self._contest(rows, budget_s), poll)
        self.finalists = Finalists([], found) if isinstance(found, str) else Finalists(rows_of(rows, found), None)

    def _contest(self, rows: Sequence[Mapping[str, Any]], budget_s: float) -> Contest:
        question, device = self.question, self.means.devices[0]
        specs = tuple(ArchSpec.from_dict(row["spec"]) for row in rows)
        turns, protocol = self._turns(device), replace(question.protocol, device=device)
        return Contest(specs, len(question.clips.classes), protocol, turns, budget_s, question.seed)

    def _left_s(self) -> float:
        """Seconds until this start should have ended; infinite where nobody said."""
        if self.means.deadline_s is None:
            return math.inf
        return self.means.deadline_s - (time.monotonic() - self._start)

    def _loop(self, executor: LocalExecutor[Task, Result], on_change: Callable[["Search"], None]) -> str | None:
        reason = None
        while True:
            reason = reason or self._reason_to_stop()
            if self._signal is not None:
                return None
            if reason is None:
                reason = self._fill(executor)
            if not self._in_flight:
                return reason
            for number, result in executor.finished(POLL_S):
                self._tell(number, result)
            on_change(self)

    def _reason_to_stop(self) -> str | None:
        if self.counted + len(self._in_flight) >= self.means.trials:
            return "all trials"
        if len(self._known) + len(self._in_flight) >= self.question.space.size():
            return "the space is exhausted"
        if self.means.deadline_s and self._left_s() <= min(FINALISTS_SHARE * self.means.deadline_s, ALL_S):
            return "the budget is spent"
        return None

    def _fill(self, executor: LocalExecutor[Task, Result]) -> str | None:
        """Gives every free worker a new architecture; says why when there is none to give."""
        skipped = 0
        while executor.free and not (reason := self._reason_to_stop()):
            trial = self.study.ask()
            if self._start_trial(trial, executor):
                continue
            skipped += 1
            if skipped >= MAX_SKIPPED:
                return f"{MAX_SKIPPED} suggestions in a row were refused or repeated"
        return reason if executor.free else None

    def _start_trial(self, trial: optuna.Trial, executor: LocalExecutor[Task, Result]) -> bool:
        """Submits the suggestion, or answers it at once where that needs no training."""
        space = self.question.space
        try:
            candidate = space.candidate(optuna_pick(trial))
        except SpecError as error:
            self._finish(trial, None, "refused", Result("refused", str(error), {}, {}, {}, []))
            return False
        metrics = closed_form_metrics(cost_of(candidate.spec, space, len(self.question.clips.classes)))
        reason = broken_limit(metrics, space.constraints)
        if candidate.spec.id in self._known or candidate.spec.id in self._flying():
            self._repeat(trial, candidate)
        elif reason:
            self._finish(trial, candidate, "refused", Result("refused", reason, metrics, {}, {}, []))
        else:
            device = self._free_device()
            self._in_flight[trial.number] = (trial, candidate, device)
            executor.submit(trial.number, self._task(candidate, device))
            return True
        return False

    def _flying(self) -> set[str]:
        return {candidate.spec.id for _, candidate, _ in self._in_flight.values()}

    def _free_device(self) -> str:
        taken = Counter(device for _, _, device in self._in_flight.values())
        return next(d for d, count in Counter(self.means.devices).items() if taken[d] < count)

    def _task(self, candidate: Candidate, device: str) -> Task:
        question = self.question
        return Task(
            spec=candidate.spec,
            trained=trained_spec(candidate.trained, question.space.recipe),
            num_classes=len(question.clips.classes),
            protocol=replace(question.protocol, device=device),
            measure=question.space.measure,
            constraints=dict(question.space.constraints),
            recipe=question.space.recipe,
            data=question.data,
            seed=question.seed,
            turns=self._turns(device),
            training_threads=self.means.training_threads,
        )

    def _turns(self, device: str) -> Path:
        return self.means.turns / device.replace(":", "-")

    def _tell(self, number: int, result: Result) -> None:
        trial, candidate, _ = self._in_flight.pop(number)
        closed = closed_form_metrics(cost_of(candidate.spec, self.question.space, len(self.question.clips.classes)))
        self._finish(trial, candidate, result.state, result._replace(metrics={**closed, **result.metrics}))

    def _repeat(self, trial: optuna.Trial, candidate: Candidate) -> None:
        """An architecture the study has is not evaluated again: the reason names the trial that was."""
        known = self._known.get(candidate.spec.id)
        if known is None:
            result = Result("repeated", "the architecture is being evaluated", {}, {}, {}, [])
        else:
            result = Result("repeated", f"the architecture of trial {known['number']}", {}, {}, {}, [])
        self._finish(trial, candidate, "repeated", result)

    def _finish(self, trial: optuna.Trial, candidate: Candidate | None, state: str, result: Result) -> None:
        record = self._record(trial, candidate, state, result)
        self.study.tell(trial, record, self.question.space.constraints)
        self._remember(record)

    def _remember(self, record: Record) -> None:
        self.records.append(record)
        if record["spec_id"] is not None and record["state"] in (*COUNTED, "refused"):
            self._known[record["spec_id"]] = record
        self._fix_scales()

    def _record(self, trial: optuna.Trial, candidate: Candidate | None, state: str, result: Result) -> Record:
        return {
            "number": trial.number,
            "state": state,
            "reason": result.reason,
            "spec_id": candidate.spec.id if candidate else None,
            "pattern": candidate.spec.pattern if candidate else None,
            "baseline": trial.user_attrs.get("baseline"),
            "spec": candidate.spec.to_dict() if candidate else None,
            "params": dict(trial.params),
            "metrics": dict(result.metrics),
            "intervals": {key: list(ends) for key, ends in result.intervals.items()},
            "seconds": dict(result.seconds),
            "warnings": list(result.warnings),
            "finished_s": self.elapsed_s,
        }

    def _mark_interrupted(self, numbers: list[int]) -> None:
        for number in numbers:
            trial, candidate, _ = self._in_flight.pop(number)
            result = Result("interrupted", "the search was stopped; queued again", {}, {}, {}, [])
            record = self._record(trial, candidate, "interrupted", result)
            self.study.interrupt(trial, record)
            self.records.append(record)

    def _fix_scales(self) -> None:
        """Fixes the hypervolume's axes once every baseline has ended, or the first ten trials have."""
        if self.scales:
            return
        space = self.question.space
        waited_for = {name for name, _ in space.baseline_picks()}
        ended = {r["baseline"] for r in self.records if r["state"] != "interrupted"}
        rows = [r for r in self.records if r["state"] == "complete" and (r["baseline"] or not waited_for)]
        if not waited_for <= ended and self.counted < 10:
            return
        rows = rows or [r for r in self.records if r["state"] == "complete"]
        if rows:
            self.scales = scales_of(rows, space.objectives, len(self.question.clips.classes))

    def front(self) -> list[Mapping[str, Any]]:
        return front(self.records, self.question.space.objectives)

    def hypervolume(self) -> dict[str, Any]:
        """The hypervolume with its axes and its course, for run.json; null until the axes are fixed."""
        objectives = self.question.space.objectives
        if not self.scales:
            return {"value": None, "scales": {}, "history": [], "reason": "no baseline has ended yet"}
        return {
            "value": hypervolume_of(self.records, objectives, self.scales),
            "scales": {key: scale._asdict() for key, scale in self.scales.items()},
            "history": history(self.records, objectives, self.scales),
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM lets the search stop in order; the second is the system's own."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._signal = number
            signal.signal(number, signal.SIG_DFL)

        old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def sample_candidates(space: Space, count: int, seed: int) -> list[Candidate]:
    """Random architectures of the space; all of them where it is a smaller grid."""
    if space.architectures:
        return list(space.architectures)[:count]
    rng = random.Random(seed)
    return [space.candidate(random_pick(rng)) for _ in range(count)]
