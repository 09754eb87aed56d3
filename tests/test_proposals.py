"""The sampler: what may be suggested, how it is believed to do, and what is expected to add most to the front."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from uniformer_bench.cost import cost
from uniformer_bench.metrics import broken_limit
from uniformer_bench.search.feasible import closed_form_metrics, cost_of
from uniformer_bench.search.pareto import Scale, dominates, hypervolume
from uniformer_bench.search.proposals import gaussian
from uniformer_bench.search.proposals import proposer as module
from uniformer_bench.search.proposals.candidates import (
    QuasiRandom,
    neighbour,
    random_suggestions,
    suggestion,
)
from uniformer_bench.search.proposals.features import Standard, features
from uniformer_bench.search.proposals.gaussian import JITTER, Parameters, Process, Seen
from uniformer_bench.search.proposals.improvement import directions, expected_improvement, volume
from uniformer_bench.search.proposals.proposer import Known, Proposer
from uniformer_bench.space import stored_pick
from uniformer_bench.space_file import parse_space

SPACE = """
name: test
input: {frames: 4, size: 16}
spec: {head_dim: 8, stem: {kernel: [1, 2, 2], stride: [2, 2, 2]}}
vary: {mlp_ratio: [1, 2, 4]}
stages:
  - {mixer: [local, global], depth: {low: 1, high: 3}, width: {low: 8, high: 32, step: 8}, kernel: [[1, 3, 3], 3],
     ffn: [true, false]}
  - {mixer: [local, split], depth: 1, width: [8, 16], dpe_kernel: [null, 3]}
objectives: [accuracy, macs]
"""
SCALES = {"accuracy": Scale(worst=0.1, best=1.0, log=False), "macs": Scale(worst=1e7, best=1e5, log=True)}


@pytest.fixture(scope="module")
def space():
    return parse_space(SPACE, "test")


def seen(x, y, output=None, run=None):
    count = len(y)
    outputs = np.zeros(count, np.int64) if output is None else np.array(output)
    runs = np.arange(count) if run is None else np.array(run)
    return Seen(np.array(x, float).reshape(count, -1), outputs, runs, np.array(y, float))


# ---------------------------------------------------------------- candidates


def test_a_suggestion_is_made_again_from_what_storage_has(space):
    for found in itertools.islice(random_suggestions(space, random.Random(0)), 30):
        again = suggestion(space, stored_pick(found.params))
        assert again == found
        assert all(isinstance(value, str | int | float) for value in found.params.values())


def test_the_quasi_random_start_is_the_same_wherever_one_begins(space):
    first, second = QuasiRandom(space, 3), QuasiRandom(space, 3)
    ahead = [first(i) for i in range(8)]
    assert [second(i) for i in reversed(range(8))] == ahead[::-1]
    assert QuasiRandom(space, 4)(0) != ahead[0]


def test_the_quasi_random_start_covers_every_choice_evenly(space):
    """Of 16 points of a Sobol sequence exactly half lie in either half of an axis."""
    points = [QuasiRandom(space, 0)(i).params for i in range(16)]
    for name in ("stage1.mixer", "stage2.mixer", "stage2.width", "stage1.ffn", "stage2.dpe_kernel"):
        assert set(Counter(point[name] for point in points).values()) == {8}
    assert set(Counter(point["stage1.width"] for point in points).values()) == {4}


def test_a_neighbour_changes_little_and_always_something_or_its_like(space):
    rng, start = random.Random(0), suggestion(space, lambda name, domain: domain.options[0])
    for _ in range(100):
        found = neighbour(space, start.params, rng)
        shared = set(found.params) & set(start.params)
        assert 1 <= sum(found.params[name] != start.params[name] for name in shared) <= 3
    widths = [neighbour(space, start.params, rng).params["stage1.width"] for _ in range(200)]
    assert widths.count(16) > widths.count(24) + widths.count(32) > 0  # a range mostly goes by a step


# ---------------------------------------------------------------- features


def test_features_are_as_many_for_all_and_differ_where_architectures_do(space):
    found = list(itertools.islice(random_suggestions(space, random.Random(0)), 60))
    rows = {}
    for each in found:
        spec = each.candidate.spec
        at = cost(spec, frames=4, size=16, num_classes=5)
        rows[spec.id] = features(spec, at, 4, (16, 16))
        assert rows[spec.id][:2] == pytest.approx([math.log(at.macs), math.log(at.params)])
    assert len({len(row) for row in rows.values()}) == 1
    assert len({tuple(row) for row in rows.values()}) == len(rows)


def test_standard_columns_have_mean_0_and_deviation_1_and_constants_vanish():
    sample = np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 2.5], [8.0, 5.0, 9.0]])
    rows = Standard(sample)(sample)
    assert rows.shape == (3, 2)
    assert rows.mean(0) == pytest.approx([0, 0])
    assert rows.std(0) == pytest.approx([1, 1])


# ---------------------------------------------------------------- the process


def test_belief_is_the_formula_of_the_posterior():
    """Against K* (K + jitter)^-1 y written out in NumPy, for two outputs of which one run has both."""
    rng = np.random.default_rng(0)
    x, output, run = rng.normal(size=(6, 3)), np.array([0, 0, 1, 1, 1, 0]), np.array([0, 1, 0, 2, 3, 4])
    x[2] = x[0]
    y = rng.normal(size=6)
    parameters = Parameters.start(2)
    process = Process(Seen(x, output, run, y), 2, parameters, fitted=False)
    linear, smooth, own = (f @ f.T for f in parameters.factors.numpy())

    def covariance(a, b):
        (xa, sa, ra), (xb, sb, rb) = a, b
        near = math.exp(-((xa - xb) ** 2).sum() / 3 / 2)
        return linear[sa, sb] * (xa @ xb) / 3 + smooth[sa, sb] * near + own[sa, sb] * (ra == rb)

    places = list(zip(x, output, run, strict=True))
    full = np.array([[covariance(a, b) for b in places] for a in places]) + JITTER * np.eye(6)
    standard = y.copy()
    for s in (0, 1):
        standard[output == s] = (y[output == s] - y[output == s].mean()) / y[output == s].std()
    for place in ((x[3], 0, 2), (rng.normal(size=3), 0, -1)):
        cross = np.array([covariance(place, b) for b in places])
        mean = cross @ np.linalg.solve(full, standard)
        prior = linear[0, 0] * place[0] @ place[0] / 3 + smooth[0, 0] + (own[0, 0] if place[2] >= 0 else 0.0)
        variance = prior - cross @ np.linalg.solve(full, cross)
        asked = None if place[2] < 0 else np.array([place[2]])
        belief = process.believe(place[0][None], 0, asked)
        scale, shift = y[output == 0].std(), y[output == 0].mean()
        assert belief.mean[0] == pytest.approx(mean * scale + shift)
        assert belief.deviation[0] == pytest.approx(math.sqrt(variance) * scale)


def test_a_rung_tells_of_the_end_and_luck_is_told_from_merit():
    """Final values are rung values plus a little: of two equal architectures that pause, the luckier at the rung is
    believed to end better, and both are believed to be as good without their luck."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2))
    rung = x[:, 0] + 0.5 * rng.normal(size=40)
    final = rung + 0.05 * rng.normal(size=40)
    new = np.zeros((2, 2))
    values = seen(
        np.vstack([x, x, new]), [*final, *rung, 1.0, -1.0], [0] * 40 + [1] * 42, [*range(40), *range(40), 40, 41]
    )
    process = Process(values, 2)
    lucky, unlucky = process.believe(new, 0, np.array([40, 41])).mean
    assert lucky - unlucky > 1.0
    without = process.believe(new, 0)
    assert without.mean[0] == pytest.approx(without.mean[1])
    assert abs(without.mean[0]) < 0.4


def test_fitting_finds_what_matters_and_says_how_sure_it_is():
    """A linear function with noise of 0.3: errors at new points are as large as believed, and noise is no merit."""
    rng = np.random.default_rng(2)
    x, new = rng.normal(size=(80, 6)), rng.normal(size=(200, 6))
    slope = np.array([1.0, -1.0, 0.5, 0, 0, 0])
    process = Process(seen(x, x @ slope + 0.3 * rng.normal(size=80)), 1)
    belief = process.believe(new, 0)
    errors = (belief.mean - new @ slope) / belief.deviation
    assert np.corrcoef(belief.mean, new @ slope)[0, 1] > 0.98
    assert 0.5 < errors.std() < 2
    noise = float(process.parameters.factors[2, 0, 0]) * (x @ slope).std()
    assert 0.15 < abs(noise) < 0.6


def test_one_value_alone_is_believed():
    belief = Process(seen([[0.0, 1.0]], [3.0]), 1).believe(np.zeros((1, 2)), 0)
    assert np.isfinite(belief.mean[0])
    assert belief.deviation[0] > 0


def test_a_fit_that_fails_keeps_what_was(monkeypatch):
    def failing(*arguments, **options):
        raise torch.linalg.LinAlgError("not positive definite")

    before = Parameters.start(1)
    with monkeypatch.context() as patch:
        patch.setattr(gaussian, "minimize", failing)
        process = Process(seen([[0.0], [1.0]], [0.0, 1.0]), 1, before)
    assert process.parameters is before


# ---------------------------------------------------------------- improvement


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_a_volume_by_directions_is_the_hypervolume(axes):
    losses = np.random.default_rng(axes).uniform(0.1, 1.1, (12, axes))
    along = directions(axes, 0, 1 << 14)
    assert volume(losses, along) == pytest.approx(hypervolume([tuple(row) for row in losses]), rel=0.03)


def test_expected_improvement_is_what_a_point_adds():
    """Points known for certain: in proportion to what each adds to the exact hypervolume; what is dominated adds 0."""
    front = np.array([[0.2, 0.8], [0.6, 0.3]])
    points = np.array([[0.3, 0.35], [0.1, 0.9], [0.55, 0.25], [0.7, 0.9], [1.2, 0.1]])
    found = expected_improvement(points[None], front, directions(2, 0, 1 << 12))
    before = hypervolume([tuple(row) for row in front])
    added = np.array([hypervolume([*map(tuple, front), tuple(point)]) - before for point in points])
    assert found[3] == found[4] == 0
    assert found / found[0] == pytest.approx(added / added[0], abs=0.02)


def test_a_doubtful_point_is_worth_the_mean_of_what_it_may_add():
    along, front = directions(2, 0), np.array([[0.5, 0.5]])
    good, bad = np.array([[0.4, 0.4]]), np.array([[0.9, 0.9]])
    both = expected_improvement(np.stack([good, bad]), front, along)
    assert both == pytest.approx(expected_improvement(good[None], front, along) / 2)


# ---------------------------------------------------------------- proposing


def trials_of(space, count, accuracy, seed=0):
    found = itertools.islice(random_suggestions(space, random.Random(seed)), count)
    rows = []
    for number, each in enumerate(found):
        closed = closed_form_metrics(cost_of(each.candidate, space, 5))
        rows.append(Known(number, each.params, {**closed, "accuracy": accuracy(each.candidate.spec)}))
    return rows


def depth_helps(spec):
    return 0.3 + 0.1 * spec.stages[0].depth + 0.1 * (spec.stages[0].mixer == "global")


def test_it_learns_what_helps_and_adds_more_to_the_front_than_chance(space):
    """Ten suggestions after 25 trials, each evaluated at once, against the ten random ones that come next."""
    trials = trials_of(space, 25, depth_helps)
    proposer, suggested = Proposer(space, 5, 0), list(trials)
    taken = {suggestion(space, stored_pick(trial.params)).candidate.spec.id for trial in trials}
    for number in range(25, 35):
        found = proposer.propose(suggested, taken, SCALES)
        assert found.candidate.spec.id not in taken
        taken.add(found.candidate.spec.id)
        closed = closed_form_metrics(cost_of(found.candidate, space, 5))
        metrics = {**closed, "accuracy": depth_helps(found.candidate.spec)}
        suggested.append(Known(number, found.params, metrics))
    start, chance, learned = (reached(rows) for rows in (trials, trials_of(space, 35, depth_helps), suggested))
    assert learned - start > 2 * (chance - start)
    assert learned > start


def reached(trials):
    points = [tuple(SCALES[key].loss(trial.metrics[key]) for key in ("accuracy", "macs")) for trial in trials]
    return hypervolume(points)


def test_the_same_study_gets_the_same_suggestion(space):
    trials = trials_of(space, 21, depth_helps)
    assert Proposer(space, 5, 0).propose(trials, set(), SCALES) == Proposer(space, 5, 0).propose(trials, set(), SCALES)


@pytest.fixture
def fitted(monkeypatch):
    """The runs that each model was made of, in the order they were made."""
    made = []

    def noting(seen, *arguments, **options):
        made.append(seen.run.tolist())
        return Process(seen, *arguments, **options)

    monkeypatch.setattr(module, "Process", noting)
    return made


def test_of_many_trials_the_newest_the_front_and_an_even_share_make_the_model(space, fitted, monkeypatch):
    monkeypatch.setattr(module, "MOST_TRIALS", 20)
    trials = trials_of(space, 60, depth_helps)
    proposer = Proposer(space, 5, 0)
    proposer.propose(trials[:20], set(), SCALES)
    assert fitted[-1] == list(range(20))
    proposer.propose(trials, set(), SCALES)
    older = {trial.number: (-trial.metrics["accuracy"], trial.metrics["macs"]) for trial in trials[:50]}
    front = {n for n, point in older.items() if not any(dominates(other, point) for other in older.values())}
    kept = fitted[-1]
    assert kept == sorted(set(kept))
    assert kept[-10:] == list(range(50, 60))
    assert len(kept) == 20
    assert len({older[n] for n in front} - {older[n] for n in kept if n in older}) == 0
    assert min(kept) < 10  # not the newest alone


def test_what_has_only_begun_makes_no_model_anew(space, fitted):
    """So that many can be asked for at once; each is told from the others by what it is believed to come to."""
    trials, proposer, taken = trials_of(space, 25, depth_helps), Proposer(space, 5, 0), set()
    for number in range(100, 104):
        found = proposer.propose(trials, taken, SCALES)
        taken.add(found.candidate.spec.id)
        closed = closed_form_metrics(cost_of(found.candidate, space, 5))
        trials.append(Known(number, found.params, closed))
    assert len(taken) == 4
    assert len(fitted) == 1
    proposer.propose([*trials, trials_of(space, 26, depth_helps)[25]], taken, SCALES)
    assert len(fitted) == 2


def test_limits_that_closed_forms_know_are_never_broken(space):
    limited = parse_space(SPACE + "constraints: {max_params_m: 0.004}\n", "test")
    refused = [
        broken_limit(closed_form_metrics(cost_of(found.candidate, limited, 5)), limited.constraints)
        for found in itertools.islice(random_suggestions(limited, random.Random(0)), 100)
    ]
    assert 10 < sum(reason is None for reason in refused) < 90  # the limit cuts the space
    proposer, trials = Proposer(limited, 5, 0), trials_of(limited, 20, depth_helps)
    for _ in range(5):
        candidate = proposer.propose(trials, set(), SCALES).candidate
        assert broken_limit(closed_form_metrics(cost_of(candidate, limited, 5)), limited.constraints) is None


def test_a_measured_limit_and_failures_are_kept_away_from():
    """Latency rises with depth and only the shallow keep to the limit; whatever is global in stage 1 fails."""
    space = parse_space(SPACE + "constraints: {max_latency_ms: 2.5}\n", "test")
    trials = []
    for trial in trials_of(space, 40, depth_helps):
        spec = suggestion(space, stored_pick(trial.params)).candidate.spec
        metrics = {**trial.metrics, "latency": float(spec.stages[0].depth) + 0.1}
        late, failed = metrics["latency"] > 2.5, spec.stages[0].mixer == "global"
        if late or failed:
            metrics.pop("accuracy")
        trials.append(trial._replace(metrics=metrics, failed=failed, counts=not (late or failed)))
    proposer, taken, found = Proposer(space, 5, 0), set(), []
    for _ in range(8):
        found.append(proposer.propose(trials, taken, SCALES).candidate.spec)
        taken.add(found[-1].id)
    assert sum(spec.stages[0].depth <= 2 for spec in found) >= 7
    assert sum(spec.stages[0].mixer == "local" for spec in found) >= 7


def test_where_a_limit_has_ended_all_trials_what_keeps_to_it_is_suggested():
    """Of 25 trials none was trained, as all were deeper than the limit allows; the shallow ones are unknown."""
    space = parse_space(SPACE + "constraints: {max_latency_ms: 1.2}\n", "test")
    trials = []
    for trial in trials_of(space, 60, depth_helps):
        depth = suggestion(space, stored_pick(trial.params)).candidate.spec.stages[0].depth
        metrics = {key: value for key, value in trial.metrics.items() if key != "accuracy"} | {"latency": depth + 0.1}
        if depth > 1:
            trials.append(trial._replace(metrics=metrics, counts=False))
    proposer, taken, depths = Proposer(space, 5, 0), set(), []
    for _ in range(6):
        found = proposer.propose(trials[:25], taken, SCALES)
        depths.append(found.candidate.spec.stages[0].depth)
        taken.add(found.candidate.spec.id)
    assert depths == [1] * 6


def test_a_limit_of_what_is_never_measured_keeps_nothing_away(space):
    limited = parse_space(SPACE + "constraints: {max_memory_mb: 50}\n", "test")
    trials = trials_of(limited, 20, depth_helps)
    found, free = Proposer(limited, 5, 0).propose(trials, set(), SCALES), Proposer(space, 5, 0)
    assert found == free.propose(trials, set(), SCALES)


def test_what_waits_at_a_rung_is_ranked_by_what_it_promises(space):
    """Of trials of one cost the one with the least loss at the rung; what could not reach the front is worth less."""
    ended = trials_of(space, 30, depth_helps)
    trials = [trial._replace(rungs=(3.0 - 3 * trial.metrics["accuracy"],)) for trial in ended]
    waiting = []
    for number, loss in ((100, 2.0), (101, 0.8), (102, 1.5)):
        metrics = {key: value for key, value in trials[0].metrics.items() if key != "accuracy"}
        waiting.append(Known(number, trials[0].params, metrics, (loss,)))
    worth = Proposer(space, 5, 0).outlook([*trials[1:], *waiting], [100, 101, 102], SCALES)
    assert worth[101] > worth[102] >= worth[100]


def test_an_exhausted_space_suggests_nothing():
    small = parse_space(
        "name: small\ninput: {frames: 4, size: 16}\nspec: {head_dim: 8, stem: {kernel: [1, 2, 2], stride: [2, 2, 2]}}\n"
        "stages: [{mixer: [local, global], depth: 1, width: 8}]\nobjectives: [accuracy, macs]\n",
        "small",
    )
    trials = trials_of(small, 6, lambda spec: 0.5)
    taken = {suggestion(small, stored_pick(trial.params)).candidate.spec.id for trial in trials}
    assert len(taken) == 2
    assert Proposer(small, 5, 0).propose(trials, taken, SCALES) is None
