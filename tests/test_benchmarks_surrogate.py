"""The table of the tiny space and its surrogate: files that come back as they were, effects that were planted."""

import sys
from pathlib import Path

import numpy as np
import pytest

from uniformer_bench.errors import UbenchError

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))  # scripts, not a package
import surrogate
import table

SD = 0.02  # of accuracy between seeds
SLOPE = -3.0  # of a rung's loss on accuracy, between seeds
DRAWN = table.draw(surrogate.SPACE, surrogate.CLASSES, 80)


def row(index, seed, rng):
    """A training whose accuracy is 0.3, 0.2 more with a global last stage and 0.05 a block of the first."""
    drawn, luck = DRAWN[index], rng.normal(0, SD)
    first, *_, last = drawn.candidate.spec.stages
    right = 0.3 + 0.2 * (last.mixer == "global") + 0.05 * first.depth
    losses = {str(share): 3 - share - right + SLOPE * luck for share in table.RUNGS}
    known = {"index": index, "seed": seed, "spec_id": drawn.candidate.spec.id, "pattern": drawn.candidate.spec.pattern}
    known |= {"picks": drawn.picks, "params": drawn.cost.params, "macs": drawn.cost.macs, "diverged": None}
    times = {"latency_ms": drawn.cost.macs / 1e6, "train_cpu_s": 10.0 + first.depth, "accuracy_cpu_s": 0.5}
    return known | times | {"accuracy": right + luck, "rung_loss": losses, "curve": [2.5, 1.25]}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return [row(index, seed, rng) for seed in range(3) for index in range(len(DRAWN) if seed == 0 else 30)]


@pytest.fixture(scope="module")
def fitted(rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate, "FOLDS", 3)
        return surrogate.fit(rows)


def test_a_table_comes_back_from_its_file(rows, tmp_path):
    lost = rows[1] | {"diverged": "loss must stay finite, got nan", "accuracy": None, "latency_ms": None}
    lost |= {"curve": [2.5, None]}
    table.write_table(tmp_path / "table.csv", [rows[0], lost])
    first, second = table.read_table(tmp_path / "table.csv")
    assert {key: first[key] for key in ("picks", "accuracy", "macs", "spec_id", "curve")} == {
        key: rows[0][key] for key in ("picks", "accuracy", "macs", "spec_id", "curve")
    }
    assert first["rung_loss"] == pytest.approx(rows[0]["rung_loss"], rel=10.0 ** (1 - table.DIGITS))
    assert (second["accuracy"], second["latency_ms"], second["curve"]) == (None, None, [2.5, None])
    assert second["diverged"] == "loss must stay finite; got nan"
    assert table.candidate_of(surrogate.SPACE, first["picks"]).spec.id == first["spec_id"]


def test_join_gives_a_training_the_latency_of_its_own_look(tmp_path):
    (tmp_path / "table_0.jsonl").write_text('{"index": 0, "seed": 0}\n{"index": 0, "seed": 1}\n')
    (tmp_path / "table_1.jsonl").write_text('{"index": 1, "seed": 0}\n')
    (tmp_path / "latency_0.jsonl").write_text(
        '{"index": 0, "seed": 1, "latency_ms": 3.5}\n{"index": 1, "seed": 0, "latency_ms": 2}\n'
    )
    joined = {(line["index"], line["seed"]): line["latency_ms"] for line in table.join(tmp_path)}
    assert joined == {(0, 0): None, (1, 0): 2, (0, 1): 3.5}


def test_jobs_are_all_once_and_the_first_again_whatever_the_shards():
    shards = [list(table.jobs_of(5, 3, 2, (part, 2))) for part in (0, 1)]
    assert sorted(shards[0] + shards[1]) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (3, 0), (4, 0)]


def test_work_that_stands_in_the_file_is_not_done_again(tmp_path):
    done = []
    for _ in range(2):
        table.append(tmp_path / "t.jsonl", [(0, 0), (1, 0)], lambda index, seed: done.append(index) or {"a": index})
    assert done == [0, 1]
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 2


def test_a_curve_has_the_means_of_fortieths_and_ends_where_the_loss_does():
    losses = [float(i) for i in range(78)] + [float("nan")] * 2
    assert table.curve(losses) == [2 * i + 0.5 for i in range(39)] + [None]


def test_planted_effects_are_found(fitted):
    by_last = {True: [], False: []}
    for drawn in DRAWN:
        stages = drawn.candidate.spec.stages
        by_last[stages[-1].mixer == "global"].append(
            fitted.means(drawn.candidate.spec).accuracy - 0.05 * stages[0].depth
        )
    assert np.mean(by_last[True]) - np.mean(by_last[False]) == pytest.approx(0.2, abs=0.03)
    assert fitted.learnt.r2[0] > 0.7
    mean = fitted.means(DRAWN[0].candidate.spec)
    assert mean.latency_ms == pytest.approx(DRAWN[0].cost.macs / 1e6, rel=0.1)
    assert mean.seconds(0.5) == 0.5 * mean.train_s
    assert mean.seconds(1) == mean.train_s + mean.accuracy_s


def test_seeds_differ_jointly_as_they_do_in_the_table(fitted):
    spec = DRAWN[3].candidate.spec
    runs = np.array([(t.accuracy, t.rung_loss[0.25]) for t in (fitted.training(spec, seed) for seed in range(400))])
    covariance = np.cov(runs.T)
    assert covariance[0, 0] ** 0.5 == pytest.approx(SD, rel=0.25)
    assert covariance[0, 1] / covariance[0, 0] == pytest.approx(SLOPE, rel=0.05)
    assert fitted.training(spec, 7) == fitted.training(spec, 7)


def test_what_is_an_architectures_own_is_the_residual_without_the_noise():
    rng = np.random.default_rng(0)
    residuals = rng.normal(0, [0.5, 0.1], (4000, 2))  # the second is no more than noise
    own = surrogate.own_covariance(residuals, np.diag([0.09, 0.02]), np.full(4000, 1))
    assert np.allclose(own, [[0.16, 0], [0, 0]], atol=0.02)


def test_a_table_without_repeated_seeds_or_latency_is_refused(rows):
    with pytest.raises(UbenchError, match="two seeds, got one seed each"):
        surrogate.fit([line for line in rows if line["seed"] == 0])
    with pytest.raises(UbenchError, match="latency of 10 architectures must be measured at least, got 0"):
        surrogate.fit([line | {"latency_ms": None} for line in rows])
