"""A surrogate of the tiny space, fitted to the table of table.py: what any architecture would come to, at no cost.

    python benchmarks/surrogate.py results/2026-11-23_tiny_table/table.csv      how far it can be trusted, in minutes

For comparing samplers over many seeds. It is a forest or boosted trees, because the sampler it is to judge is of the
kind of a Gaussian process: a smooth surrogate on the same features would let it find its own assumptions again. And it
is no smoother than the space: what trees cannot explain of an architecture and seeds cannot either is drawn for it once
and for all (`own`), so that two architectures alike in every feature still differ as they do in the table.

A training is then the architecture's means and a noise drawn jointly for accuracy and losses at the rungs, whose
covariance is that between seeds of one architecture. Losses are mean training losses of the last tenth of the run.
"""

import argparse
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from table import RUNGS, candidate_of, read_table

from uniformer_bench.cost import cost
from uniformer_bench.errors import UbenchError
from uniformer_bench.space_file import load_space
from uniformer_bench.spec import MIXERS, ArchSpec, StageSpec

SPACE = load_space("tiny")
CLASSES = 14  # of the built-in clips
LOSSES = tuple(f"loss_{share}" for share in RUNGS)
LEARNT = ("accuracy", *LOSSES)  # what seeds bear on, jointly
COSTS = ("log_latency_ms", "log_train_s", "log_accuracy_s")
TARGETS = (*LEARNT, *COSTS)
FOLDS = 10


class Means(NamedTuple):
    """What an architecture comes to on average: accuracy and losses by rung, and its costs."""

    accuracy: float
    rung_loss: Mapping[float, float]
    latency_ms: float
    train_s: float
    accuracy_s: float

    def seconds(self, share: float) -> float:
        """Processor time of training up to this share of the run, and of the accuracy at its end."""
        return share * self.train_s + (self.accuracy_s if share >= 1 else 0.0)


# ---------------------------------------------------------------- features


def features(spec: ArchSpec) -> np.ndarray:
    """What physics says matters: closed-form costs, and by stage the mixer, shape, taps over time and space, FFN."""
    at = cost(spec, frames=SPACE.input.frames, size=SPACE.input.size, num_classes=CLASSES, batch=SPACE.input.batch)
    whole = [at.macs, at.params, at.moved_bytes, at.activation_bytes]
    parts = [[stage.macs, stage.params, stage.moved_bytes] for stage in at.stages]
    shape = [value for stage in spec.resolved_stages for value in _stage_features(stage)]
    mixes_time = [_time_reach(stage) for stage in spec.resolved_stages]
    return np.array([*np.log(whole), *np.log(parts).ravel(), *shape, sum(mixes_time), max(mixes_time[:2])])


def _stage_features(stage: StageSpec) -> list[float]:
    kernel, position = stage.kernel or (0, 0, 0), stage.dpe_kernel or (0, 0, 0)
    mixers = [stage.mixer == mixer for mixer in MIXERS]
    taps = [kernel[0], kernel[1], position[0], position[1]]
    return [*mixers, stage.depth, stage.width, *taps, stage.hidden / stage.width, stage.depth * _time_reach(stage)]


def _time_reach(stage: StageSpec) -> float:
    """Frames that a block's mixer and position embedding let a token see, of the grid's four."""
    frames = SPACE.input.frames // 2
    mixer = frames if stage.kernel is None else min(frames, stage.kernel[0])
    return mixer + (stage.dpe_kernel[0] - 1 if stage.dpe_kernel else 0)


# ---------------------------------------------------------------- the table as arrays


class Data(NamedTuple):
    """Of each architecture: features, and the mean of its runs, a column a target (NaN where unknown).

    `noise` is the covariance of LEARNT between seeds, `latency_sd` the spread of log latency between looks.
    """

    specs: list[ArchSpec]
    x: np.ndarray
    y: np.ndarray
    runs: np.ndarray
    noise: np.ndarray
    latency_sd: float


def data_of(rows: Sequence[Mapping[str, Any]]) -> Data:
    """The rows of table.csv; those that diverged are left out. Raises UbenchError where no seed was repeated."""
    by_id: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["diverged"] is None:
            by_id.setdefault(row["spec_id"], []).append(row)
    specs = [candidate_of(SPACE, group[0]["picks"]).trained for group in by_id.values()]
    numbers = [np.array([_targets(row) for row in group]) for group in by_id.values()]
    runs, learnt = np.array([len(group) for group in numbers]), len(LEARNT)
    if not (runs > 1).any():
        raise UbenchError("some architecture must be trained with two seeds, got one seed each")
    looks = [group[:, learnt : learnt + 1] for group in numbers]
    return Data(
        specs,
        np.array([features(spec) for spec in specs]),
        np.array([_mean(group) for group in numbers]),
        runs,
        within([group[:, :learnt] for group in numbers]),
        math.sqrt(within([look[~np.isnan(look[:, 0])] for look in looks])[0, 0]),
    )


def _targets(row: Mapping[str, Any]) -> list[float]:
    losses = [row["rung_loss"][str(share)] for share in RUNGS]
    times = [row["latency_ms"], row["train_cpu_s"], row["accuracy_cpu_s"]]
    return [row["accuracy"], *losses, *(math.nan if time is None else math.log(time) for time in times)]


def _mean(group: np.ndarray) -> np.ndarray:
    """By column, of what is known."""
    known = ~np.isnan(group)
    return np.where(known.any(0), np.where(known, group, 0).sum(0) / np.maximum(1, known.sum(0)), math.nan)


def within(groups: Sequence[np.ndarray]) -> np.ndarray:
    """The covariance inside groups of rows, pooled over those with two rows or more; 0 where there are none."""
    again = [group - group.mean(0) for group in groups if len(group) > 1]
    width = groups[0].shape[1]
    if not again:
        return np.zeros((width, width))
    return sum(group.T @ group for group in again) / sum(len(group) - 1 for group in again)


# ---------------------------------------------------------------- the model


def _boosted(seed: int) -> Any:
    return GradientBoostingRegressor(
        n_estimators=400, learning_rate=0.04, max_depth=4, subsample=0.6, max_features=0.3, random_state=seed
    )


def _line() -> Any:
    return make_pipeline(StandardScaler(), Ridge(3.0))


class LineAndTrees(RegressorMixin, BaseEstimator):
    """A line, and boosted trees of what it leaves: trees alone spend their splits on what simply adds up."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: np.ndarray, y: np.ndarray) -> "LineAndTrees":
        self.line_ = _line().fit(x, y)
        self.trees_ = MultiOutputRegressor(_boosted(self.seed)).fit(x, y - self.line_.predict(x))
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.line_.predict(x) + self.trees_.predict(x)


def models(seed: int) -> dict[str, Any]:
    """What is tried for each group of targets, by name; a deterministic choice by seed."""
    forest = ExtraTreesRegressor(n_estimators=100, max_features=0.5, min_samples_leaf=2, random_state=seed)
    boosted = MultiOutputRegressor(_boosted(seed))
    return {"boosted trees": boosted, "extra trees": forest, "line and trees": LineAndTrees(seed)}


def predicted(model: Any, x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Cross-validated predictions, of each architecture by a model that has not seen it."""
    folds = KFold(min(FOLDS, len(x)), shuffle=True, random_state=seed)
    return cross_val_predict(model, x, y, cv=folds).reshape(y.shape)


def r2(y: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The share of each column's variance that is explained."""
    return 1 - ((y - predictions) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)


class Fitted(NamedTuple):
    """A model of some targets, chosen by cross validation, with what that said of it."""

    name: str
    model: Any
    error: np.ndarray
    r2: np.ndarray
    predictions: np.ndarray


def fit_best(x: np.ndarray, y: np.ndarray, seed: int) -> Fitted:
    """The model whose mean cross-validated R2 over the columns is highest, fitted to all rows."""
    tried = {name: predicted(model, x, y, seed) for name, model in models(seed).items()}
    best = max(tried, key=lambda name: r2(y, tried[name]).mean())
    error = np.sqrt(((y - tried[best]) ** 2).mean(0))
    return Fitted(best, models(seed)[best].fit(x, y), error, r2(y, tried[best]), tried[best])


@dataclass(frozen=True)
class Surrogate:
    """The fitted table. `own` is the covariance of what is an architecture's own, `noise` that between seeds.

    Deterministic: `means` by architecture, `training` by architecture and seed.
    """

    learnt: Fitted
    costs: Fitted
    own: np.ndarray
    noise: np.ndarray
    latency_sd: float
    seed: int
    seen: dict[str, Means]

    def means(self, spec: ArchSpec) -> Means:
        """Of any architecture of the space, its own effect included; asked twice the answer is the same."""
        if spec.id not in self.seen:
            x = features(spec)[None]
            learnt = self.learnt.model.predict(x)[0] + _drawn(self.own, f"{self.seed} {spec.id}")
            times = [float(time) for time in np.exp(self.costs.model.predict(x)[0])]
            self.seen[spec.id] = _means(learnt, times)
        return self.seen[spec.id]

    def training(self, spec: ArchSpec, seed: int) -> Means:
        """What one training of it, and one look at its latency, would have shown."""
        mean, key = self.means(spec), f"{self.seed} {spec.id} {seed}"
        learnt = np.array([mean.accuracy, *mean.rung_loss.values()]) + _drawn(self.noise, key)
        look = math.exp(random.Random(key).gauss(0, self.latency_sd))
        return _means(learnt, (mean.latency_ms * look, mean.train_s, mean.accuracy_s))


def _means(learnt: np.ndarray, times: Sequence[float]) -> Means:
    accuracy, losses = float(np.clip(learnt[0], 0, 1)), [float(value) for value in learnt[1:]]
    return Means(accuracy, dict(zip(RUNGS, losses, strict=True)), *times)


def _drawn(covariance: np.ndarray, key: str) -> np.ndarray:
    """A draw of a joint normal, the same for the same key on any machine."""
    rng = np.random.default_rng(random.Random(key).getrandbits(64))
    values, vectors = np.linalg.eigh(covariance)
    return vectors @ (np.sqrt(np.maximum(values, 0)) * rng.standard_normal(len(values)))


def fit(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> Surrogate:
    """The surrogate of these rows of table.csv. Raises UbenchError where no seed was repeated
    or hardly a latency measured."""
    return fit_data(data_of(rows), seed)


def fit_data(data: Data, seed: int = 0) -> Surrogate:
    """The surrogate of a table."""
    learnt, costs = np.split(data.y, [len(LEARNT)], axis=1)
    known = ~np.isnan(costs).any(1)
    if known.sum() < FOLDS:
        raise UbenchError(f"the latency of {FOLDS} architectures must be measured at least, got {known.sum()}")
    fitted = fit_best(data.x, learnt, seed)
    own = own_covariance(learnt - fitted.predictions, data.noise, data.runs)
    fitted_costs = fit_best(data.x[known], costs[known], seed)
    return Surrogate(fitted, fitted_costs, own, data.noise, data.latency_sd, seed, {})


def own_covariance(residuals: np.ndarray, noise: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """What is left of the cross-validated residuals' covariance without the noise in them (of means of `runs` seeds):
    nothing along directions where the noise is all there is."""
    values, vectors = np.linalg.eigh(residuals.T @ residuals / len(residuals) - noise * (1 / runs).mean())
    return (vectors * np.maximum(values, 0)) @ vectors.T


# ---------------------------------------------------------------- how far it can be trusted


def main(path: Path) -> None:
    rows = read_table(path)
    data = data_of(rows)
    surrogate = fit_data(data)
    lost = sum(row["diverged"] is not None for row in rows)
    repeated = data.runs[data.runs > 1]
    print(f"{len(rows)} trainings of {len(data.specs)} architectures, {len(repeated)} of them with several seeds")
    print(f"({repeated.sum()} trainings); {lost} diverged and are left out\n")
    print_errors(data, surrogate)
    print_noise(rows, data, surrogate)
    print_curves([row for row in rows if row["seed"] == 0 and row["diverged"] is None])


def print_errors(data: Data, surrogate: Surrogate) -> None:
    """A line a target; a line is fitted too, to see what trees are worth."""
    print(f"{FOLDS}-fold cross validation, on means of the seeds")
    print(f"{'target':16} {'model':14} {'error':>8} {'R2':>6} {'tau':>6} {'R2 of a line':>13}")
    for names, fitted in ((LEARNT, surrogate.learnt), (COSTS, surrogate.costs)):
        y = data.y[:, [TARGETS.index(name) for name in names]]
        known = ~np.isnan(y).any(1)
        line = r2(y[known], predicted(_line(), data.x[known], y[known], 0))
        for i, name in enumerate(names):
            tau = kendalltau(y[known, i], fitted.predictions[:, i]).statistic
            shown = f"{fitted.error[i]:8.4f} {fitted.r2[i]:6.3f} {tau:6.3f} {line[i]:13.3f}"
            print(f"{name:16} {fitted.name:14} {shown}")


def print_noise(rows: Sequence[Mapping[str, Any]], data: Data, surrogate: Surrogate) -> None:
    """Between seeds of one architecture: how large, how joint, and what that leaves of single runs."""
    once = np.array([_targets(row)[: len(LEARNT)] for row in rows if row["seed"] == 0 and row["diverged"] is None])
    sd, total = np.sqrt(np.diag(data.noise)), once.std(0, ddof=1)
    correlation = data.noise[0] / np.maximum(sd[0] * sd, 1e-12)
    print(f"\n{'':16} {'sd of runs':>10} {'between seeds':>14} {'reliability':>12} {'own sd':>8} {'with accuracy':>14}")
    for i, name in enumerate(LEARNT):
        reliability, own = 1 - sd[i] ** 2 / total[i] ** 2, math.sqrt(surrogate.own[i, i])
        print(f"{name:16} {total[i]:10.4f} {sd[i]:14.4f} {reliability:12.3f} {own:8.4f} {correlation[i]:14.2f}")
    print(f"log latency between looks: sd {surrogate.latency_sd:.4f}")


def print_curves(rows: Sequence[Mapping[str, Any]]) -> None:
    """What rungs say of the end: tau with the accuracy, and the mean loss of each quarter of the architectures."""
    accuracy = np.array([row["accuracy"] for row in rows])
    at = {f"loss at {share:g}": [row["rung_loss"][str(share)] for row in rows] for share in RUNGS}
    at["loss at 1"] = [float(np.mean(row["curve"][-len(row["curve"]) // 10 :])) for row in rows]
    quarter = np.argsort(np.argsort(accuracy)) * 4 // len(rows)
    print("\nTau with the final accuracy of the same run, and means by quarter of the architectures, worst first")
    for name, values in at.items():
        means = "  ".join(f"{np.mean(np.array(values)[quarter == i]):.3f}" for i in range(4))
        print(f"{name:14} {_tau(accuracy, [-value for value in values])}   {means}")
    for name in ("macs", "params"):
        print(f"{name:14} {_tau(accuracy, [row[name] for row in rows])}")


def _tau(a: Sequence[float], b: Sequence[float]) -> str:
    """Kendall's tau with its 95 % interval by 500 bootstrap samples."""
    both, rng = np.array([a, b]), np.random.default_rng(0)
    samples = [both[:, rng.integers(0, len(a), len(a))] for _ in range(500)]
    low, high = np.nanquantile([kendalltau(*sample).statistic for sample in samples], (0.025, 0.975))
    return f"{kendalltau(*both).statistic:5.2f} [{low:5.2f}, {high:5.2f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    main(parser.parse_args().table)
