"""The search: one driver asks, workers evaluate, the study is told; files and page are rewritten as it goes."""

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import optuna

from uniformer_bench.errors import SpecError
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.metrics import broken_limit
from uniformer_bench.search.asking import Asker, known_of
from uniformer_bench.search.axes import described, fixed_axes
from uniformer_bench.search.donating import donated, facts_of
from uniformer_bench.search.donors import start_from
from uniformer_bench.search.evaluate import Result, evaluate, without_numbers
from uniformer_bench.search.executors import POLL_S, Crew, Executor, LocalExecutor
from uniformer_bench.search.feasible import closed_form_metrics, cost_of
from uniformer_bench.search.finalists import Clock, Terms, ended, reserve_s
from uniformer_bench.search.flights import Flight, checkpoint_of, donation_of, task_of
from uniformer_bench.search.proposals.proposer import Known
from uniformer_bench.search.question import Before, Means, Question
from uniformer_bench.search.records import Record, joined, record_of
from uniformer_bench.search.retraining import places_of
from uniformer_bench.search.rungs import Climber, losses_at, next_up
from uniformer_bench.search.study import COUNTED, MOST_ORPHANED, Study, optuna_pick
from uniformer_bench.space import Candidate

MAX_SKIPPED = 1000  # refused or repeated in a row: the space is as good as exhausted
SEARCHING, FINALISTS = "searching", "measuring and training the finalists again"
DONATING = "training the donor, of which every trial inherits"
STOPPING = "stopping, the report is written; once more ends it at once"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Progress(NamedTuple):
    """Where a search stands, for whoever shows it."""

    records: list[Record]
    running: int
    paused: int
    trials: int
    elapsed_s: float
    left_s: float | None
    phase: str = SEARCHING


class Stopped(NamedTuple):
    """Why the search ended before its count: a signal's number, or a sentence."""

    signal: int | None
    reason: str | None


class Search:
    """A running search. `run()` goes on until the study holds its trials, or it is stopped."""

    def __init__(
        self,
        question: Question,
        means: Means,
        study: Study,
        before: Before,
        *,
        clock: Callable[[], float] = time.monotonic,
        executor_of: Callable[..., Executor] = LocalExecutor,
    ) -> None:
        self.question, self.means, self.study = question, means, study
        self._clock, self._executor_of = clock, executor_of
        classes = len(question.clips.classes)
        self._asker = Asker(study, question.sampler, question.space, classes, question.seed, means.warm)
        self.records = study.records()
        self.scales, self.finalists = before.scales, before.finalists
        self.phase = SEARCHING
        self.donor: dict[str, Any] | None = None  # what it is, once it is trained
        self._known = {r["spec_id"]: r for r in self.records if r["state"] in (*COUNTED, "refused")}
        self._in_flight: dict[int, Flight] = {}
        self._paused = {
            trial.number: Flight(trial, question.space.candidate(optuna_pick(trial)), means.devices[0], record)
            for trial, record in study.paused()
        }
        self._start, self._before_s = self._clock(), before.elapsed_s
        self._done_before = self.counted
        self._signal: int | None = None

    @property
    def counted(self) -> int:
        return sum(record["state"] in COUNTED for record in self.records)

    @property
    def elapsed_s(self) -> float:
        """Seconds that this study has been searched for, over all its starts."""
        return self._before_s + self._clock() - self._start

    def progress(self) -> Progress:
        done = self.counted - self._done_before
        pace = (self._clock() - self._start) / done if done else None
        left = None if pace is None else pace * (self.means.trials - self.counted)
        return Progress(
            self.records, len(self._in_flight), len(self._paused), self.means.trials, self.elapsed_s, left, self.phase
        )

    def hypervolume(self) -> dict[str, Any]:
        """The hypervolume with its axes and its course, for run.json; null until the axes are fixed."""
        return described(self.records, self.question.space.objectives, self.scales)

    def run(self, on_change: Callable[["Search"], None]) -> Stopped:
        """Runs until done; `on_change` is called after every trial and at least every half second."""
        self._sweep()
        one_thread = thread_count(1)  # a second one would take a worker's core for the sampler's small sums
        with self._signals(), one_thread, Crew(len(self.means.devices)) as crew:
            self._train_donor(crew, on_change)
            reason = self._search(crew, on_change)
            if self._signal is None:
                self._measure_finalists(crew, on_change)
        return Stopped(self._signal, reason)

    def _search(self, crew: Crew, on_change: Callable[["Search"], None]) -> str | None:
        executor = self._executor_of(crew, self.means.timeout_s, evaluate)
        try:
            return self._loop(executor, on_change)
        finally:
            self._mark_interrupted(executor.stop())

    def _train_donor(self, crew: Crew, on_change: Callable[["Search"], None]) -> None:
        """Has the space's donor trained, unless it is, and every trial start from it."""
        if self.means.donor is None:
            return
        self.phase = DONATING
        if donated(donation_of(self.means.donor, self.question, self.means), crew, self._polling(on_change)):
            self.question = self.question._replace(start=start_from(self.means.donor))
            self.donor = facts_of(self.means.donor)
        self.phase = SEARCHING if self._signal is None else STOPPING

    def _polling(self, on_change: Callable[["Search"], None]) -> Callable[[], bool]:
        def poll() -> bool:
            on_change(self)
            return self._signal is None

        return poll

    def give_up(self, trials: Iterable[optuna.Trial]) -> None:
        """Ends trials that ran each time that a driver died, and may be why."""
        for trial in trials:
            candidate = self.question.space.candidate(optuna_pick(trial))
            reason = f"the search's driver died {MOST_ORPHANED + 1} times while this ran, so it is not tried again"
            self._finish(trial, candidate, without_numbers("crashed", reason))

    def _measure_finalists(self, crew: Crew, on_change: Callable[["Search"], None]) -> None:
        self.phase = FINALISTS
        clock = Clock(self._left_s, self._polling(on_change))
        self.finalists = ended(self.records, self.finalists, self._terms(crew), clock)

    def _terms(self, crew: Crew) -> Terms:
        question, means = self.question, self.means
        return Terms(
            space=question.space,
            clips=question.clips,
            data=question.data,
            protocol=question.protocol,
            seed=question.seed,
            start=question.start,
            seeds=means.finalist_seeds,
            places=places_of(means.devices, means.turns),
            crew=crew,
            training_threads=means.training_threads,
            timeout_s=means.timeout_s,
        )

    def _left_s(self) -> float:
        """Seconds until this start should have ended; infinite where nobody said."""
        if self.means.deadline_s is None:
            return math.inf
        return self.means.deadline_s - (self._clock() - self._start)

    def _loop(self, executor: Executor, on_change: Callable[["Search"], None]) -> str | None:
        reason = None
        while self._signal is None:
            self._promote(executor)
            reason = reason or self._fill(executor)
            if not self._in_flight and self._signal is None:
                self._prune_paused()
                return reason
            for number, result in executor.finished(POLL_S):
                self._tell(number, result)
            on_change(self)
        return None

    def _reason_to_stop(self) -> str | None:
        begun = len(self._in_flight) + len(self._paused)
        if self.counted + begun >= self.means.trials:
            return "all trials"
        if len(self._known) + begun >= self.question.space.size():
            return "the space is exhausted"
        return "the budget is spent" if self._spent() else None

    def _spent(self) -> bool:
        means, limit_s = self.means, self.means.deadline_s
        if limit_s is None:
            return False
        return self._left_s() <= reserve_s(limit_s, self.records, means.finalist_seeds, len(means.devices))

    def _fill(self, executor: Executor) -> str | None:
        """Gives every free worker a new architecture; says why when there is none to give."""
        skipped = 0
        while executor.free and self._signal is None:
            if reason := self._reason_to_stop():
                return reason
            trial = self._asker.next(self._trials(), {*self._known, *self._flying()}, self.scales)
            if trial is None:
                return "the space is exhausted"
            if not self._start_trial(trial, executor):
                skipped += 1
            if skipped >= MAX_SKIPPED:
                return f"{MAX_SKIPPED} suggestions in a row were refused or repeated"
        return None

    def _trials(self) -> list[Known]:
        """Every trial as the sampler knows it, those on their way too."""
        ended = [record for record in self.records if record["state"] in COUNTED and record["params"]]
        flying = [*self._in_flight.values(), *self._paused.values()]
        begun = [known_of(flight.record) for flight in flying if flight.record]
        new = [
            Known(f.trial.number, dict(f.trial.params), self._closed_form(f.candidate)) for f in flying if not f.record
        ]
        return [*map(known_of, ended), *begun, *new]

    def _promote(self, executor: Executor) -> None:
        """Gives free workers the paused trials whose turn it is to go on."""
        while executor.free and not self._spent() and (number := self._next_up()) is not None:
            self._launch(self._paused.pop(number), executor)

    def _launch(self, flight: Flight, executor: Executor) -> None:
        flight = flight._replace(device=self._free_device())
        self._in_flight[flight.trial.number] = flight
        executor.submit(flight.trial.number, task_of(flight, self.question, self.means))

    def _next_up(self) -> int | None:
        halving = self.question.space.halving
        for rung in reversed(range(len(halving.rungs))):
            number = next_up(self._climbers(rung), halving.keep, self._outlook)
            if number is not None:
                return number
        return None

    def _outlook(self, waiting: Sequence[int]) -> Mapping[int, float]:
        return self._asker.outlook(self._trials(), waiting, self.scales)

    def _climbers(self, rung: int) -> list[Climber]:
        """All that reached this rung; one that has ended there takes a place and goes nowhere."""
        begun = [flight.record for flight in (*self._in_flight.values(), *self._paused.values()) if flight.record]
        reached = [record for record in (*self.records, *begun) if len(record["rungs"]) > rung]
        waiting = {number for number, flight in self._paused.items() if len(flight.rungs) == rung + 1}
        keys = self.question.space.objectives
        return [Climber(row["number"], losses_at(row, rung, keys), row["number"] not in waiting) for row in reached]

    def _prune_paused(self) -> None:
        """Ends what is still paused when nothing goes on any more."""
        for number, flight in sorted(self._paused.items()):
            share = flight.rungs[-1]["share"]
            reason = f"stopped at {share:.0%} of the short run: of those that cost as little, others had learnt more"
            self._close(flight.trial, {**(flight.record or {}), "state": "pruned", "reason": reason})
            checkpoint_of(number, self.means).unlink(missing_ok=True)
        self._paused.clear()

    def _start_trial(self, trial: optuna.Trial, executor: Executor) -> bool:
        """Submits the suggestion, or answers it at once where that needs no training."""
        space = self.question.space
        try:
            candidate = space.candidate(optuna_pick(trial))
        except SpecError as error:
            self._finish(trial, None, without_numbers("refused", str(error)))
            return False
        reason = broken_limit(self._closed_form(candidate), space.constraints)
        if candidate.id in self._known or candidate.id in self._flying():
            self._repeat(trial, candidate)
        elif reason:
            self._finish(trial, candidate, without_numbers("refused", reason))
        else:
            self._launch(Flight(trial, candidate, ""), executor)
            return True
        return False

    def _closed_form(self, candidate: Candidate) -> dict[str, float]:
        question = self.question
        return closed_form_metrics(cost_of(candidate, question.space, len(question.clips.classes)))

    def _flying(self) -> set[str]:
        return {flight.candidate.id for flight in (*self._in_flight.values(), *self._paused.values())}

    def _free_device(self) -> str:
        taken = Counter(flight.device for flight in self._in_flight.values())
        places = Counter(self.means.devices).items()
        return next((d for d, count in places if taken[d] < count), self.means.devices[0])  # a cluster has more

    def _tell(self, number: int, result: Result) -> None:
        flight = self._in_flight.pop(number)
        record = joined(flight.record, self._record(flight.trial, flight.candidate, result))
        if result.state == "paused":
            self.study.pause(flight.trial, record)
            self._paused[number] = flight._replace(record=record)
            return
        checkpoint_of(number, self.means).unlink(missing_ok=True)
        self._close(flight.trial, record)

    def _repeat(self, trial: optuna.Trial, candidate: Candidate) -> None:
        """An architecture the study has is not evaluated again: the reason names the trial that was."""
        known = self._known.get(candidate.id)
        where = f"of trial {known['number']}" if known else "is being evaluated"
        self._finish(trial, candidate, without_numbers("repeated", f"the architecture {where}"))

    def _finish(self, trial: optuna.Trial, candidate: Candidate | None, result: Result) -> None:
        self._close(trial, self._record(trial, candidate, result))

    def _close(self, trial: optuna.Trial, record: Record) -> None:
        self.study.tell(trial, record, self.question.space.constraints)
        self.records.append(record)
        if record["spec_id"] is not None and record["state"] in (*COUNTED, "refused"):
            self._known[record["spec_id"]] = record
        if not self.scales:
            self.scales = fixed_axes(self.records, self.question.space, len(self.question.clips.classes))

    def _record(self, trial: optuna.Trial, candidate: Candidate | None, result: Result) -> Record:
        closed = self._closed_form(candidate) if candidate else {}
        return record_of(trial, candidate, result._replace(metrics=closed | result.metrics), self.elapsed_s)

    def _mark_interrupted(self, numbers: list[int]) -> None:
        """What was cut short is queued again; what had paused before lies where it paused."""
        for number in numbers:
            flight = self._in_flight.pop(number)
            if flight.record:
                self._paused[number] = flight
                continue
            result = without_numbers("interrupted", "the search was stopped; queued again")
            record = self._record(flight.trial, flight.candidate, result)
            self.study.interrupt(flight.trial, record)
            self.records.append(record)

    def _sweep(self) -> None:
        """Removes what an earlier start left and nobody goes on from: checkpoints of workers that ended before they had
        told, or while they wrote. Not at an end: a pause that the storage did not take has its checkpoint still."""
        kept = {checkpoint_of(number, self.means) for number in self._paused}
        for path in set(self.means.checkpoints.glob("*.pt*")) - kept:
            path.unlink()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM lets the search stop in order; the second is the system's own."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._signal, self.phase = number, STOPPING
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)

        old = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
