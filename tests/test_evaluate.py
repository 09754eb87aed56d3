"""One trial: each phase spends nothing on what the one before refused, and what goes wrong is a state."""

import contextlib
from dataclasses import replace

import pytest
import torch

from tests.test_train import light_and_dark
from uniformer_bench.data.clips import Clips
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.energy import Energy
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.recipe import Recipe
from uniformer_bench.search import evaluate as module
from uniformer_bench.search.evaluate import Task, check_measurable, evaluate, trained_spec
from uniformer_bench.search.turns import Turns
from uniformer_bench.variants import variant


@pytest.fixture
def task(tmp_path, monkeypatch):
    clips = Clips(light_and_dark(), light_and_dark(), light_and_dark(), ("dark", "light"), {})
    monkeypatch.setattr(module, "load_clips", lambda **data: clips)
    module.clips_of.cache_clear()
    turns = Turns(tmp_path)
    monkeypatch.setattr(module, "turns_of", lambda folder: turns)
    protocol = Protocol(device="cpu", frames=4, size=(32, 32), threads=1)
    recipe = Recipe(epochs=8, batch=8)
    measure = ("accuracy", "latency", "memory", "training_memory")
    spec = variant("micro")
    threads = torch.get_num_threads()
    yield Task(spec, spec, 2, protocol, measure, {}, recipe, {}, 0, tmp_path, 1)
    torch.set_num_threads(threads)
    turns.close()


def test_all_numbers_of_a_trial(task):
    found = evaluate(task)
    assert found.state == "complete"
    assert found.metrics["accuracy"] == 1.0  # light and dark
    assert found.metrics["throughput"] == pytest.approx(1000 / found.metrics["latency"])
    assert found.metrics["training_memory"] > found.metrics["memory"] > 4 * 88_000
    low, high = found.intervals["latency"]
    assert low <= found.metrics["latency"] <= high
    assert set(found.seconds) == {"build", "latency", "memory", "train", "accuracy"}


def test_compiling_is_a_phase_of_its_own_in_which_others_go_on(task, monkeypatch):
    seen, alone = [], Turns.alone

    @contextlib.contextmanager
    def noting(turns):
        with alone(turns):
            seen.append("alone")
            yield

    monkeypatch.setattr(Turns, "alone", noting)
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: seen.append("compile") or model)
    task = task._replace(protocol=replace(task.protocol, compile=True), measure=("latency",))
    found = evaluate(task)
    assert seen == ["compile", "alone"]
    assert set(found.seconds) == {"build", "compile", "latency"}
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: 1 / 0)
    assert "torch.compile failed, so the model runs without it" in evaluate(task).warnings[0]


def test_only_what_is_asked_is_measured(task):
    found = evaluate(task._replace(measure=("memory",)))
    assert set(found.metrics) == {"memory"}
    assert set(found.seconds) == {"build", "memory"}


def test_a_trial_pauses_at_a_rung_and_ends_as_if_it_had_not(task, tmp_path):
    task = task._replace(measure=("accuracy", "memory"), rungs=(0.25, 0.5), paused=tmp_path / "deep" / "7.pt")
    whole = evaluate(task)
    first = evaluate(task._replace(until=0.25))
    assert (first.state, first.reason) == ("paused", "paused at 25% of the short run")
    assert ("accuracy" in first.metrics, "memory" in first.metrics) == (False, True)
    second = evaluate(task._replace(resumed=True))
    assert (second.state, second.metrics) == ("complete", {"accuracy": whole.metrics["accuracy"]})
    losses = [(rung["share"], rung["epochs"], rung["loss"]) for rung in whole.rungs]
    assert [share for share, _, _ in losses] == [0.25, 0.5]
    assert losses[1][1] == 0.5 * task.recipe.epochs
    assert [(r["share"], r["epochs"], r["loss"]) for r in (*first.rungs, *second.rungs)] == losses
    (tmp_path / "deep" / "7.pt").unlink()  # lost: it starts again, and comes to the same
    again = evaluate(task._replace(resumed=True))
    assert [rung["loss"] for rung in again.rungs] == [loss for _, _, loss in losses]


def test_energy_is_measured_alone_on_what_counts_it(task, monkeypatch):
    seen = []

    def measured(run, protocol, *, window_s):
        seen.append((tuple(run().shape), protocol, window_s))
        return Energy(joules_per_clip=0.5, warnings=("warm",))

    monkeypatch.setattr(module, "measure_energy", measured)
    found = evaluate(task._replace(measure=("energy",)))
    assert found.metrics == {"energy": 0.5}
    assert (set(found.seconds), found.warnings) == ({"build", "energy"}, ["warm"])
    assert seen == [((1, 2), task.protocol, 2.0)]


def test_energy_that_nobody_counts_is_refused_and_never_made_up(task):
    with pytest.raises(UbenchError, match="energy must be counted on cpu, got none: no energy counter is read on cpu"):
        evaluate(task._replace(measure=("energy",)))
    with pytest.raises(
        UbenchError, match="energy must be measured on a GPU that counts it, got cpu: no energy counter"
    ):
        check_measurable(("energy",), ("cpu", "cpu"))
    check_measurable(("latency",), ("cpu",))


LATENCY = ({"max_latency_ms": 1e-6}, "max_latency_ms must be at most 1e-06 ms")
MEMORY = ({"max_memory_mb": 0.1}, "max_memory_mb must be at most 0.1 MB")


@pytest.mark.parametrize(
    ("limit", "measure", "phases"),
    [
        (LATENCY, ("accuracy", "latency", "memory"), {"build", "memory", "latency"}),
        (MEMORY, ("accuracy", "latency", "memory"), {"build", "memory"}),
        (LATENCY, ("accuracy", "latency", "training_memory"), {"build", "latency"}),  # dearer than latency
        (MEMORY, ("accuracy", "latency", "memory", "training_memory"), {"build", "latency", "memory"}),
    ],
)
def test_a_broken_limit_ends_it_there_and_the_cheapest_is_looked_at_first(task, limit, measure, phases):
    limits, reason = limit
    found = evaluate(task._replace(constraints=limits, measure=measure))
    assert found.state == "infeasible"
    assert found.reason.startswith(reason)
    assert set(found.seconds) == phases


def test_divergence_and_lack_of_memory_are_states(task, monkeypatch):
    lost = evaluate(task._replace(recipe=Recipe(epochs=8, batch=8, lr=1e30, clip_norm=1e30)))
    assert lost.state == "diverged"
    assert "loss must stay finite" in lost.reason

    def full(*arguments, **keywords):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")

    advance = module.ShortRun.advance

    def tight(run, until, at_step):
        run.micro_batch = 4  # as where memory held no more
        advance(run, until, at_step)

    monkeypatch.setattr(module.ShortRun, "advance", tight)
    split = evaluate(task)
    assert (split.state, split.adapted) == ("complete", {"micro_batch": 4})
    assert [w for w in split.warnings if "micro" in w or "at a time" in w] == [
        "memory did not hold the batch of 8: it trained on 4 at a time with gradients accumulated, so that BatchNorm "
        "saw 4 clips at a time"
    ]
    monkeypatch.setattr(module, "ShortRun", full)
    small = evaluate(task)
    assert small.state == "oom"
    assert "can't allocate memory" in small.reason
    assert small.metrics["latency"] > 0  # what was known stays


def test_an_unknown_error_is_not_swallowed(task, monkeypatch):
    def broken(*arguments, **keywords):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(module, "ShortRun", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        evaluate(task)


def test_the_recipe_may_replace_stochastic_depth():
    assert trained_spec(variant("s"), Recipe()) == variant("s")
    assert trained_spec(variant("s"), Recipe(drop_path=0)).drop_path == 0
