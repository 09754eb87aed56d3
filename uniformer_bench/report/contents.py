"""Everything a page shows, gathered once from a run: what `sections`, `evidence` and the page's data read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from uniformer_bench.report.answer import Answer, answer
from uniformer_bench.report.arch import ArchView, Input, read_input, view
from uniformer_bench.report.devices import Device, devices
from uniformer_bench.report.drawing import Scale, scale_of, thumbnail
from uniformer_bench.report.effects import ParameterEffect, effects, patterns
from uniformer_bench.report.fidelity import points
from uniformer_bench.report.figures import Figure, effects_figure, front_figure, pattern_figure
from uniformer_bench.report.info import Axes, History, Trial, choose_axes, history, read_trials
from uniformer_bench.report.insights import Insights, insights
from uniformer_bench.report.parallel import Dimension, dimensions
from uniformer_bench.report.progress_figures import fidelity_figure, history_figure, rungs_figure
from uniformer_bench.report.text import MISSING, shown
from uniformer_bench.runs import Run

DRAWN = 200  # architectures that can be opened with a drawing: front, baselines and picks first
GALLERY = 24  # front members shown as small drawings


class Contents(NamedTuple):
    """A page's data; `views` by trial number, `gallery` the front members shown, `figures` by element id."""

    name: str
    info: dict[str, Any]
    trials: tuple[Trial, ...]
    answer: Answer
    history: History
    effects: dict[str, tuple[ParameterEffect, ...]]
    views: dict[int, ArchView]
    scale: Scale
    gallery: tuple[int, ...]
    options: dict[int, dict[str, str]]
    figures: dict[str, Figure]
    parallel: tuple[Dimension, ...] = ()
    devices: tuple[Device, ...] = ()
    insights: Insights | None = None

    @property
    def by_number(self) -> dict[int, Trial]:
        """Trials by number."""
        return {trial.number: trial for trial in self.trials}


def contents(run: Run) -> Contents:
    """What the page of a run says."""
    trials, name = read_trials(run.trials), str(run.info.get("name") or "run")
    axes = choose_axes(run.info.get("objectives") or ())
    found = answer(trials, axes)
    gallery = gallery_of(trials, axes)
    views = _views(run, trials, found, gallery)
    scale = scale_of(views.values())
    past = history(run.info.get("hypervolume") or {}, trials)
    by_number = {trial.number: trial for trial in trials}
    options = {
        n: option(by_number[n], words, axes, views.get(n), scale) for n, words in sorted(found.sentences.items())
    }
    what = {key: effects(trials, key) for key in axes}
    figures = _figures(trials, found, past, what) | _fidelity_figure(run.info)
    axes_of_all = dimensions(trials, axes, what[axes.quality])
    others = devices(run.remeasured, trials, run.info, axes.quality)
    page = Contents(name, run.info, trials, found, past, what, views, scale, gallery, options, figures, axes_of_all)
    return page._replace(devices=others, insights=insights(trials, axes))


def title(trial: Trial) -> str:
    """What a trial is called on the page."""
    return f"{trial.baseline} (trial {trial.label})" if trial.baseline else f"Trial {trial.label}"


def option(trial: Trial, sentence: str, axes: Axes, arch: ArchView | None, scale: Scale) -> dict[str, str]:
    """A card's words, and its drawing as HTML under `drawing`."""
    words = {"name": title(trial), "pattern": trial.pattern, "sentence": sentence}
    for slot, key in axes._asdict().items():
        words |= {slot: shown(key, trial.values.get(key)), f"{slot}_span": span(trial, key)}
    return words | {"drawing": thumbnail(arch, scale) if arch else ""}


def span(trial: Trial, key: str) -> str:
    """An interval in words: 79.1 to 83.0 %; empty where there is none."""
    if key not in trial.intervals:
        return ""
    low, high = (shown(key, end).split("\u00a0")[0] for end in trial.intervals[key])
    return f"{low} to {high}" if MISSING not in (low, high) else ""


def gallery_of(trials: Sequence[Trial], axes: Axes) -> tuple[int, ...]:
    """Front members by cost, thinned evenly where there are more than a page can show."""
    front = sorted((t for t in trials if t.front and t.has(*axes)), key=lambda t: (t.values[axes.cost], t.number))
    if len(front) <= GALLERY:
        return tuple(t.number for t in front)
    return tuple(front[round(i * (len(front) - 1) / (GALLERY - 1))].number for i in range(GALLERY))


def _views(run: Run, trials: Sequence[Trial], found: Answer, gallery: Sequence[int]) -> dict[int, ArchView]:
    first, given = {*gallery, *found.sentences, *found.baselines}, read_input(run.info)
    return views_of([(trial, given) for trial in trials], first)


def views_of(trials: Sequence[tuple[Trial, Input | None]], first: set[int]) -> dict[int, ArchView]:
    """The views of as many trials as a page draws, those whose numbers are in `first` before all others."""
    order = sorted(trials, key=lambda pair: (pair[0].number not in first, pair[0].state != "complete", pair[0].number))
    views = {trial.number: view(trial, given) for trial, given in order[: max(DRAWN, len(first))]}
    return {n: each for n, each in sorted(views.items()) if each}


def _figures(
    trials: Sequence[Trial], found: Answer, past: History, what: dict[str, tuple[ParameterEffect, ...]]
) -> dict[str, Figure]:
    axes, pick = found.axes, found.choice.pick if found.choice else None
    figures = {"plot-front": front_figure(trials, axes, pick)} if any(t.values for t in trials) else {}
    for key in axes:
        if cells := patterns(trials, key):
            figures[f"plot-pattern-{key}"] = pattern_figure(cells, key)
        if what[key]:
            figures[f"plot-effects-{key}"] = effects_figure(what[key], key)
    if len(past.points) > 1:
        figures["plot-history"] = history_figure(past)
        figures["plot-history-trials"] = history_figure(past, by_trials=True)
    if any(len(trial.rungs) > 1 for trial in trials):  # at one rung there are no curves
        figures["plot-rungs"] = rungs_figure(trials)
    return figures


def _fidelity_figure(info: dict[str, Any]) -> dict[str, Figure]:
    found = points(info.get("fidelity"))
    return {"plot-fidelity": fidelity_figure(found)} if len(found) > 1 else {}
