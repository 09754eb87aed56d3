"""Rungs, the fidelity card, finalists and the axes of the parallel coordinates, by equality."""

import re

import plotly.graph_objects as go

from tests.make_run import make_run, with_evidence
from tests.test_report_page import data_of, read
from uniformer_bench import variant
from uniformer_bench.report.answer import answer
from uniformer_bench.report.arch import Input, view
from uniformer_bench.report.drawing import drawing, scale_of
from uniformer_bench.report.effects import effects
from uniformer_bench.report.fidelity import Correlation, Point, correlations, facts, points
from uniformer_bench.report.info import Axes, Rung, RungRow, Trial, read_trials, rungs
from uniformer_bench.report.page import render
from uniformer_bench.report.parallel import MOST, Dimension, dimensions
from uniformer_bench.report.progress_figures import fidelity_figure, rungs_figure
from uniformer_bench.report.trust import FINALS, drift

AXES = Axes("accuracy", "latency")


def test_a_record_has_rungs_in_order_and_stages_only_where_all_are_known():
    rows = [{"epochs": 2, "loss": 0.5, "seconds": 3}, {"epochs": 1}, {"loss": 0.1}, "x"]
    stages = [{"name": "stage1", "latency_ms": 1.5}, {"name": "stage2", "latency_ms": 0.5}]
    (trial,) = read_trials([{"number": 0, "rungs": rows, "stages": stages}])
    assert trial.rungs == (Rung(1, None, None), Rung(2, 0.5, 3))
    assert trial.stage_ms == (1.5, 0.5)
    (trial,) = read_trials([{"number": 0, "rungs": None, "stages": [*stages, {"name": "stage3", "latency_ms": None}]}])
    assert (trial.rungs, trial.stage_ms) == ((), ())


CLIMBED = (
    Trial(0, rungs=(Rung(1, 0.4, 2.0), Rung(4, 0.6, 5.0))),
    Trial(1, "pruned", rungs=(Rung(1, 0.3, 2.5),)),
    Trial(2, "pruned", rungs=(Rung(1, 0.5, 1.5), Rung(4, None, None))),
    Trial(3, "oom"),
)


def test_what_each_rung_stopped():
    assert rungs(CLIMBED) == (RungRow(1, 3, 1, 0.3, 6.0), RungRow(4, 2, 1, 0.6, 5.0))
    assert rungs([Trial(0)]) == ()


def test_curves_have_a_gap_after_each_trial():
    stopped, others = rungs_figure(CLIMBED)["data"]
    assert (stopped["name"], stopped["x"], stopped["y"]) == ("stopped", [1, None, 1, None], [0.3, None, 0.5, None])
    assert (others["name"], others["x"], others["y"]) == ("went on", [1, 4, None], [0.4, 0.6, None])
    go.Figure(rungs_figure(CLIMBED))


def test_every_correlation_of_a_card_is_found():
    card = {
        "tau": 0.7, "ci95": [0.5, 0.8], "n": 24, "longer": 8, "points": [{"trial": 3, "short": 0.5, "long": 0.6}, {}],
        "bands": [{"name": "cheap", "tau": 0.1, "ci95": [-0.2, 0.4]}],
        "straw_men": {"params": {"tau": float("nan")}, "macs": {"tau": 0.2}},
    }  # fmt: skip
    assert correlations(card) == (
        Correlation("overall", 0.7, 0.5, 0.8, 24),
        Correlation("bands: cheap", 0.1, -0.2, 0.4, None),
        Correlation("straw men: macs", 0.2, None, None, None),
    )
    assert points(card) == (Point(3, 0.5, 0.6),)
    assert facts(card) == {"longer": 8}
    assert (correlations(None), points(None)) == ((), ())
    (dots,) = fidelity_figure(points(card))["data"]
    assert (dots["x"], dots["y"], dots["customdata"]) == ([50.0], [60.0], [3])


def test_a_finalists_values_carry_their_intervals():
    accuracy = {"mean": 0.81, "ci95": [0.789, 0.83], "by_seed": {"0": 0.9, "1": 0.8, "2": 0.82}, "failed": {"3": "oom"}}
    row = {"latency_ms": {"median": 1.5, "ci95": [1.4, 1.6]}, "accuracy": accuracy, "on_front": 0.25}
    assert {head: read(row) for head, read in FINALS.items()} == {
        "validation accuracy": "81.0\u00a0% (78.9 to 83.0)",
        "each training (%)": "80.0, 82.0, seed 3 oom",  # the search's own stands by itself
        "in the search": "–",
        "test accuracy": "–",
        "latency": "1.50\u00a0ms (1.40 to 1.60)",
        "latency in the search": "–",
        "chance to be on the front": "25\u00a0%",
    }
    early = {"latency_ms": {"median": 1.5, "ci95": None}, "latency_ms_in_search": 2.0}  # of an older run
    assert [text for read in FINALS.values() if (text := read(early)) != "–"] == ["1.50\u00a0ms", "2.00\u00a0ms"]


def test_a_machine_that_changed_its_speed_is_told():
    rows = [{"latency_ms": {"median": 3.9}, "latency_ms_in_search": 2.6}, {"latency_ms": None}, {}]
    other = {"latency_ms": {"median": 4.0}, "latency_ms_in_search": 5.0}
    assert "are 0.80 to 1.50 times those in the search: the machine’s speed changed" in drift([*rows, other])
    assert "are 1.50 to 1.50 times" in drift(rows)  # all alike: other trials' points are not
    for steady in ([], rows[1:], [{"latency_ms": {"median": 2.2}, "latency_ms_in_search": 2.0}]):
        assert drift(steady) == ""


def test_only_finalists_are_on_the_front_where_there_are_any():
    def trial(n, accuracy, latency, memory, finalist):
        return Trial(n, values={"accuracy": accuracy, "latency": latency, "memory": memory}, finalist=finalist)

    trials = [trial(0, 0.7, 2.0, 5, True), trial(1, 0.6, 1.0, 4, True), trial(2, 0.9, 1.5, 3, False)]
    found = answer(trials, AXES)
    assert found.choice.pick in (0, 1)  # trial 2 was trained once, and was not good enough in the search
    steps = [(step.limit, step.choice.pick) for step in found.ladders["memory"]]
    assert steps == [(3, 2), (4, 1), (5, 0)]  # where no finalist fits, the best that does
    once = [each._replace(finalist=False) for each in trials]
    assert answer(once, AXES).choice.pick == 2


def test_what_a_fuller_search_records_is_on_the_page_and_nothing_of_it_without():
    headings = ("What each rung stopped", "How far the short run can be trusted", "Finalists, measured again")
    full, bare = render(with_evidence(make_run(40))), render(make_run(40))
    assert all(heading in full for heading in headings)
    assert not any(heading in bare for heading in headings)
    assert {"plot-rungs", "plot-fidelity"} <= set(data_of(full)["figures"])
    assert "−0.40 to 0.30" in read(full).text
    page = render(with_evidence(make_run(2)))
    read(page)


def test_latency_by_stage_is_drawn_where_it_was_recorded():
    found = view(Trial(0, spec=variant("s").to_dict(), stage_ms=(1.0, 1.0, 6.0, 2.0)), Input(16, (224, 224), 400))
    assert [stage.latency_share for stage in found.stages] == [0.1, 0.1, 0.6, 0.2]
    picture = drawing(found, scale_of([found]))
    assert re.findall(r">latency ([^<]+)<", picture) == ["10\u00a0%", "10\u00a0%", "60\u00a0%", "20\u00a0%"]
    assert "not measured" not in picture
    wrong = view(Trial(0, spec=variant("s").to_dict(), stage_ms=(1.0, 1.0)), Input(16, (224, 224), 400))
    assert wrong.stages[0].latency_share is None


def test_the_axes_of_the_parallel_coordinates():
    def trial(n, accuracy, latency, mixer, width, state="complete"):
        values = {"accuracy": accuracy, "latency": latency, "macs": 1e9}
        return Trial(n, state, values=values, params={"mixer": mixer, "width": width, "same": 1})

    trials = [trial(0, 0.5, 1.0, "local", 32), trial(1, 0.7, 20.0, "global", 16), trial(2, 0.1, 9e9, "x", 9, "oom")]
    assert dimensions(trials, AXES, effects(trials, "accuracy")) == (
        Dimension("accuracy", "validation accuracy (%)", low=50.0, high=70.0, scale=100),
        Dimension("latency_ms", "latency (ms)", low=1.0, high=20.0, log=True),
        Dimension("param_mixer", "mixer", ("global", "local")),
        Dimension("param_width", "width", ("16", "32")),
    )
    assert dimensions(trials[:1], AXES, ()) == ()
    many = [Trial(n, values={"accuracy": n / 20}, params={f"p{i}": n for i in range(20)}) for n in range(12)]
    axes = dimensions(many, AXES, effects(many, "accuracy"))
    assert len(axes) == MOST
    assert axes[1] == Dimension("param_p0", "p0", low=0, high=11)
