"""Latency by a scripted clock: when it stops, what it says, and an interval that covers as often as it claims."""

import contextlib
import itertools
import json
import math
import random
import statistics
from dataclasses import replace

import pytest
import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import to_json
from uniformer_bench.measure.gpu import GpuState
from uniformer_bench.measure.latency import (
    Latency,
    Sample,
    Stopwatch,
    interval_rank,
    measure_latencies,
    measure_latency,
    median_interval,
    quantile,
    stage_latencies,
    stage_runs,
    stopwatch,
)
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build, clips_like
from uniformer_bench.variants import variant

PROTOCOL = Protocol(device="cpu", frames=8, size=32)


class Script:
    """A clock whose repeats take the times it is given, and which counts them."""

    def __init__(self, times_ms, others_per_s=0.0, cpu_share=1.0, resolution_ms=1e-6, overhead_s=0.0):
        self.times, self.seconds, self.runs, self.cpu_share = iter(times_ms), 0.0, 0, cpu_share
        self.overhead_s = overhead_s
        self.watch = Stopwatch(
            self.time, lambda: self.seconds, resolution_ms, lambda: others_per_s * self.seconds, cores=2
        )

    def time(self, run, n):
        samples = [Sample(ms, ms * self.cpu_share) for ms in itertools.islice(self.times, n)]
        for _ in samples:
            run()
        self.runs += len(samples)
        self.seconds += sum(sample.ms for sample in samples) / 1000 + self.overhead_s * n
        return samples


def _measure(script, **options):
    return measure_latency(lambda: None, PROTOCOL, **({"budget_s": 1.0, "clock": script.watch} | options))


def _noisy(share, seed=0):
    rng = random.Random(seed)
    return (10 * (1 + rng.uniform(-share, share)) for _ in itertools.count())


def test_equal_repeats_stop_at_once():
    latency = _measure(Script(itertools.repeat(10.0)))
    assert (latency.median, latency.ci95, latency.stopped, latency.warnings) == (10.0, (10.0, 10.0), "target", ())
    assert latency.n == 6


def test_noise_is_repeated_until_the_interval_is_narrow():
    quiet, loud = _measure(Script(_noisy(0.01))), _measure(Script(_noisy(0.1)), budget_s=100)
    assert quiet.stopped == loud.stopped == "target"
    assert quiet.n < loud.n
    low, high = loud.ci95
    assert max(loud.median - low, high - loud.median) <= 0.02 * loud.median


def test_the_budget_ends_what_does_not_converge():
    script = Script(itertools.cycle([5.0, 20.0]))
    latency = _measure(script, budget_s=2.0)
    assert latency.stopped == "budget"
    assert 2.0 <= script.seconds < 2.5
    assert "when the time was up, not 2.0%" in latency.warnings[0]


def test_one_slow_run_does_not_move_the_median():
    latency = _measure(Script(itertools.chain([10.0] * 5, [900.0], itertools.repeat(10.0))))
    assert latency.median == 10.0


def test_warm_up_lasts_while_repeats_get_faster():
    slow_start = itertools.chain([500.0], [40.0] * 2, [20.0] * 2, itertools.repeat(10.0))
    latency = _measure(Script(slow_start), budget_s=10.0)
    assert latency.samples_ms == [10.0] * latency.n
    # 500; 40; windows of 12 (5 % of the budget at 40 ms): the first is faster than 40, the second no faster than it.
    assert latency.warmup == 1 + 1 + 12 + 12


def test_warm_up_is_bounded_by_a_quarter_of_the_budget():
    ever_faster = (1000 * 0.9**i for i in itertools.count())
    script = Script(ever_faster)
    latency = _measure(script, budget_s=8.0, min_repeats=1)
    assert latency.warmup == 3  # 1000 + 900 ms is under 2 s, one more window is over


def test_a_model_slower_than_the_budget_is_still_repeated():
    assert _measure(Script(itertools.repeat(5000.0))).n == 6
    few = _measure(Script(itertools.repeat(5000.0)), min_repeats=2)
    assert (few.n, few.ci95, few.stopped) == (2, None, "budget")
    assert few.warnings == ("2 repeats have no 95 % interval, 6 are needed",)
    assert few.to_dict()["ci95"] is None


def test_warnings_about_the_clock_and_the_machine():
    coarse = _measure(Script(itertools.repeat(0.5), resolution_ms=0.01))
    assert "too short for a clock of 0.01 ms" in coarse.warnings[0]
    frozen = _measure(Script(itertools.repeat(0.0), resolution_ms=0.01, overhead_s=0.01))
    assert (frozen.median, frozen.stopped) == (0, "budget")
    assert "a repeat took 0 ms" in frozen.warnings[0]
    (crowded,) = _measure(Script(_noisy(0.05), others_per_s=1.5), budget_s=10).warnings
    assert crowded.startswith("other processes kept 1.5 of 2 cores busy")
    assert _measure(Script(_noisy(0.05), others_per_s=0.9), budget_s=10).warnings == ()
    (preempted,) = _measure(Script(itertools.repeat(10.0), cpu_share=0.5)).warnings
    assert preempted.startswith("this process ran 50% of the time only")


@pytest.mark.parametrize("supported", [True, False])
def test_an_emulated_precision_is_said(supported, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    protocol = Protocol(device="cpu", frames=8, size=32, precision="bf16", threads=1)
    clock = Script(itertools.repeat(10.0)).watch
    found = measure_latency(lambda: None, protocol, budget_s=1.0, clock=clock).warnings
    assert [warning for warning in found if "emulates" in warning] == (
        [] if supported else ["this processor has no instructions for bf16, and emulates them: fp32 is faster"]
    )


def test_runs_are_in_inference_mode_and_counted():
    modes, script = [], Script(itertools.repeat(10.0))
    latency = measure_latency(
        lambda: modes.append(torch.is_inference_mode_enabled()), PROTOCOL, budget_s=1.0, clock=script.watch
    )
    assert set(modes) == {True}
    assert len(modes) == script.runs == latency.warmup + latency.n


def test_several_take_turns_until_each_is_sure():
    """One is steady and one swings: the steady one is left out once it is sure, the other goes on to the end."""
    order, seconds, rng = [], [0.0], random.Random(0)

    def run_of(name):
        return lambda: order.append(name)

    def timed(run, n):
        samples = []
        for _ in range(n):
            run()
            samples.append(Sample(10.0 if order[-1] == "steady" else rng.choice([5.0, 20.0])))
        seconds[0] += sum(sample.ms for sample in samples) / 1000
        return samples

    watch = Stopwatch(timed, lambda: seconds[0], 1e-6, lambda: 0.0, cores=2)
    steady, swinging = measure_latencies(
        [run_of("steady"), run_of("swinging")], PROTOCOL, budget_s=4.0, clock=watch, seed=0
    )
    assert (steady.median, steady.stopped, swinging.stopped) == (10.0, "target", "budget")
    assert order.count("steady") == steady.warmup + steady.n
    assert order.count("swinging") == swinging.warmup + swinging.n > 5 * steady.n
    assert 4.0 <= seconds[0] < 4.5  # the budget is for both


def test_the_order_of_turns_is_drawn_from_the_seed():
    def first_turns(seed):
        order, noise = [], random.Random(1)

        def timed(run, n):
            run()
            return [Sample(noise.choice([5.0, 20.0])) for _ in range(n)]

        ticks = itertools.count()
        watch = Stopwatch(timed, lambda: next(ticks) / 100, 1e-6, lambda: 0.0, cores=2)
        runs = [lambda name=name: order.append(name) for name in "abcd"]
        measure_latencies(runs, PROTOCOL, budget_s=1.0, clock=watch, seed=seed)
        return "".join(order)

    assert first_turns(0) == first_turns(0) != first_turns(1)


@pytest.mark.parametrize(("budget_s", "min_repeats"), [(0, 6), (1, 0)])
def test_a_budget_must_be_positive(budget_s, min_repeats):
    with pytest.raises(UbenchError, match=f"must be positive, got {budget_s} and {min_repeats}"):
        measure_latency(lambda: None, PROTOCOL, budget_s=budget_s, min_repeats=min_repeats)


def test_to_dict_has_the_contract():
    latency = Latency(tuple(Sample(float(ms), 0.5) for ms in range(1, 11)), 3, "target", ("a sentence",))
    # Ten values: rank 2 (P(fewer than 2 heads of 10) = 11/1024, of 3 it is 56/1024), so 2nd and 9th.
    assert latency.to_dict() == {
        "median": 5.5,
        "p10": 1.0,
        "p90": 9.0,
        "ci95": [2.0, 9.0],
        "n": 10,
        "cpu_median": 0.5,
        "stopped": "target",
        "warnings": ["a sentence"],
        "threads": None,
        "issue_ms": None,
        "graph": False,
        "gpu": None,
    }
    assert Latency((Sample(1.0),), 0, "budget").cpu_median is None
    assert _measure(Script(itertools.repeat(10.0))).to_dict()["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("n", [1, 2, 5, 6, 8, 9, 20, 21, 100, 1001])
def test_the_rank_is_the_largest_that_leaves_2_5_percent(n):
    def below(k):  # P(Binomial(n, 1/2) < k), in whole numbers
        return sum(math.comb(n, i) for i in range(k))

    k = interval_rank(n)
    assert 40 * below(k) <= 2**n < 40 * below(k + 1)
    assert (k == 0) == (n < 6)


def test_the_interval_covers_the_median_95_times_in_100():
    rng, covered, trials = random.Random(1), 0, 2000
    for _ in range(trials):
        low, high = median_interval([rng.lognormvariate(0, 1) for _ in range(25)])
        covered += low <= 1.0 <= high  # the median of this skewed distribution is 1
    exact = 1 - 2 * sum(math.comb(25, i) for i in range(interval_rank(25))) / 2**25
    assert exact >= 0.95
    assert abs(covered / trials - exact) < 4 * math.sqrt(exact * (1 - exact) / trials)


def test_quantiles_are_values_that_occurred():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [quantile(values, share) for share in (0.1, 0.2, 0.5, 0.9, 1.0)] == [1.0, 1.0, 3.0, 5.0, 5.0]


def test_the_real_clock_gives_wall_and_processor_time():
    watch = stopwatch("cpu")
    samples = watch.time(lambda: sum(range(1000)), 3)
    assert len(samples) == 3
    assert all(sample.ms > 0 and sample.cpu_ms is not None for sample in samples)
    assert watch.others() >= 0
    assert watch.resolution_ms > 0
    assert watch.now() <= watch.now()


def test_gpu_repeats_are_events_with_one_wait(monkeypatch):
    ticks, log = itertools.count(), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = 10.0 * next(ticks)
            log.append("event")

        def elapsed_time(self, end):
            assert log[-1] == "wait"
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext(log.append(device)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait"))
    samples = stopwatch("cuda:1").time(lambda: log.append("run"), 2)
    assert samples == [Sample(10.0), Sample(10.0)]
    assert log == ["cuda:1", "event", "run", "event", "run", "event", "wait"]


CUDA = Protocol(device="cuda:0", frames=8, size=32)
STATE = GpuState(sm_clock_mhz=2000, other_processes=0, throttle_reasons=())


def _on_gpu(states, issue_ms=1.0, capture=None, **options):
    """Measures by a script whose repeats each come with the next state; before and after are STATE."""
    script, states = Script(itertools.repeat(10.0)), iter(states)

    def time(run, n):
        return [Sample(sample.ms, None, next(states)) for sample in script.time(run, n)]

    watch = script.watch._replace(time=time, state=lambda: STATE, issue_ms=lambda run: issue_ms, capture=capture)
    protocol = options.pop("protocol", CUDA)
    return measure_latency(options.pop("run", lambda: None), protocol, budget_s=1.0, clock=watch, **options)


def test_a_gpu_s_state_stands_beside_its_times():
    latency = _on_gpu(itertools.repeat(STATE))
    assert latency.warnings == ()
    found = json.loads(to_json(latency.to_dict()))
    assert found["gpu"] == {
        "before": STATE.to_dict(),
        "after": STATE.to_dict(),
        "median_sm_clock_mhz": 2000,
        "least_sm_clock_mhz": 2000,
    }
    assert (found["issue_ms"], found["cpu_median"], found["graph"]) == (1.0, None, False)


def test_a_gpu_nobody_knows_has_its_reason_and_no_warning():
    unknown = GpuState(reason="nvidia-ml-py is not installed")
    latency = _on_gpu(itertools.repeat(unknown))
    assert latency.warnings == ()
    assert latency.to_dict()["gpu"]["median_sm_clock_mhz"] is None


def _measured_states(states):
    """States for the samples alone: warm-up takes 1, 1 and a window of 5 (5 % of a second at 10 ms)."""
    return _on_gpu(itertools.chain([STATE] * 7, states))


def test_repeats_on_a_gpu_held_down_are_counted():
    hot = replace(STATE, throttle_reasons=("idle", "power cap", "heat (software)"))
    (warning,) = _measured_states([STATE, STATE, STATE, STATE, hot, hot]).warnings
    assert warning == "2 of 6 repeats ran while the GPU's clock was held down: power cap, heat (software)"
    assert _measured_states([replace(STATE, throttle_reasons=("idle", "sync boost"))] * 6).warnings == ()


def test_repeats_below_three_quarters_of_the_median_clock_are_counted():
    slow, slower = replace(STATE, sm_clock_mhz=1500), replace(STATE, sm_clock_mhz=1499)
    (warning,) = _measured_states([STATE, slow, STATE, slower, STATE, STATE]).warnings
    assert warning == "1 of 6 repeats ran below 75% of the GPU's median clock, 2000 MHz"


def test_other_processes_on_the_gpu_are_named():
    crowded = replace(STATE, other_processes=2)
    assert _measured_states([STATE] * 5 + [crowded]).warnings == ("other processes were on the GPU: 2",)


def test_a_gpu_that_waits_for_its_launches_is_said():
    (warning,) = _on_gpu(itertools.repeat(STATE), issue_ms=9.5).warnings
    assert warning == "bound by launching, not by the GPU: the host took 9.5 ms to issue a run"
    assert _on_gpu(itertools.repeat(STATE), issue_ms=8.9).warnings == ()


def test_graphs_are_replayed_where_the_protocol_wants_them():
    log = []
    graphed = replace(CUDA, graph=True)

    def capture(run):
        run()
        return lambda: log.append("replay"), None

    latency = _on_gpu(itertools.repeat(STATE), protocol=graphed, run=lambda: log.append("eager"), capture=capture)
    assert latency.graph
    assert log == ["eager"] + ["replay"] * (latency.warmup + latency.n)
    refused = _on_gpu(itertools.repeat(STATE), protocol=graphed, capture=lambda run: (run, "no graph: a reason"))
    assert (refused.graph, refused.warnings) == (False, ("no graph: a reason",))
    assert not _on_gpu(itertools.repeat(STATE), capture=capture).graph


def test_stages_chained_are_the_model():
    spec = variant("micro")
    model, x = build(spec, 10).eval(), clips_like(spec, 2, 8, (32, 32))
    with torch.no_grad():
        expected = model(x)
        for part in stage_runs(model):
            x = part(x)
    assert torch.equal(x, expected)


def test_stage_latencies_are_medians_by_stage_then_head():
    spec = variant("micro")
    script = Script(itertools.cycle([4.0, 4.0, 5.0]))
    found = stage_latencies(
        build(spec, 10).eval(), clips_like(spec, 1, 8, (32, 32)), PROTOCOL, budget_s=0.5, clock=script.watch
    )
    assert found == [4.0] * (len(spec.stages) + 1)
    assert statistics.median(found) == 4.0
