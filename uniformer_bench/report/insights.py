"""What a change does to accuracy and to cost, all other choices held: sentences from a regression over the trials.

Least squares of a metric on all choices at once, costs as logarithms, with standard errors for unequal noise (HC3,
MacKinnon and White 1985). The intervals are simultaneous: a wild bootstrap over trials gives the largest deviation of
any change in its own standard errors (max-t, Romano and Wolf 2005), which sets the width of all, so that with 95 %
confidence all intervals of quality and cost hold together, and noise is seldom said to be a finding.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from uniformer_bench.metrics import METRICS
from uniformer_bench.report.choices import Change, Choices, choices
from uniformer_bench.report.effects import is_relative
from uniformer_bench.report.info import COUNTED, Axes, Trial, choose_axes, gain, read_trials
from uniformer_bench.report.text import plural, signed
from uniformer_bench.runs import Run

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

LEAST_TRIALS = 20
TRIALS_A_COLUMN = 2  # of the regression, at least; else the choices below are left out, in this order
LEFT_OUT = {"dpe_kernel": "DPE", "kernel": "tubes", "ffn": "FFN"}
RESAMPLES = 500
TOLD_WITHIN = 50.0  # on a logarithm: what may be a factor of e^50 is not told by the trials, and exp() of more fails
CONFIDENCE = 0.975  # of one metric's intervals together; of quality's and cost's it is 95 %


class Estimate(NamedTuple):
    """A change of a metric: a share of it (0.31: 31 % more) or, of a percentage, a difference; 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_seen(self) -> bool:
        return self.low > 0 or self.high < 0


class Insight(NamedTuple):
    """A change that does something, and what in a sentence; `effects` by metric."""

    words: str
    stage: int | None
    effects: dict[str, Estimate]
    sentence: str


class Insights(NamedTuple):
    """`found`, the surest first; `unseen` changes without an effect that was seen; `trials` behind each metric, and
    `reasons` why a metric has none."""

    found: tuple[Insight, ...]
    unseen: int
    trials: dict[str, int]
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        rows = [
            each._asdict() | {"effects": {key: estimate._asdict() for key, estimate in each.effects.items()}}
            for each in self.found
        ]
        return {"found": rows, "no_effect_seen": self.unseen, "trials": self.trials, "reasons": list(self.reasons)}


class _Fit(NamedTuple):
    """Of one metric: each change's estimate and how sure it is, in widths of its interval."""

    estimates: dict[str, Estimate]
    evidence: dict[str, float]


def insights_of(run: Run) -> Insights:
    """What a run's trials teach."""
    return insights(read_trials(run.trials), choose_axes(run.info.get("objectives") or ()))


def insights(trials: Sequence[Trial], axes: Axes) -> Insights:
    """What the trials teach of quality and of cost, and of MACs beside them."""
    fits: dict[str, _Fit] = {}
    changes: dict[str, Change] = {}
    reasons, counts = [], {}
    for key in dict.fromkeys((*axes, "macs")):
        given = _answered(trials, key, axes)
        table, gone = _table(given)
        least = max(LEAST_TRIALS, TRIALS_A_COLUMN * len(table.columns))
        label = METRICS[key].label
        if len(given) < least:
            reasons.append(f"{label} needs {plural(least, 'trial')} for so many choices, and has {len(given)}")
            continue
        if gone:
            reasons.append(f"of {label}, {' and '.join(gone)} are left out: {plural(len(given), 'trial')} are too few")
        counts[key] = len(given)
        fits[key] = _fit(table, [_scaled(key, trial.values[key]) for trial in given], key)
        changes |= {change.words: change for change in table.changes}
    spoken = [key for key in axes if key in fits]
    seen = [words for words in changes if any(_is_seen(fits[key], words) for key in spoken)]
    seen.sort(key=lambda words: _order(words, fits, axes))
    found = tuple(_insight(changes[words], fits, axes) for words in seen)
    return Insights(found, len(changes) - len(found) if spoken else 0, counts, tuple(reasons))


def _table(trials: Sequence[Trial]) -> tuple[Choices, tuple[str, ...]]:
    """The columns that so many trials can bear, and the choices left out for it, by a rule that sees no result."""
    table, gone = choices([trial.params for trial in trials]), 0
    while len(trials) < TRIALS_A_COLUMN * len(table.columns) and gone < len(LEFT_OUT):
        gone += 1
        out = tuple(LEFT_OUT)[:gone]
        kept = [{k: v for k, v in t.params.items() if k.rpartition(".")[2] not in out} for t in trials]
        table = choices(kept)
    return table, tuple(LEFT_OUT.values())[:gone]


def _answered(trials: Sequence[Trial], key: str, axes: Axes) -> list[Trial]:
    """Quality is known of complete trials; what is measured before training, of those stopped early too."""
    states = ("complete",) if key == axes.quality or gain(key, 1) > 0 else COUNTED
    return [
        t
        for t in trials
        if t.state in states and t.params and t.has(key) and (t.values[key] > 0 or not is_relative(key))
    ]


def _scaled(key: str, value: float) -> float:
    return math.log(value) if is_relative(key) else value


def _is_seen(fit: _Fit, words: str) -> bool:
    return words in fit.estimates and fit.estimates[words].is_seen


def _order(words: str, fits: dict[str, _Fit], axes: Axes) -> tuple[bool, float]:
    """What was seen of quality first, because it is the harder to see; then by evidence."""
    key = axes.quality if axes.quality in fits and _is_seen(fits[axes.quality], words) else axes.cost
    return key != axes.quality, -fits[key].evidence.get(words, 0.0)


def _fit(table: Choices, values: Sequence[float], key: str) -> _Fit:
    import numpy as np  # here, because a profile's page needs none

    at = {column: i for i, column in enumerate(table.columns)}
    contrasts = np.zeros((len(table.changes), len(at)))
    for row, change in zip(contrasts, table.changes, strict=True):
        for column, weight in change.weights:
            row[at[column]] = weight
    found: dict[str, Estimate] = {}
    evidence: dict[str, float] = {}
    back = math.expm1 if is_relative(key) else float
    bounds = _intervals(np.asarray(table.rows), np.asarray(values), contrasts) if table.changes else ()
    for change, (effect, half) in zip(table.changes, bounds, strict=True):
        if abs(effect) + half < TOLD_WITHIN:
            found[change.words] = Estimate(back(effect), back(effect - half), back(effect + half))
            evidence[change.words] = abs(effect) / half if half > 0 else 0.0
    return _Fit(found, evidence)


def _intervals(x: "Array", y: "Array", contrasts: "Array") -> list[tuple[float, float]]:
    """(effect, half the width of its interval) of every contrast; an infinite half where the trials do not tell."""
    import numpy as np

    x, y = x - x.mean(axis=0), y - y.mean()
    inverse = np.linalg.pinv(x.T @ x, rcond=1e-10, hermitian=True)
    told = np.abs(contrasts @ (inverse @ (x.T @ x)) - contrasts).max(axis=1) < 1e-6  # else it is mixed with another
    solve, map_to = inverse @ x.T, contrasts @ inverse @ x.T
    freedom = np.clip(1 - np.einsum("ij,ji->i", x, solve) - 1 / len(y), 1e-3, 1)
    inflated = (y - x @ (solve @ y)) / freedom
    error = np.sqrt(np.square(map_to) @ np.square(inflated))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(len(y), RESAMPLES))
    noise = signs * inflated[:, None]
    noise -= noise.mean(axis=0)
    left = (noise - x @ (solve @ noise)) / freedom[:, None]
    errors = np.sqrt(np.square(map_to) @ np.square(left))
    floor = 1e-9 * (1 + np.abs(y).max())  # what is computed and not measured has no noise
    deviations = np.abs(map_to @ noise)[told] / np.maximum(errors[told], floor)
    widest = np.quantile(deviations.max(axis=0), CONFIDENCE) if told.any() else 0.0
    half = np.where(told, widest * error + floor, math.inf)
    return list(zip((contrasts @ (solve @ y)).tolist(), half.tolist(), strict=True))


def _insight(change: Change, fits: dict[str, _Fit], axes: Axes) -> Insight:
    effects = {key: fit.estimates[change.words] for key, fit in fits.items() if change.words in fit.estimates}
    return Insight(change.words, change.stage, effects, f"{change.words} {_words(effects, axes)}.")


def _words(effects: dict[str, Estimate], axes: Axes) -> str:
    cost, quality = effects.get(axes.cost), effects.get(axes.quality)
    if cost is None or quality is None:
        key, known = (axes.cost, cost) if cost else (axes.quality, quality)
        return _verb(key, known) if known else ""
    if cost.is_seen and quality.is_seen:
        joint = "for" if gain(axes.cost, cost.value) < 0 else "at"
        change = f"{signed(100 * quality.value)} {_unit(axes.quality)} ({_span(axes.quality, quality)})"
        return f"{_verb(axes.cost, cost)} {joint} {change}"
    seen, other = axes if quality.is_seen else (axes.cost, axes.quality)
    unseen = effects[other]
    about = f"{signed(100 * unseen.value)}, {_span(other, unseen)} {_unit(other).split(' of ')[0]}"
    return f"{_verb(seen, effects[seen])}, with no effect on {METRICS[other].label} seen ({about})"


def _verb(key: str, found: Estimate) -> str:
    """costs 31 % more latency (27 to 35), gains 1.6 points of accuracy (0.5 to 2.7)."""
    wanted, better = METRICS[key].direction == "maximize", gain(key, found.value) > 0
    verb = {(True, True): "gains", (True, False): "loses", (False, True): "saves", (False, False): "costs"}[
        wanted, better
    ]
    unit = _unit(key) if wanted or better else _unit(key).replace(" of ", " more ")
    value, *ends = (abs(100 * each) for each in (found.value, found.low, found.high))
    low, high = (_figure(key, end) for end in sorted(ends))
    return f"{verb} {_figure(key, value)} {unit} ({low} to {high})"


def _unit(key: str) -> str:
    return f"{'%' if is_relative(key) else 'points'} of {METRICS[key].label}"


def _figure(key: str, value: float) -> str:
    return f"{value:.0f}" if is_relative(key) and value >= 10 else f"{value:.1f}"


def _span(key: str, found: Estimate) -> str:
    return " to ".join(signed(100 * end) for end in (found.low, found.high))
