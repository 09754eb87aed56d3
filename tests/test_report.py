"""The report's data and figures, by equality on small runs made by hand."""

import html
import json
import math
import re
import shlex

import click
import plotly.graph_objects as go
import pytest

from tests.make_run import make_run
from uniformer_bench import ArchSpec, cost, variant
from uniformer_bench.cli import cli
from uniformer_bench.report.answer import Choice, Step, answer, knee, sentence
from uniformer_bench.report.arch import Input, read_input, spec_python, spec_yaml, view
from uniformer_bench.report.architectures import architecture
from uniformer_bench.report.contents import contents
from uniformer_bench.report.drawing import COLUMN, TALL, drawing, scale_of, thumbnail
from uniformer_bench.report.effects import PatternCell, effects, patterns
from uniformer_bench.report.figures import ROLES, effects_figure, front_figure, pattern_figure, role
from uniformer_bench.report.info import (
    Axes,
    Cause,
    Fate,
    History,
    Trial,
    choose_axes,
    fates,
    front_of,
    history,
    phases,
    read_trials,
)
from uniformer_bench.report.progress_figures import history_figure
from uniformer_bench.report.text import duration, number, shown, signed
from uniformer_bench.yaml_text import parse_yaml

AXES = Axes("accuracy", "latency")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def trial(n, accuracy=None, latency=None, **more):
    values = {"accuracy": accuracy, "latency": latency, **more.pop("values", {})}
    return Trial(n, values={key: value for key, value in values.items() if value is not None}, **more)


# paper: 80 % at 2 ms. 1 is as good and twice as fast, 2 better at the same cost, 3 best and dear, 4 dominated.
PAPER = trial(0, 0.80, 2.0, baseline="paper pattern", pattern="LLGG")
FIVE = (PAPER, trial(1, 0.80, 1.0), trial(2, 0.85, 2.0), trial(3, 0.90, 4.0), trial(4, 0.70, 3.0))


# the data


def test_a_record_becomes_a_trial():
    record = {
        "number": 3,
        "state": "pruned",
        "reason": "rung 1",
        "spec_id": "ab",
        "spec": {"stages": [{"mixer": "local"}, {"mixer": "split"}]},
        "baseline": None,
        "params": {"stage1.kernel": [1, 3, 3]},
        "metrics": {"accuracy": 0.5, "latency": float("nan"), "macs": None, "unheard of": 1},
        "intervals": {"accuracy": [0.4, 0.6], "latency": [None, 1]},
        "seconds": {"train": 1.5, "build": None},
        "finished_s": 9.5,
    }
    assert read_trials([record]) == (
        Trial(3, "pruned", "rung 1", None, "ab", "LS", False, {"accuracy": 0.5}, {"accuracy": (0.4, 0.6)},
              {"stage1.kernel": "1x3x3"}, {"train": 1.5}, 9.5, record["spec"]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("objectives", "axes"),
    [
        (["accuracy", "latency"], ("accuracy", "latency")),
        (["macs", "accuracy"], ("accuracy", "macs")),
        (["throughput", "memory"], ("throughput", "memory")),
        (["latency"], ("accuracy", "latency")),
        ([], ("accuracy", "latency")),
    ],
)
def test_the_axes_are_what_is_wanted_and_what_it_costs(objectives, axes):
    assert choose_axes(objectives) == axes


def test_the_front_is_what_nothing_beats():
    assert [t.number for t in front_of(FIVE, AXES)] == [1, 2, 3]
    assert front_of([trial(0, 0.9, 1.0, state="infeasible"), trial(1, 0.5)], AXES) == ()


def test_the_front_of_equal_trials_is_the_first_of_them():
    assert [t.number for t in front_of([trial(0, 0.5, 1.0), trial(1, 0.5, 1.0)], AXES)] == [0]


def test_fates_are_counted_by_state_and_message():
    trials = [
        trial(0),
        trial(1, state="oom", reason="b"),
        trial(2, state="oom", reason="a"),
        trial(3, state="oom", reason="a"),
        trial(4, state="refused"),
    ]
    assert fates(trials) == (
        Fate("complete", 1, ()),
        Fate("oom", 3, (Cause("a", (2, 3)), Cause("b", (1,)))),
        Fate("refused", 1, ()),
    )


def test_seconds_add_up_by_phase():
    trials = [trial(0, seconds={"build": 1.0, "train": 2.0}), trial(1, seconds={"build": 0.5, "memory": 4.0})]
    assert phases(trials) == (("build", 1.5), ("train", 2.0), ("memory", 4.0))


def test_the_baselines_level_is_known_where_they_came_first():
    past = {"history": [[1.0, 0, 0.2], [2.0, 1, 0.3], [3.0, 2, 0.5], [None, 3, 0.5]]}
    baselines = [trial(0, baseline="a"), trial(1, baseline="b"), trial(2)]
    assert history(past, baselines) == History(((1.0, 0, 0.2), (2.0, 1, 0.3), (3.0, 2, 0.5)), 0.3)
    assert history(past, [trial(0), trial(1, baseline="b")]).level is None
    assert history({}, []) == History((), None)


# the answer


def test_the_pick_is_the_most_accurate_no_slower_than_the_paper():
    found = answer(FIVE, AXES)
    assert found.reference == 0
    assert found.choice == Choice(pick=2, cheaper=1, better=3)
    assert found.rule == "The most accurate architecture that is no slower than the baseline “paper pattern”."


def test_a_hair_of_accuracy_buys_no_slower_pick():
    """Of 0.80 with a 95 % interval of +-0.0392 the standard error is 0.02: 0.781 is level with it, 0.779 is not."""
    ends = {"accuracy": (0.7608, 0.8392)}
    for cheap, pick in ((0.781, 1), (0.779, 2)):
        trials = [
            trial(0, 0.6, 4.0, baseline="paper pattern"),
            trial(1, cheap, 1.0),
            trial(2, 0.8, 3.0, intervals=ends),
        ]
        found = answer(trials, AXES)
        assert found.choice.pick == pick
        assert found.choice.better == (2 if pick == 1 else None)
    rule = answer([trials[0], trial(1, 0.79, 1.0), trials[2]], AXES).rule
    assert rule == (
        "The fastest within one standard error of the most accurate architecture that is no slower than the baseline "
        "“paper pattern”, trial 2."
    )


def test_a_budget_changes_the_pick():
    steps = answer(FIVE, AXES).ladders["latency"]
    assert steps == (
        Step(1.0, Choice(1, None, 3)),
        Step(2.0, Choice(2, 1, 3)),
        Step(4.0, Choice(3, 1, None)),
    )


def test_a_budget_on_another_metric_looks_at_every_complete_trial():
    trials = (trial(0, 0.8, 1.0, values={"memory": 9.0}), trial(1, 0.7, 2.0, values={"memory": 5.0}))
    assert answer(trials, AXES).ladders["memory"] == (Step(5.0, Choice(1, None, 0)), Step(9.0, Choice(0)))


def test_without_baselines_the_pick_is_the_knee():
    # (1, 0.5) to (5, 0.9): the line passes 0.6 at 2, and 0.85 is the farthest above
    trials = [trial(0, 0.5, 1.0), trial(1, 0.85, 2.0), trial(2, 0.86, 4.0), trial(3, 0.9, 5.0)]
    assert knee(trials, AXES).number == 1
    found = answer(trials, AXES)
    assert found.choice == Choice(1, 0, 3)
    assert "there is no baseline to compare with" in found.rule
    assert found.sentences[1] == "85.0\u00a0% at 2.00\u00a0ms."


def test_one_trial_is_the_answer_and_none_is_none():
    assert answer([trial(0, 0.5, 1.0)], AXES).choice == Choice(0)
    empty = answer([trial(0, state="crashed")], AXES)
    assert empty.choice is None
    assert empty.rule == "No trial has both validation accuracy and latency yet."


def test_a_sentence_says_ratio_and_points():
    assert sentence(FIVE[1], PAPER, AXES) == "2.00× faster than “paper pattern” at the same validation accuracy."
    assert sentence(FIVE[3], PAPER, AXES) == "2.00× slower than “paper pattern” at +10.0 points of validation accuracy."
    assert sentence(PAPER, PAPER, AXES) == "The baseline “paper pattern” itself: 80.0\u00a0% at 2.00\u00a0ms."
    other = Axes("accuracy", "macs")
    fewer = trial(1, 0.79, values={"macs": 2e9})
    assert sentence(fewer, trial(0, 0.8, values={"macs": 4e9}, baseline="b"), other) == (
        "2.00× better in MACs than “b” at −1.0 points of validation accuracy."
    )


def test_a_sentence_carries_intervals():
    # log half widths 0.3 and 0.4 make 0.5: 2 to 2 e^±0.5; half widths 3 and 4 points make 5
    a = trial(1, 0.88, 1.0, intervals={"latency": (math.exp(-0.3), math.exp(0.3)), "accuracy": (0.85, 0.91)})
    b = trial(0, 0.80, 2.0, baseline="b", intervals={"latency": (2 * math.exp(-0.4), 2 * math.exp(0.4)), "accuracy": (0.76, 0.84)})  # noqa: E501 # fmt: skip
    assert sentence(a, b, AXES) == (
        "2.00× faster than “b” (1.21 to 3.30×) at +8.0 points of validation accuracy (+3.0 to +13.0)."
    )
    near = a._replace(values={"accuracy": 0.83, "latency": 1.9})
    assert sentence(near, b, AXES).startswith("Level with “b” in latency (1.05×, 0.")
    assert "with no difference in validation accuracy that could be told (+3.0 points, −2.0 to +8.0)" in sentence(
        near, b, AXES
    )


# what matters


def test_effects_are_against_the_mean_of_those_that_have_the_parameter():
    trials = [
        trial(0, 0.6, params={"mixer": "local", "lr": 1}),
        trial(1, 0.6, params={"mixer": "local", "lr": 2}),
        trial(2, 0.9, params={"mixer": "global", "lr": 1}),
        trial(3, 0.9, params={"mixer": "global", "lr": 2}),
        trial(4, 0.1, params={}),
        trial(5, 0.0, params={"mixer": "split"}, state="pruned"),
    ]
    mixer, lr = effects(trials, "accuracy")
    assert (mixer.parameter, mixer.share) == ("mixer", 1.0)
    assert [(e.choice, e.n, round(e.mean, 9)) for e in mixer.effects] == [("global", 2, 0.15), ("local", 2, -0.15)]
    assert (lr.parameter, lr.share) == ("lr", 0.0)
    assert [(e.choice, round(e.mean, 9)) for e in lr.effects] == [("1", 0.0), ("2", 0.0)]
    # two values 0.3 apart: standard deviation 0.3/sqrt 2, of the mean 0.15, times 1.96
    assert lr.effects[0].high == pytest.approx(0.294)


def test_effects_on_latency_are_ratios():
    trials = [trial(0, latency=1.0, params={"a": "x"}), trial(1, latency=4.0, params={"a": "y"})]
    (found,) = effects(trials, "latency")
    assert [(e.choice, e.mean) for e in found.effects] == [("x", pytest.approx(-0.5)), ("y", pytest.approx(1.0))]


def test_many_numbers_are_cut_in_thirds():
    trials = [trial(n, n / 10, params={"lr": n}) for n in range(9)]
    (found,) = effects(trials, "accuracy")
    assert [e.choice for e in found.effects] == ["0 to 2", "3 to 5", "6 to 8"]


def test_patterns_are_split_in_first_and_last_stages():
    trials = [trial(0, 0.5, pattern="LLGG"), trial(1, 0.7, pattern="LLGG"), trial(2, 0.6, pattern="LLLG")]
    assert patterns(trials, "accuracy") == (
        PatternCell("LL", "GG", 2, pytest.approx(0.6), 0.7),
        PatternCell("LL", "LG", 1, 0.6, 0.6),
    )


# architectures


def test_shares_are_those_of_the_closed_form():
    spec = variant("s")
    found = view(Trial(7, spec=spec.to_dict()), Input(16, (224, 224), 400))
    total = cost(spec, frames=16, size=224, num_classes=400)
    assert [s.macs_share for s in found.stages] == [part.macs / total.macs for part in total.stages]
    assert sum(s.params_share for s in found.stages) == pytest.approx(1 - total.head.params / total.params)
    assert found.stages[0].grid == (8, 56, 56)


def test_yaml_and_python_give_the_same_spec_back():
    spec = variant("s")
    assert ArchSpec.from_dict(parse_yaml(spec_yaml(spec), "page")) == spec
    lines = spec_python(spec, Input(16, (224, 224), 400)).splitlines()
    names = {}
    exec("\n".join(line for line in lines if not line.startswith("model")), names)
    assert names["spec"] == spec
    assert lines[-1] == "model = ub.build(spec, num_classes=400)  # (B, 3, 16, 224, 224) -> (B, 400)"


def test_the_commands_of_an_architecture_are_ones_that_parse():
    """Split as a shell does, into a run, a trial and folders; and both verbs take these options."""
    page = contents(make_run(12))
    number = next(iter(page.views))
    block = re.search(r"Commands: train and export.*?<pre[^>]*>(.*?)</pre>", architecture(page, number), re.DOTALL)
    train, export = (shlex.split(html.unescape(line)) for line in block[1].splitlines())
    assert train[:2] == ["ubench", "train"]
    assert train[train.index("--trial") + 1] == str(number)
    assert export[:3] == ["ubench", "export", train[train.index("--out") + 1]]
    for words in (train, export):
        command = cli.commands[words[1]]
        options, _, _ = command.make_parser(click.Context(command)).parse_args(words[2:])  # raises for unknown ones
        assert options["out"]
    others = page._replace(trials=tuple(trial._replace(run="B") for trial in page.trials))
    assert "ubench train" not in architecture(others, number)


def test_what_cannot_be_drawn_has_no_view():
    spec = variant("s").to_dict()
    assert view(Trial(0), Input(8, (32, 32), 8)) is None
    assert view(Trial(0, spec=spec), None) is None
    assert view(Trial(0, spec=spec), Input(1, (8, 8), 8)) is None
    assert view(Trial(0, spec={"stages": []}), Input(8, (32, 32), 8)) is None
    assert read_input({}) is None
    assert read_input({"input": {"frames": 8, "size": 32}, "data": {"classes": 5}}) == Input(8, (32, 32), 5)


def test_a_drawing_is_to_scale():
    views = [view(Trial(0, spec=variant("s").to_dict()), Input(16, (224, 224), 400))]
    picture = drawing(views[0], scale_of(views))
    paths = re.findall(r'<path class="(\w+)" d="([^"]+)"', picture)
    assert [mixer for mixer, _ in paths] == ["local", "local", "global", "global"]
    assert [path.count("M") for _, path in paths] == [3, 4, 8, 3]  # a cell a block
    tops = [float(path.split(" ")[1].split("h")[0]) for _, path in paths[:2]]
    assert tops == [0, TALL / 2]  # 56 and 28 wide grids
    assert f'viewBox="0 0 {4 * COLUMN} ' in picture
    assert "local 5×5×5" in picture
    assert ">8 blocks<" in picture
    assert ">320 wide<" in picture
    assert "latency by stage: not measured" in picture
    assert "<text" not in thumbnail(views[0], scale_of(views))


# figures


def test_the_front_figure_holds_the_numbers_in_the_pages_units():
    trials = (PAPER, trial(1, 0.9, 1.0, front=True, intervals={"accuracy": (0.88, 0.91)}), trial(2, 0.5, 3.0))
    figure = front_figure(trials, AXES, pick=1)
    traces = {trace["meta"]: trace for trace in figure["data"]}
    assert list(traces) == ["line", "dominated", "front", "baseline", "pick"]
    assert (traces["line"]["x"], traces["line"]["y"], traces["line"]["line"]["shape"]) == ([1.0], [90.0], "hv")
    assert (traces["front"]["x"], traces["front"]["y"], traces["front"]["customdata"]) == ([1.0], [90.0], [1])
    assert traces["front"]["error_y"]["array"] == [pytest.approx(1.0)]
    assert traces["front"]["error_y"]["arrayminus"] == [pytest.approx(2.0)]
    assert traces["front"]["error_x"]["array"] == [None]
    assert traces["baseline"]["text"] == ["paper pattern"]


def test_roles_differ_by_shape():
    states = ["complete", "pruned", "infeasible", "oom", "crashed"]
    assert [role(Trial(0, state)) for state in states] == ["dominated", "pruned", "infeasible", "failed", "failed"]
    assert role(Trial(0, front=True)) == "front"
    assert role(PAPER) == "baseline"
    shapes = [(symbol, size) for _, symbol, size, _ in ROLES.values()]
    assert len(set(shapes)) == len(shapes)


def test_plotly_takes_every_figure():
    trials = read_trials(make_run(60).trials)
    figures = [front_figure(trials, AXES, 0), history_figure(History(((0.0, 0, 0.5), (60.0, 1, 0.7)), 0.5))]
    for key in AXES:
        figures += [pattern_figure(patterns(trials, key), key), effects_figure(effects(trials, key), key)]
    for figure in figures:
        go.Figure(figure)
        json.dumps(figure, allow_nan=False)


def test_the_history_figure_has_the_baselines_level():
    past = History(((60.0, 0, 0.5), (120.0, 4, 0.7)), 0.5)
    line, level = history_figure(past)["data"]
    assert (line["x"], line["y"], line["customdata"]) == ([1.0, 2.0], [0.5, 0.7], [0, 4])
    assert (level["x"], level["y"]) == ([1.0, 2.0], [0.5, 0.5])
    line, level = history_figure(past._replace(points=((60.0, 3, 0.5), (300.0, 4, 0.7))), by_trials=True)["data"]
    assert (line["x"], line["y"], level["x"]) == ([1, 2], [0.5, 0.7], [1, 2])


def test_names_in_figures_are_escaped():
    hostile = trial(0, 0.5, 1.0, baseline=HOSTILE, params={HOSTILE: HOSTILE})
    other = trial(1, 0.6, 1.0, params={HOSTILE: "b"})
    figures = [front_figure([hostile], AXES), effects_figure(effects([hostile, other], "accuracy"), "accuracy")]
    assert "<script" not in json.dumps(figures)


# numbers


def test_numbers_read_as_people_write_them():
    assert [number(v) for v in (1234.5, 12.34, 0.01234, 0, None, float("nan"))] == [
        "1,234", "12.3", "0.0123", "0", "–", "–",
    ]  # fmt: skip
    assert shown("accuracy", 0.8125) == "81.2\u00a0%"
    assert shown("memory", 5.19e6) == "5.19\u00a0MB"
    assert shown("latency", None) == "–"
    assert [signed(0.84), signed(-0.4), signed(-0.01)] == ["+0.8", "−0.4", "0.0"]
    assert [duration(s) for s in (7.4, 500, 7500, None)] == [
        "7.40\u00a0s", "8\u00a0min 20\u00a0s", "2\u00a0h 05\u00a0min", "–",
    ]  # fmt: skip
