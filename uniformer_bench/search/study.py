"""What a search remembers: an Optuna study, each trial with its record as plain data.

The record, kept in the trial's user attributes, is the truth; trials.csv, front.json and the page are made
from it. Optuna is told COMPLETE where all objectives are known, and PRUNED with a broken constraint for
what failed, so that the sampler learns from it. FAIL, which samplers ignore, is for what teaches nothing:
a trial cut short, which is queued again, and a repeated one, which told twice would draw the next to itself.
"""

import datetime
import json
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from uniformer_bench.errors import SpecError, UbenchError
from uniformer_bench.metrics import LIMITS, METRICS
from uniformer_bench.search.storage import claim, open_storage
from uniformer_bench.space import Choice, Domain, Pick, Space

COUNTED = ("complete", "pruned", "infeasible", "oom", "diverged", "timeout", "crashed")
UNCOUNTED = ("refused", "repeated", "interrupted")
RECORD, START = "record", "start"  # attributes: what is known of a trial, its index in the quasi-random start
FAILED = ("oom", "diverged", "timeout", "crashed")
BASELINE, AGAIN_OF, ORPHANED = "baseline", "again_of", "orphaned"  # more of a trial's attributes
MOST_ORPHANED = 2  # times that what a dead driver left running is queued again
MODEL = "model"  # our own, in search/proposals; the others are Optuna's
SAMPLERS = (MODEL, "tpe", "nsga2", "gp", "random")


def sampler_of(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler with the settings that suit a few hundred trials of a conditional, discrete space."""
    with warnings.catch_warnings():  # multivariate and grouped TPE are experimental by name, and the best there is
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _sampler(name, seed)


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, n_startup_trials=20, constant_liar=False
        )
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=20)
    if name in ("random", MODEL):  # the latter is ours: Optuna is asked for nothing but to store
        return optuna.samplers.RandomSampler(seed=seed)
    raise UbenchError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")


class Study:
    """An Optuna study under the names of this project."""

    def __init__(self, storage: str, name: str, objectives: tuple[str, ...], sampler: str, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.objectives = objectives
        directions = [METRICS[key].direction for key in objectives]
        self._storage = open_storage(storage)
        self._claim = claim(self._storage, name)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            directions=directions,  # type: ignore[arg-type]  # metrics hold plain strings
            load_if_exists=True,
        )
        trials = self._study.get_trials(deepcopy=False)
        self._queued = sum(trial.state is TrialState.WAITING for trial in trials)
        self._begun = 1 + max((trial.user_attrs.get(START, -1) for trial in trials), default=-1)
        # A sampler's stream starts anew on a resume: another seed, or it would repeat its first suggestions.
        self._study.sampler = sampler_of(sampler, seed + len(trials))

    def close(self) -> None:
        """Lets go of the storage."""
        if self._claim:
            self._claim.close()
        self._storage.engine.dispose()

    def records(self) -> list[dict[str, Any]]:
        """The record of every trial that has one, in order of number."""
        trials = self._study.get_trials(deepcopy=False)
        return [json.loads(t.user_attrs[RECORD]) for t in trials if RECORD in t.user_attrs and t.state.is_finished()]

    def paused(self) -> list[tuple[optuna.Trial, dict[str, Any]]]:
        """The trials that wait at a rung, with their records so far."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        waiting = [trial for trial in running if RECORD in trial.user_attrs]
        return [(self._trial(trial), json.loads(trial.user_attrs[RECORD])) for trial in waiting]

    def pause(self, trial: optuna.Trial, record: dict[str, Any]) -> None:
        """Keeps what is known of a trial that waits at a rung; samplers are told when it ends."""
        trial.set_user_attr(RECORD, json.dumps(record, allow_nan=False))

    def identity(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """What this study was begun to ask: `identity` where it is new."""
        if "identity" not in self._study.user_attrs:
            self._study.set_user_attr("identity", dict(identity))
        return self._study.user_attrs["identity"]

    def enqueue(self, picks: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Queues architectures, each with a name, to be suggested before all others; those it has are left out."""
        known = {trial.user_attrs.get(BASELINE) for trial in self._study.get_trials(deepcopy=False)}
        for name, values in picks:
            if name not in known:
                self._queue(values, {BASELINE: name})

    def restore(self, space: Space, records: Iterable[dict[str, Any]]) -> None:
        """Fills an empty study from records, each under its number; a number without one is a trial that was lost."""
        assert not self._study.get_trials(deepcopy=False), "only an empty study is filled"
        by_number = {record["number"]: record for record in records}
        sampler, self._study.sampler = self._study.sampler, optuna.samplers.RandomSampler(seed=0)
        for number in range(1 + max(by_number, default=-1)):
            self._restore_one(space, by_number.get(number))
        self._study.sampler = sampler
        self._begun = sum(not record["baseline"] for record in by_number.values())  # at most: the rest is the model's
        told = [record["params"] for record in by_number.values() if record["state"] != "interrupted"]
        for record in by_number.values():
            if record["state"] == "interrupted" and record["params"] not in told:
                self._queue(record["params"], {BASELINE: record["baseline"]} if record["baseline"] else {})

    def _restore_one(self, space: Space, record: dict[str, Any] | None) -> None:
        if record is None:
            self._study.tell(self._study.ask(), state=TrialState.FAIL)
            return
        attributes = {BASELINE: record["baseline"]} if record["baseline"] else {}
        self._study.enqueue_trial(record["params"], user_attrs=attributes)
        trial = self._study.ask()
        with suppress(SpecError):  # as when it was refused
            space.candidate(optuna_pick(trial))
        if record["state"] == "paused":
            self.pause(trial, record)
        elif record["state"] == "interrupted":
            trial.set_user_attr(RECORD, json.dumps(record, allow_nan=False))
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self.tell(trial, record, space.constraints)

    @property
    def is_empty(self) -> bool:
        return not self._study.get_trials(deepcopy=False)

    def recover(self, constraints: Mapping[str, float]) -> list[optuna.Trial]:
        """Ends in order what a dead driver left running: what it was about to tell is told, what ran is queued again.

        Gives the trials that were orphaned too often for that, which are still to be closed. What is paused stays so.
        """
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [self._trial(orphan) for orphan in running if not self._recovered(orphan, constraints)]

    def _recovered(self, orphan: optuna.trial.FrozenTrial, constraints: Mapping[str, float]) -> bool:
        record = json.loads(orphan.user_attrs.get(RECORD, "null"))
        if record is None:
            times = orphan.user_attrs.get(ORPHANED, 0) + 1
            if times > MOST_ORPHANED:
                return False
            self._queue_again(orphan, {ORPHANED: times})
        elif record["state"] == "interrupted":
            self.interrupt(self._trial(orphan), record)
        elif record["state"] != "paused":
            self.tell(self._trial(orphan), record, constraints)
        return True

    def _queue_again(self, trial: optuna.trial.FrozenTrial, attributes: Mapping[str, Any]) -> None:
        """Queues it once, then ends it: were it the other way round, a kill in between would lose it."""
        params = trial.system_attrs.get("fixed_params", {}) | trial.params
        queued = {other.user_attrs.get(AGAIN_OF) for other in self._study.get_trials(deepcopy=False)}
        if params and trial.number not in queued:
            kept = {key: trial.user_attrs[key] for key in (BASELINE, ORPHANED) if key in trial.user_attrs}
            self._queue(params, {**kept, **attributes, AGAIN_OF: trial.number})
        self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _trial(self, frozen: optuna.trial.FrozenTrial) -> optuna.Trial:
        return optuna.Trial(self._study, frozen._trial_id)

    @property
    def waits(self) -> bool:
        """Whether something is queued."""
        return self._queued > 0

    @property
    def begun(self) -> int:
        """How many points of the quasi-random start have been asked for, in all the starts of this study."""
        return self._begun

    def ask(self) -> optuna.Trial:
        """What is queued, or else what Optuna's sampler suggests."""
        self._queued = max(0, self._queued - 1)
        return self._study.ask()

    def ask_for(
        self, params: Mapping[str, Any], domains: Mapping[str, Domain], start: int | None = None
    ) -> optuna.Trial:
        """A trial of these parameters, picked from these domains; the point `start` of the quasi-random start.

        It is stored at once and whole. Optuna's queue would read all that runs or waits and write value by value:
        with a hundred paused trials a tenth of a second.
        """
        distributions = {name: distribution_of(domain) for name, domain in domains.items()}
        attributes = {} if start is None else {START: start}
        template = optuna.trial.FrozenTrial(
            number=-1,  # the storage gives it
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.datetime.now(),
            datetime_complete=None,
            params=dict(params),
            distributions=distributions,
            user_attrs=attributes,
            system_attrs={},
            intermediate_values={},
        )
        self._begun = self._begun if start is None else start + 1
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return optuna.Trial(self._study, self._storage.create_new_trial(study_id, template))

    def interrupt(self, trial: optuna.Trial, record: dict[str, Any]) -> None:
        """Marks a trial as cut short, and queues its architecture again."""
        trial.set_user_attr(RECORD, json.dumps(record, allow_nan=False))
        self._queue_again(self._study.get_trials(deepcopy=False)[trial.number], {})

    def _queue(self, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        self._study.enqueue_trial(dict(params), user_attrs=dict(attributes))
        self._queued += 1

    def tell(self, trial: optuna.Trial, record: dict[str, Any], constraints: Mapping[str, float]) -> None:
        """Stores a finished trial and teaches the sampler. A limit breaks by its relative excess.

        Raises UbenchError where another process has taken over the study meanwhile.
        """
        if self._claim:
            self._claim.hold()
        trial.set_user_attr(RECORD, json.dumps(record, allow_nan=False))
        metrics = record["metrics"]
        for key, limit in constraints.items():
            value = metrics.get(LIMITS[key].metric)
            trial.set_constraint(key, 0.0 if value is None else value / (limit * LIMITS[key].scale) - 1)
        trial.set_constraint("failed", 1.0 if record["state"] in FAILED else 0.0)
        values = [metrics.get(key) for key in self.objectives]
        if record["state"] == "complete" and None not in values:
            self._study.tell(trial, values)
        else:
            self._study.tell(trial, state=TrialState.FAIL if record["state"] == "repeated" else TrialState.PRUNED)


def distribution_of(domain: Domain) -> optuna.distributions.BaseDistribution:
    """A choice by its options' labels, a range by its numbers."""
    if isinstance(domain, Choice):
        return optuna.distributions.CategoricalDistribution(domain.labels)
    if all(isinstance(bound, int) for bound in domain):
        return optuna.distributions.IntDistribution(int(domain.low), int(domain.high), step=int(domain.step))
    return optuna.distributions.FloatDistribution(domain.low, domain.high, step=domain.step)


def optuna_pick(trial: optuna.Trial) -> Pick:
    """Suggestions of `trial`, of what `distribution_of` has."""

    def pick(name: str, domain: Domain) -> Any:
        if isinstance(domain, Choice):
            return domain.options[domain.labels.index(trial.suggest_categorical(name, domain.labels))]
        if all(isinstance(bound, int) for bound in domain):
            return trial.suggest_int(name, int(domain.low), int(domain.high), step=int(domain.step))
        return trial.suggest_float(name, domain.low, domain.high, step=domain.step)

    return pick


def sqlite_url(run: Path) -> str:
    """Where a run's study lies unless a storage is named."""
    return f"sqlite:///{run.resolve() / 'study.db'}"
