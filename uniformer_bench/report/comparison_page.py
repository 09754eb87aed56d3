"""The page of several runs, made of the parts of the page of one."""

import json
from collections.abc import Sequence
from typing import Any

from uniformer_bench.metrics import METRICS
from uniformer_bench.report import architectures, evidence, sections
from uniformer_bench.report.answer import Answer, Choice
from uniformer_bench.report.arch import read_input
from uniformer_bench.report.comparison import Comparison, Difference, Side, compare_runs, scales_agree
from uniformer_bench.report.comparison_figures import fronts_figure, histories_figure
from uniformer_bench.report.contents import GALLERY, Contents, gallery_of, option, views_of
from uniformer_bench.report.drawing import scale_of
from uniformer_bench.report.figures import Figure
from uniformer_bench.report.info import COUNTED, History
from uniformer_bench.report.markup import as_table, copyable, plot, scroll_table, section
from uniformer_bench.report.text import MISSING, duration, escape, plural, shown
from uniformer_bench.runs import Run

NAV = (
    ("answer", "Answer"),
    ("front", "Fronts"),
    ("architectures", "Architectures"),
    ("trials", "Trials"),
    ("went", "How they went"),
    ("run", "What differs"),
)


def comparison_page(runs: Sequence[Run]) -> tuple[Contents, Comparison, str]:
    """The page's data and its body. Raises UbenchError outside 2 to 6 runs."""
    found = compare_runs(runs)
    page = comparison_contents(found)
    parts = (
        _header(found),
        _answer(page, found),
        sections.front(page),
        architectures.architectures(page),
        evidence.all_trials(page),
        _went(page, found),
        _differences(found),
        sections.footer(page),
    )
    return page, found, "\n".join(parts)


def comparison_contents(found: Comparison) -> Contents:
    """All runs' trials as one page's; the first two runs' picks stand side by side."""
    trials = tuple(trial for side in found.sides for trial in side.trials)
    by_number = {trial.number: trial for trial in trials}
    fronts = [gallery_of(side.trials, found.axes) for side in found.sides]
    most = max(4, GALLERY // len(fronts))
    gallery = tuple(n for front in fronts for n in front[:: max(1, -(-len(front) // most))])
    said = {n: words for side in found.sides for n, words in side.answer.sentences.items()}
    named = {n for steps in found.budgets.values() for step in steps for n in step.picks if n is not None}
    given = {side.letter: read_input(side.info) for side in found.sides}
    views = views_of([(trial, given[trial.run]) for trial in trials], {*gallery, *said, *named})
    scale = scale_of(views.values())
    options = {n: option(by_number[n], said[n], found.axes, views.get(n), scale) for n in sorted(said)}
    name = " and ".join(side.name for side in found.sides)
    info = {"version": found.sides[0].info.get("version")}
    return Contents(
        name,
        info,
        trials,
        _merged_answer(found),
        History((), None),
        {},
        views,
        scale,
        gallery,
        options,
        _figures(found),
    )


def _merged_answer(found: Comparison) -> Answer:
    picks = [side.answer.choice.pick if side.answer.choice else None for side in found.sides]
    first = next((pick for pick in picks if pick is not None), None)
    second = next((pick for pick in picks if pick not in (None, first)), None)
    baselines = tuple(n for side in found.sides for n in side.answer.baselines)
    return Answer(found.axes, "", second, baselines, Choice(first) if first is not None else None, {}, {})


def _figures(found: Comparison) -> dict[str, Figure]:
    some = any(trial.values for side in found.sides for trial in side.trials)
    figures = {"plot-front": fronts_figure(found)} if some else {}
    if scales_agree([side.info for side in found.sides]) and any(side.history.points for side in found.sides):
        figures["plot-history-trials"] = histories_figure(found.sides, by_trials=True)
        figures["plot-history"] = histories_figure(found.sides)
    return figures


def page_data(found: Comparison) -> dict[str, Any]:
    """What the page's script needs beyond the data of any page: a card a run, and their picks under a budget."""
    choice = {side.letter: side.answer.choice.pick if side.answer.choice else None for side in found.sides}
    ladders = {key: [[step.limit, *step.picks] for step in steps] for key, steps in found.budgets.items()}
    return {"cards": [side.letter for side in found.sides], "choice": choice, "ladders": ladders}


def _header(found: Comparison) -> str:
    names = "<br>".join(f'<span class="letter">{side.letter}</span> {escape(side.name)}' for side in found.sides)
    counts = " · ".join(f"{side.letter} {plural(_counted(side), 'trial')}" for side in found.sides)
    return sections.heading("Comparison of searches", names, counts, NAV)


def _counted(side: Side) -> int:
    return sum(trial.state in COUNTED for trial in side.trials)


def _answer(page: Contents, found: Comparison) -> str:
    cautions = "".join(f"<li>{escape(words)}</li>" for words in found.cautions)
    warned = f'<ul class="cautions">{cautions}</ul>' if cautions else ""
    cards = "".join(
        sections.card(page, side.letter, f"The pick of {side.letter}", n, "Nothing fits.")
        for side in found.sides
        for n in [side.answer.choice.pick if side.answer.choice else None]
    )
    body = (
        f'<p class="lede">{escape(found.lede)}</p>{warned}{sections.budget(found.axes.cost, found.budgets)}'
        f'<div class="cards many">{cards}</div>{_runs_table(found)}'
    )
    return section("answer", "The answer", body)


def _runs_table(found: Comparison) -> str:
    volumes = scales_agree([side.info for side in found.sides])
    quality, cost = (METRICS[key].label for key in found.axes)
    heads = ["run", "trials", "complete", "front", "of it unbeaten", f"best {quality}", f"best {cost}", "time"]
    heads += ["hypervolume"] if volumes else []
    rows = "".join(_run_row(found, i, volumes) for i in range(len(found.sides)))
    note = "Unbeaten: no front member of another run is as good in both and better in one."
    return f'{scroll_table(heads, rows, caption="The runs")}<p class="note">{note}</p>'


def _run_row(found: Comparison, i: int, volumes: bool) -> str:
    side, axes = found.sides[i], found.axes
    complete = [trial for trial in side.trials if trial.state == "complete"]
    front = [trial for trial in side.trials if trial.front]
    cells = [_counted(side), len(complete), len(front), found.unbeaten[i]]
    best = [
        (max if METRICS[key].direction == "maximize" else min)(
            (t.values[key] for t in complete if t.has(key)), default=None
        )
        for key in axes
    ]
    words = [
        *map(str, cells),
        *(shown(k, b) for k, b in zip(axes, best, strict=True)),
        duration(side.info.get("elapsed_s")),
    ]
    value = (side.info.get("hypervolume") or {}).get("value")
    words += [(f"{value:.4f}" if value is not None else MISSING)] if volumes else []
    name = f'<span class="letter">{side.letter}</span> {escape(side.name)}'
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{escape(word)}</td>" for word in words)}</tr>'


def _went(page: Contents, found: Comparison) -> str:
    if "plot-history" not in page.figures:
        note = "Hypervolumes are not drawn: the runs have other reference points or scales, or none."
        return section("went", "How they went", f'<p class="note">{note}</p>')
    ends = [
        (side.letter, str(len(side.history.points)), f"{side.history.points[-1][2]:.4f}")
        for side in found.sides
        if side.history.points
    ]
    plots = plot("plot-history-trials", "Hypervolume over trials", "") + plot(
        "plot-history", "Hypervolume over time", ""
    )
    table = as_table(("run", "complete trials", "hypervolume at the end"), ends)
    return section("went", "How they went", f'<div class="two">{plots}</div>{table}')


def _differences(found: Comparison) -> str:
    rows = "".join(_difference(row) for row in found.differences)
    table = scroll_table(["fact", *(side.letter for side in found.sides)], rows, kind="plain differences")
    same = '<p class="note">Nothing that the runs recorded of how they were run differs.</p>'
    commands = "".join(
        copyable(f"Command of {side.letter}", str(side.info["command"]), True)
        for side in found.sides
        if side.info.get("command")
    )
    convention = f'<h3>Conventions</h3><p class="note">{evidence.CONVENTION}</p>'
    return section("run", "What differs", f"{table if rows else same}{commands}{convention}")


def _difference(row: Difference) -> str:
    cells = "".join(f'<td class="text">{escape(_words(row.fact, value))}</td>' for value in row.values)
    return f'<tr><th scope="row">{escape(evidence.label(row.fact))}</th>{cells}</tr>'


def _words(fact: str, value: str | None) -> str:
    return MISSING if value is None else evidence.fact(fact, json.loads(value))
