"""The hypervolume's axes: whose costs fix them, and when; its course by hand."""

from types import SimpleNamespace

import pytest

from uniformer_bench.search.axes import fixed_axes, history, hypervolume_of, of_axes, scales_of
from uniformer_bench.search.run_files import front


def record(number, accuracy, latency, state="complete", baseline=None):
    metrics = {"accuracy": accuracy, "latency": latency}
    return {"number": number, "state": state, "metrics": metrics, "baseline": baseline, "finished_s": number}


def test_front_scales_and_history_by_hand():
    records = [
        record(0, 0.5, 4.0, baseline="b"),
        record(1, 0.6, 2.0),
        record(2, 0.9, None, "pruned"),
        record(3, 0.4, 1.0),
    ]
    objectives = ("accuracy", "latency")
    assert [r["number"] for r in front(records, objectives)] == [1, 3]
    scales = scales_of(records[:1], objectives, 2)
    assert scales["latency"][:2] == (8.0, 0.08)
    # accuracy 0.6 of 0.5..1 is loss 0.8; latency 2 of 8 is log(2 / 0.08) / log(100) = 0.699
    assert hypervolume_of(records[1:2], objectives, scales) == pytest.approx(0.2 * (1 - 0.69897), rel=1e-4)
    steps = history(records, objectives, scales)
    assert [(at, number) for at, number, _ in steps] == [(0, 0), (1, 1), (3, 3)]
    assert steps[0][2] == 0  # the baseline stands at chance
    assert steps[1][2] == steps[2][2] > 0


def test_whose_costs_fix_the_axes():
    """Complete baselines before those that a limit ended, before other trials; what was refused was not measured."""

    def record(state, baseline, latency):
        return {"state": state, "baseline": baseline, "metrics": {} if latency is None else {"latency": latency}}

    refused, late = record("refused", "all local", None), record("infeasible", "paper pattern", 9.0)
    base, other, pruned = record("complete", "b", 5.0), record("complete", None, 4.0), record("pruned", None, 6.0)
    objectives = ("accuracy", "latency")
    assert of_axes([refused, late, base, other], objectives) == [base]
    assert of_axes([refused, late, other], objectives) == [late]
    assert of_axes([refused, other, pruned], objectives) == [other]
    assert of_axes([refused, pruned], objectives) == [pruned]
    assert of_axes([refused], objectives) == []
    assert of_axes([refused, pruned], objectives, enough=False) == []


def test_axes_wait_for_every_baseline_or_for_ten_trials():
    space = SimpleNamespace(objectives=("accuracy", "latency"), baseline_picks=lambda: [("b", {}), ("c", {})])
    first = record(0, 0.5, 4.0, baseline="b")
    cut_short = record(1, None, None, "interrupted", baseline="c")
    others = [record(number, 0.5, 3.0) for number in range(2, 11)]
    assert fixed_axes([first, cut_short, *others[:-1]], space, 2) == {}
    by_count = fixed_axes([first, cut_short, *others], space, 2)
    assert by_count == fixed_axes([first, record(1, None, None, "crashed", baseline="c")], space, 2)
    assert by_count["latency"].worst == 8.0


def test_a_single_trial_fixes_no_axes_where_no_baseline_was_measured():
    space = SimpleNamespace(objectives=("latency",), baseline_picks=lambda: [("b", {})])
    crashed = record(0, None, None, "crashed", baseline="b")
    late = record(1, None, 9.0, "infeasible")
    assert fixed_axes([crashed, late], space, 2) == {}
    assert fixed_axes([crashed, late, record(2, None, 3.0)], space, 2)["latency"].worst == 6.0
    assert fixed_axes([crashed, *[late] * 9], space, 2)["latency"].worst == 18.0
