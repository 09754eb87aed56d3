"""Where trials come from: the queue, the quasi-random start that a stop does not disturb, the model; a warm start."""

import json

import pytest

from tests.test_proposals import SCALES, SPACE, depth_helps, trials_of
from uniformer_bench.errors import UbenchError
from uniformer_bench.search.asking import Asker, known_of
from uniformer_bench.search.proposals.proposer import START, WARM_START, Known, Proposer
from uniformer_bench.search.study import Study, optuna_pick
from uniformer_bench.search.warm import warm_start
from uniformer_bench.space_file import parse_space

SPACE_VALUE = parse_space(SPACE, "test")
IDENTITY = {"data": "clips", "recipe": {"epochs": 1}, "device": "this", "protocol": {"batch": 1}, "seed": 0}


def opened(tmp_path, sampler="model"):
    return Study(f"sqlite:///{tmp_path}/study.db", "s", SPACE_VALUE.objectives, sampler, 0)


def asker_of(study, sampler="model", warm=()):
    return Asker(study, sampler, SPACE_VALUE, 5, 0, warm)


def started(study, count):
    asker = asker_of(study)
    return [asked_of(asker.next([], set(), {})) for _ in range(count)]


def asked_of(trial):
    """The architecture that a trial is for: a trial knows its parameters once it has been asked for each."""
    return SPACE_VALUE.candidate(optuna_pick(trial)).spec


def test_the_first_suggestions_are_the_same_across_a_stop(tmp_path):
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    whole = started(opened(tmp_path / "once"), START)
    first = started(opened(tmp_path / "twice"), 7)
    rest = started(opened(tmp_path / "twice"), START - 7)
    assert [*first, *rest] == whole
    assert len({spec.id for spec in whole}) > START - 3  # by chance some may be alike


def test_what_is_queued_comes_first_and_moves_nothing(tmp_path):
    (tmp_path / "other").mkdir()
    study = opened(tmp_path)
    study.enqueue([("paper pattern", {"mlp_ratio": "2"})])
    asker = asker_of(study)
    assert study.waits
    assert asker.next([], set(), {}).user_attrs == {"baseline": "paper pattern"}
    assert not study.waits
    assert [asked_of(asker.next([], set(), {}))] == started(opened(tmp_path / "other"), 1)


def test_the_start_goes_on_until_the_axes_are_fixed_and_then_the_model_asks(tmp_path):
    trials, asker = trials_of(SPACE_VALUE, 25, depth_helps), asker_of(opened(tmp_path))
    for _ in range(START + 2):
        assert "start" in asker.next(trials, set(), {}).user_attrs
    trial = asker.next(trials, set(), SCALES)
    assert "start" not in trial.user_attrs
    assert asked_of(trial) == Proposer(SPACE_VALUE, 5, 0).propose(trials, set(), SCALES).candidate.spec


def test_another_sampler_is_optunas_and_has_no_outlook(tmp_path):
    asker = asker_of(opened(tmp_path, "random"), "random")
    assert asker.next([], set(), {}).params == {}  # Optuna suggests as it is asked
    assert asker.outlook([], [1], SCALES) == {}


def test_records_say_how_a_trial_went():
    record = {"number": 3, "params": {"a": 1}, "metrics": {"macs": 5.0}, "rungs": [{"loss": 2.0}], "state": "oom"}
    assert known_of(record) == Known(3, {"a": 1}, {"macs": 5.0}, (2.0,), failed=True, counts=False)
    assert known_of({**record, "state": "paused"}).counts
    assert not known_of({**record, "state": "pruned"}).failed


# ---------------------------------------------------------------- a warm start


@pytest.fixture
def run(tmp_path):
    """A run of the space with trials of which depth makes the difference, and one that this space does not have."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    rows = [
        {
            "number": trial.number,
            "state": "complete",
            "params": dict(trial.params),
            "metrics": {**trial.metrics, "latency": 2.0},
            "rungs": [{"loss": 1.0}],
        }
        for trial in trials_of(SPACE_VALUE, 30, depth_helps)
    ]
    odd = [{**rows[0], "number": 30, "params": {**rows[0]["params"], "stage1.mixer": "fourier"}}]
    repeated = [{**rows[0], "number": 31, "state": "repeated"}]
    (folder / "trials.json").write_text(json.dumps([*rows, *odd, *repeated]))
    (folder / "run.json").write_text(json.dumps({"schema_version": 1, "identity": {**IDENTITY, "device": "another"}}))
    return folder


def test_a_run_of_another_device_teaches_accuracy_as_it_is_and_latency_apart(run):
    found = warm_start(run, IDENTITY, SPACE_VALUE)
    assert len(found.trials) == 30
    assert len({trial.number for trial in found.trials}) == 30
    assert all(trial.number < -1 for trial in found.trials)
    one = found.trials[0]
    assert one.rungs == (1.0,)
    assert set(one.metrics) == {"accuracy", "latency"}
    assert "latency" in one.elsewhere
    assert "accuracy" not in one.elsewhere
    assert found.note == (
        "The sampler began from 30 of the 31 trials of theirs; measured under other terms there: energy, latency, "
        "memory, throughput, training memory."
    )


def test_a_run_on_other_clips_teaches_accuracy_apart_and_no_rungs(run):
    found = warm_start(run, {**IDENTITY, "device": "another", "data": "others"}, SPACE_VALUE)
    assert found.trials[0].elsewhere == {"accuracy"}
    assert found.trials[0].rungs == ()
    same = warm_start(run, {**IDENTITY, "device": "another", "seed": 5}, SPACE_VALUE)
    assert same.trials[0].elsewhere == frozenset()
    assert same.note == "The sampler began from 30 of the 31 trials of theirs, measured as here."


def test_a_warm_start_of_no_use_is_refused(run):
    with pytest.raises(UbenchError, match=r"must be from another question, got the same one in .*; resume it instead"):
        warm_start(run, {**IDENTITY, "device": "another"}, SPACE_VALUE)
    small = parse_space(
        SPACE.replace("objectives:", "  - {mixer: global, depth: [1, 2], width: 16}\nobjectives:"), "small"
    )
    with pytest.raises(UbenchError, match="must have trials of this space, got none of 31"):
        warm_start(run, IDENTITY, small)
    with pytest.raises(UbenchError, match="a run is a folder with"):
        warm_start(run.parent, IDENTITY, SPACE_VALUE)


def test_a_model_that_starts_warm_knows_what_helps_after_three_trials(run, tmp_path):
    """Accuracy there is 0.2 higher for all: not the level is carried over but what makes the difference."""
    warm = warm_start(run, {**IDENTITY, "data": "others"}, SPACE_VALUE).trials
    theirs = [replace_accuracy(trial, trial.metrics["accuracy"] + 0.2) for trial in warm]
    few = trials_of(SPACE_VALUE, 3, depth_helps, seed=9)
    found = [asked(theirs, few, i) for i in range(6)]
    assert sum(depth_helps(spec) >= 0.6 for spec in found) >= 3
    study = opened(tmp_path)
    asker = asker_of(study, warm=warm)
    for _ in range(WARM_START):
        assert "start" in asker.next(few, set(), SCALES).user_attrs
    assert "start" not in asker.next(few, set(), SCALES).user_attrs


def replace_accuracy(trial, value):
    return trial._replace(metrics={**trial.metrics, "accuracy": value})


def asked(warm, trials, seed):
    return Proposer(SPACE_VALUE, 5, seed, warm).propose(trials, set(), SCALES).candidate.spec
