"""Several runs on one page, by equality on small runs made by hand."""

import plotly.graph_objects as go
import pytest

from tests.make_run import make_run, save_run
from tests.test_report_page import HOSTILE, data_of, hostile_run, read
from uniformer_bench.errors import UbenchError
from uniformer_bench.report.comparison import Budget, Difference, compare_runs, differences, scales_agree
from uniformer_bench.report.comparison_figures import RUNS, fronts_figure, histories_figure
from uniformer_bench.report.info import RUN_STEP, Axes
from uniformer_bench.report.page import render_comparison, write_comparison
from uniformer_bench.runs import Run, table_columns

B = RUN_STEP


def record(n, accuracy, latency, baseline=None):
    metrics = {"accuracy": accuracy, "latency": latency}
    return {"number": n, "state": "complete", "baseline": baseline, "metrics": metrics, "front": True}


def run_of(*records, **info):
    history = [[60.0 * (i + 1), r["number"], 0.1 * (i + 1)] for i, r in enumerate(records)]
    volume = {"value": 0.1 * len(records), "scales": {"latency": {"worst": 4}}, "history": history}
    return Run({"objectives": ["accuracy", "latency"], "hypervolume": volume, **info}, list(records))


# A: 80 % at 1 ms, 90 % at 4 ms. B: 70 % at 0.5 ms, 80 % at 2 ms, which A's first beats.
FIRST = run_of(record(0, 0.80, 1.0), record(1, 0.90, 4.0), name="a", seed=0)
SECOND = run_of(record(0, 0.70, 0.5), record(1, 0.80, 2.0), name="b", seed=1)


def test_every_run_has_its_pick_under_a_budget():
    found = compare_runs([FIRST, SECOND])
    assert found.axes == Axes("accuracy", "latency")
    assert [(side.letter, side.name) for side in found.sides] == [("A", "a"), ("B", "b")]
    assert [[t.number for t in side.trials] for side in found.sides] == [[0, 1], [B, B + 1]]
    assert [[t.label for t in side.trials] for side in found.sides] == [["A0", "A1"], ["B0", "B1"]]
    assert found.budgets["latency"] == (
        Budget(0.5, (None, B)),
        Budget(1.0, (0, B)),
        Budget(2.0, (0, B + 1)),
        Budget(4.0, (1, B + 1)),
    )


def test_what_no_other_front_beats_is_counted():
    assert compare_runs([FIRST, SECOND]).unbeaten == (2, 1)
    assert compare_runs([FIRST, FIRST]).unbeaten == (2, 2), "equals do not beat each other"


def test_the_picks_are_compared_in_a_sentence():
    found = compare_runs([FIRST, SECOND])  # no baselines: the knee of two is the better
    assert found.lede == (
        "The pick of B: 2.00× faster than the pick of A at −10.0 points of validation accuracy."
    )  # fmt: skip
    empty = run_of()
    assert compare_runs([empty, FIRST]).lede == "There are no two picks to compare."


def test_differences_are_facts_and_not_the_moment():
    a = {"seed": 0, "recipe": {"lr": 1, "epochs": 2}, "environment": {"load_average": [1], "cpu": "x"}, "name": "a"}
    b = {"seed": 0, "recipe": {"lr": 2, "epochs": 2}, "environment": {"load_average": [2], "gpu": "y"}, "name": "b"}
    assert differences([a, b]) == (
        Difference("recipe: lr", ("1", "2")),
        Difference("environment: cpu", ('"x"', None)),
        Difference("environment: gpu", (None, '"y"')),
    )


def test_a_page_warns_of_what_cannot_be_compared():
    other = Run({**SECOND.info, "seed": 0, "protocol": {"batch": 8}}, SECOND.trials)
    assert compare_runs([FIRST, other]).cautions == (
        "Latency was not taken on the same terms: protocol batch differ.",
    )  # fmt: skip
    assert compare_runs([FIRST, SECOND]).cautions == (
        "Validation accuracy was not taken on the same terms: seed differ.",
    )  # fmt: skip
    scaled = Run({**FIRST.info, "hypervolume": {"scales": {"latency": {"worst": 5}}}}, FIRST.trials)
    assert not scales_agree([FIRST.info, scaled.info])
    assert compare_runs([FIRST, scaled]).cautions == (
        "Hypervolumes have other reference points or scales, and are left out.",
    )


def test_the_axes_are_what_all_runs_asked_for():
    other = Run({**SECOND.info, "objectives": ["accuracy", "macs", "latency"]}, SECOND.trials)
    first = Run({**FIRST.info, "objectives": ["accuracy", "params", "latency"]}, FIRST.trials)
    assert compare_runs([first, other]).axes == Axes("accuracy", "latency")


def test_the_cost_is_one_that_all_runs_have():
    counted = run_of({**record(0, 0.6, None), "metrics": {"accuracy": 0.6, "macs": 5}}, objectives=["accuracy", "macs"])
    both = run_of({**record(0, 0.7, 1.0), "metrics": {"accuracy": 0.7, "latency": 1.0, "params": 1, "macs": 9}})
    assert compare_runs([both, counted]).axes == Axes("accuracy", "macs")
    assert compare_runs([both, run_of()]).axes == Axes("accuracy", "latency")
    assert compare_runs([FIRST, counted]).axes == Axes("accuracy", "latency"), "there is none"


@pytest.mark.parametrize("count", [1, 7])
def test_a_page_compares_two_to_six_runs(count):
    with pytest.raises(UbenchError, match=f"a page compares 2 to 6 runs, got {count}"):
        compare_runs([FIRST] * count)


def test_runs_differ_by_shape_and_dash_in_the_figures():
    found = compare_runs([FIRST, SECOND])
    drawn = fronts_figure(found)["data"]
    assert [(t["legendgroup"], t["mode"], t["x"], t["y"]) for t in drawn] == [
        ("A", "lines", [1.0, 4.0], [80.0, 90.0]),
        ("A", "markers", [1.0, 4.0], [80.0, 90.0]),
        ("B", "lines", [0.5, 2.0], [70.0, 80.0]),
        ("B", "markers", [0.5, 2.0], [70.0, 80.0]),
    ]
    assert drawn[3]["customdata"] == [B, B + 1]
    assert [t["x"] for t in histories_figure(found.sides)["data"]] == [[1.0, 2.0], [1.0, 2.0]]
    assert [t["x"] for t in histories_figure(found.sides, by_trials=True)["data"]] == [[1, 2], [1, 2]]
    for i in range(3):
        assert len({mark[i] for mark in RUNS.values()}) == len(RUNS)
    for figure in (fronts_figure(compare_runs([make_run(30), make_run(20, seed=1)])), histories_figure(found.sides)):
        go.Figure(figure)


def test_the_page_of_several_runs_is_whole_and_the_same_again(tmp_path):
    runs = [make_run(30), make_run(20, seed=1)]
    page = render_comparison(runs)
    assert page == render_comparison(runs)
    data = data_of(page)
    assert data["columns"] == table_columns([{**r, "run": "A"} for run in runs for r in run.trials])
    assert [row[:2] for row in data["rows"][28:32]] == [["A", 28], ["A", 29], ["B", 0], ["B", 1]]
    assert data["extra"][30][:2] == [B, "B0"]
    text = read(page).text
    assert "Unbeaten" in text
    assert "trials asked" in text
    paths = [save_run(run, tmp_path / name) for run, name in zip(runs, "xy", strict=True)]
    assert write_comparison(paths, tmp_path).name == "x_and_y.html"


@pytest.mark.parametrize("other", [make_run(0), make_run(1, baselines=False), Run({}, [])])
def test_a_run_beside_any_other_makes_a_page(other):
    page = render_comparison([make_run(6), other])
    data_of(page)
    assert read(page).tags["script"] == 3


def test_hostile_names_stay_text_beside_other_runs():
    page = render_comparison([make_run(6), hostile_run()])
    assert "<script>alert" not in page
    assert read(page).tags["script"] == 3
    assert HOSTILE in read(page).text
    assert "<script" not in str(data_of(page)["figures"])
