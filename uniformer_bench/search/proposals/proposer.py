"""What to try next: a quasi-random start, then the candidate that is expected to add most to the front.

Costs that closed forms know are known of a candidate; latency, memory and energy are believed by a model each, and
accuracy by one that has the losses at the rungs as outputs of their own, so that a paused trial teaches too.
What is taken for the front is what the model believes of the trials, not what one run of each came to.
"""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm, qmc

from uniformer_bench.metrics import LIMITS, broken_limit
from uniformer_bench.search.feasible import closed_form_metrics, cost_of
from uniformer_bench.search.pareto import Scale, front_of, to_losses
from uniformer_bench.search.proposals.candidates import (
    QuasiRandom,
    Suggestion,
    neighbour,
    random_suggestions,
    suggestion,
)
from uniformer_bench.search.proposals.features import Standard, features
from uniformer_bench.search.proposals.gaussian import Belief, Parameters, Process, Seen
from uniformer_bench.search.proposals.improvement import directions, expected_improvement
from uniformer_bench.space import Space, stored_pick

START, WARM_START = 20, 5  # suggestions of the quasi-random sequence, without and with another study's trials
POOL, MOST = 1024, 2048  # candidates to begin with, and at most
RARE = 8  # where less than one in so many keeps to the limits, so many times more are drawn
PARENTS, CHILDREN = 6, 6  # each suggestion looks at so many neighbours of each of the best so many
MOST_TRIALS = 512  # that a model is made of
DRAWS = 16  # of what a candidate may come to
REFIT = 10  # new values between two fits of a model's parameters, or an eighth of what it had where that is more
CLOSED = ("params", "macs", "flops")  # what closed forms know
HERE, ELSEWHERE, RUNG = 0, 1, 2  # outputs of a model: this study's values, another's, and losses from the first rung on
FAILURE = "failure"  # the model of what fails: 0 for what did not, 1 for what did


class Known(NamedTuple):
    """What is known of a trial: its parameters, the metrics it has, its training losses by rung, and how it went."""

    number: int
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    rungs: tuple[float, ...] = ()
    failed: bool = False
    counts: bool = True  # it is on the way to the front or has arrived: neither stopped nor failed
    elsewhere: frozenset[str] = frozenset()  # metrics measured under other terms, which are an output of their own


class _Row(NamedTuple):
    """A candidate as the models see it."""

    found: Suggestion
    x: np.ndarray
    closed: dict[str, float]


class Proposer:
    """Suggests. It keeps what is dear to make, candidates and fitted parameters, and nothing that a study does not
    give again."""

    def __init__(self, space: Space, num_classes: int, seed: int, warm: Sequence[Known] = ()) -> None:
        self._space, self._num_classes, self._warm = space, num_classes, tuple(warm)
        self._start = QuasiRandom(space, seed)
        self._rng = random.Random(seed)
        self._along = directions(len(space.objectives), seed)
        self._normal = _normal(len(space.objectives), seed)
        self._fits: dict[str, tuple[int, Parameters]] = {}  # by metric: how much was seen, and what was fitted to it
        self._last: tuple[list[Known], dict[str, Process]] = ([], {})  # the models of these trials
        self._known: dict[int, _Row] = {}  # rows of trials by number
        self._rows: dict[str, _Row] = {}
        draws = random_suggestions(space, self._rng)
        sample = list(itertools.islice(draws, min(POOL, 4 * space.size())))
        rows = [self._row(found) for found in sample]
        self._standard = Standard(np.array([row.x for row in rows]))
        self._take(rows)
        self._take(self._row_of(trial) for trial in self._warm)
        self._add(itertools.islice(draws, RARE * POOL) if len(self._rows) < POOL // RARE else ())

    def first(self, index: int) -> Suggestion | None:
        """The point of that index of the quasi-random start; None where its values do not go together."""
        return self._start(index)

    def propose(self, trials: Sequence[Known], taken: set[str], scales: Mapping[str, Scale]) -> Suggestion | None:
        """The candidate that is expected to add most to the front, none of those `taken` (by id).

        None where there is none left. `scales` are the hypervolume's axes.
        """
        models = self._models(trials)
        front = self._front(models, trials, scales)
        worth = dict(zip(self._rows, self._worth(models, [*self._rows.values()], front, scales), strict=True))
        best = sorted(worth, key=worth.__getitem__, reverse=True)[:PARENTS]
        new = self._add(found for key in best for found in self._neighbours(self._rows[key].found.params))
        more = self._worth(models, [self._rows[key] for key in new], front, scales)
        worth |= dict(zip(new, more, strict=True))
        free = [key for key in worth if key not in taken]
        chosen = max(free, key=worth.__getitem__, default=None)
        found = self._rows[chosen].found if chosen else None
        self._rows = {key: self._rows[key] for key in sorted(worth, key=worth.__getitem__, reverse=True)[:MOST]}
        return found

    def outlook(self, trials: Sequence[Known], numbers: Sequence[int], scales: Mapping[str, Scale]) -> dict[int, float]:
        """What each of these trials is expected to add to what the others have reached, if it goes on to its end."""
        models = self._models(trials)
        waiting = [trial for trial in trials if trial.number in numbers]
        front = self._front(models, [trial for trial in trials if trial.number not in numbers], scales)
        rows = [self._row_of(trial) for trial in waiting]
        worth = self._worth(models, rows, front, scales, waiting)
        return {trial.number: float(value) for trial, value in zip(waiting, worth, strict=True)}

    # ------------------------------------------------------------ candidates

    def _row(self, found: Suggestion) -> _Row:
        cost = cost_of(found.candidate, self._space, self._num_classes)
        frames, size = self._space.clip_of(found.candidate)
        return _Row(found, features(found.candidate.spec, cost, frames, size), closed_form_metrics(cost))

    def _row_of(self, trial: Known) -> _Row:
        if trial.number not in self._known:
            found = suggestion(self._space, stored_pick(trial.params))
            assert found is not None, "a trial's values have gone together once"
            self._known[trial.number] = self._row(found)
        return self._known[trial.number]

    def _add(self, found: Iterable[Suggestion]) -> list[str]:
        """Takes up what closed forms do not refuse and is not there yet; gives the new ones' keys."""
        unseen = {each.candidate.id: each for each in found if each.candidate.id not in self._rows}
        return self._take(self._row(each) for each in unseen.values())

    def _take(self, rows: Iterable[_Row]) -> list[str]:
        kept = [row for row in rows if broken_limit(row.closed, self._space.constraints) is None]
        new = {row.found.candidate.id: row for row in kept}
        self._rows |= new
        return list(new)

    def _neighbours(self, params: Mapping[str, Any]) -> Iterator[Suggestion]:
        for _ in range(CHILDREN):
            if (found := neighbour(self._space, params, self._rng)) is not None:
                yield found

    # ------------------------------------------------------------ beliefs

    def _models(self, trials: Sequence[Known]) -> dict[str, Process]:
        """A model of every objective and limit that closed forms do not know, and of failures where there are any."""
        told = [*self._warm, *_remembered([trial for trial in trials if _tells(trial)], self._space.objectives)]
        if told and told == self._last[0]:  # what only began changes no model: many can be asked for at once
            return self._last[1]
        limited = [LIMITS[key].metric for key in self._space.constraints]
        keys = [key for key in dict.fromkeys((*self._space.objectives, *limited)) if key not in CLOSED]
        seen = {key: self._seen(key, told) for key in keys}
        if any(trial.failed for trial in told):
            seen[FAILURE] = self._seen(FAILURE, told)
        self._last = told, {key: self._fitted(key, values) for key, values in seen.items() if len(values.y)}
        return self._last[1]

    def _fitted(self, key: str, seen: Seen) -> Process:
        outputs = int(seen.output.max()) + 1
        count, parameters = self._fits.get(key, (0, None))
        same = parameters is not None and parameters.factors.shape[1] == outputs
        due = not same or len(seen.y) - count >= max(REFIT, count // 8)
        process = Process(seen, outputs, parameters if same else None, fitted=due)
        if due:
            self._fits[key] = (len(seen.y), process.parameters)
        return process

    def _seen(self, key: str, trials: Sequence[Known]) -> Seen:
        """Values with their outputs: 0 is what is wanted, then come those that are there to learn from."""
        values = [(trial, output, y) for trial in trials for output, y in _values(key, trial)]
        outputs = sorted({HERE, *(output for _, output, _ in values)})
        return Seen(
            self._x([self._row_of(trial) for trial, _, _ in values]),
            np.array([outputs.index(output) for _, output, _ in values], dtype=np.int64),
            np.array([trial.number for trial, _, _ in values], dtype=np.int64),
            np.array([y for _, _, y in values], dtype=float),
        )

    def _x(self, rows: Sequence[_Row]) -> np.ndarray:
        """(N, D) standardised features; N may be 0."""
        return self._standard(np.array([row.x for row in rows]).reshape(len(rows), self._standard.kept.size))

    def _beliefs(
        self, models: Mapping[str, Process], rows: Sequence[_Row], of: Sequence[Known] | None = None
    ) -> dict[str, Belief]:
        """What is believed of each row by metric; of these trials as they run, where `of` names them."""
        x = self._x(rows)
        run = None if of is None else np.array([trial.number for trial in of], dtype=np.int64)
        found = {key: model.believe(x, 0, run if key == "accuracy" else None) for key, model in models.items()}
        for key in CLOSED:
            found[key] = Belief(np.log([row.closed[key] for row in rows]), np.zeros(len(rows)))
        return found

    def _front(self, models: Mapping[str, Process], trials: Sequence[Known], scales: Mapping[str, Scale]) -> np.ndarray:
        """(F, M) losses: what is believed of the trials that count."""
        rows = [self._row_of(trial) for trial in trials if trial.counts]
        if not rows:
            return np.ones((0, len(self._space.objectives)))
        return self._losses(self._beliefs(models, rows), np.zeros(len(self._space.objectives)), scales)

    def _worth(
        self,
        models: Mapping[str, Process],
        rows: Sequence[_Row],
        front: np.ndarray,
        scales: Mapping[str, Scale],
        of: Sequence[Known] | None = None,
    ) -> np.ndarray:
        """The expected improvement of each row, times the probability that it keeps to the limits and does not fail."""
        if not rows:
            return np.zeros(0)
        beliefs = self._beliefs(models, rows, of)
        draws = np.array([self._losses(beliefs, normal, scales) for normal in self._normal])
        return expected_improvement(draws, front, self._along) * self._allowed(beliefs)

    def _losses(self, beliefs: Mapping[str, Belief], normal: np.ndarray, scales: Mapping[str, Scale]) -> np.ndarray:
        """(N, M) on the hypervolume's axes: each objective so many deviations from its mean; what nobody has a value of
        yet, as accuracy where limits ended every trial, stands in the middle of its axis."""
        columns = []
        for key, deviations in zip(self._space.objectives, normal, strict=True):
            if key not in beliefs:
                columns.append(np.full(len(beliefs["macs"].mean), 0.5))
                continue
            value, scale = beliefs[key].mean + deviations * beliefs[key].deviation, scales[key]
            ends = [math.log(end) if scale.log else end for end in (scale.best, scale.worst)]
            columns.append(np.clip((value - ends[0]) / (ends[1] - ends[0]), 0, None))
        return np.stack(columns, 1)

    def _allowed(self, beliefs: Mapping[str, Belief]) -> np.ndarray:
        """The probability of each row to break no limit and not to fail."""
        allowed = np.ones(len(beliefs["macs"].mean))
        for key, limit in self._space.constraints.items():
            row = LIMITS[key]
            if row.metric in beliefs and row.metric not in CLOSED:
                belief = beliefs[row.metric]
                allowed *= norm.cdf((math.log(limit * row.scale) - belief.mean) / np.clip(belief.deviation, 1e-9, None))
        if FAILURE in beliefs:
            allowed *= np.clip(1 - beliefs[FAILURE].mean, 0.0, 1.0)
        return allowed


def _tells(trial: Known) -> bool:
    """Whether anything is known of it that was not when it began."""
    return trial.failed or bool(trial.rungs) or any(key not in CLOSED for key in trial.metrics)


def _remembered(trials: Sequence[Known], objectives: Sequence[str]) -> list[Known]:
    """What the models are made of, as their sums grow with its cube: all trials, or of many the newest, the front of
    the others, and an even share of what is left."""
    if len(trials) <= MOST_TRIALS:
        return list(trials)
    older, newest = trials[: -MOST_TRIALS // 2], trials[-MOST_TRIALS // 2 :]
    ended = [trial for trial in older if trial.counts and all(key in trial.metrics for key in objectives)]
    points = [to_losses(objectives, [trial.metrics[key] for key in objectives]) for trial in ended]
    best = {ended[i].number for i in front_of(points)}
    rest, room = [trial for trial in older if trial.number not in best], max(0, MOST_TRIALS // 2 - len(best))
    kept = best | {rest[i * len(rest) // room].number for i in range(room)}
    return [*(trial for trial in older if trial.number in kept), *newest]


def _values(key: str, trial: Known) -> Iterator[tuple[int, float]]:
    """What a trial says of a metric: (output, value)."""
    if key == FAILURE:
        yield HERE, float(trial.failed)
    elif key in trial.metrics:
        value = trial.metrics[key]
        yield ELSEWHERE if key in trial.elsewhere else HERE, value if key == "accuracy" else math.log(value)
    if key == "accuracy":
        yield from ((RUNG + i, -loss) for i, loss in enumerate(trial.rungs))


def _normal(axes: int, seed: int) -> np.ndarray:
    """(DRAWS, axes) numbers of a normal distribution, spread evenly: the same for all candidates."""
    return np.asarray(norm.ppf(qmc.Sobol(axes, seed=seed).random(DRAWS) * (1 - 1e-9) + 5e-10))
