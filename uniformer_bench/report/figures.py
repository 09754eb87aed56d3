"""Plotly figures as plain mappings, pure functions of a report's data.

Values are in a page's units (percent, ms, M). A trace's `customdata` holds trial numbers and `meta` its role,
by which the page's script recolours it for light and dark and redraws it on other axes. Names that a person
gave are escaped, because plotly reads text as a little HTML.
"""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from uniformer_bench.metrics import METRICS
from uniformer_bench.report.effects import Effect, ParameterEffect, PatternCell, is_relative
from uniformer_bench.report.info import Axes, Trial, contenders, front_of
from uniformer_bench.report.text import number, signed

Figure = dict[str, Any]


class Mark(NamedTuple):
    """How a group of trials is drawn: its name in the legend, plotly's symbol, size and colour."""

    label: str
    symbol: str
    size: int
    colour: str


# role: label, plotly symbol, size, colour. Told apart by shape first; the colours follow Okabe and Ito.
ROLES = {
    "dominated": ("complete", "circle-open", 7, "#767d86"),
    "pruned": ("pruned", "x-thin-open", 7, "#767d86"),
    "infeasible": ("infeasible", "triangle-down-open", 8, "#a8481a"),
    "failed": ("failed", "square-open", 7, "#a8481a"),
    "front": ("front", "circle", 10, "#0072b2"),
    "baseline": ("baseline", "diamond", 12, "#b84a00"),
    "pick": ("the pick", "circle-open", 20, "#0072b2"),
}
FRONT, BASELINE = ROLES["front"][3], ROLES["baseline"][3]
WITH_ERRORS = ("front", "baseline")
EFFECT_PARAMETERS = 8
ROW_HEIGHT, PARAMETER_GAP = 20, 0.7
ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def axis_title(key: str) -> str:
    """A metric with its unit: latency (ms)."""
    return f"{METRICS[key].label} ({METRICS[key].unit})"


def role(trial: Trial) -> str | None:
    """Which of ROLES a trial is drawn as; None for what another trial stands for, or is done again."""
    if trial.baseline:
        return "baseline"
    if trial.state == "complete":
        return "front" if trial.front else "dominated"
    as_itself = {"pruned": "pruned", "infeasible": "infeasible", "refused": "infeasible"}
    return None if trial.state in ("repeated", "interrupted") else as_itself.get(trial.state, "failed")


def front_figure(trials: Sequence[Trial], axes: Axes, pick: int | None = None) -> Figure:
    """Quality against cost: a trace for each role that occurs, the front as a step line, a ring round the pick."""
    groups = {name: [t for t in trials if role(t) == name] for name in ROLES}
    groups["pick"] = [t for t in trials if t.number == pick]
    points = [points_trace(name, Mark(*ROLES[name]), group, axes) for name, group in groups.items() if group]
    return scatter_of([line_trace(front_of(contenders(trials), axes), axes), *points], axes)


def scatter_of(traces: Sequence[Figure], axes: Axes) -> Figure:
    """The frame of a scatter plot of quality against cost."""
    frame = layout(axis_title(axes.cost), axis_title(axes.quality), 520, {"l": 60, "r": 16, "t": 40, "b": 52})
    return {"data": traces, "layout": {**frame, "legend": ABOVE, "dragmode": "select", "hovermode": "closest"}}


def line_trace(front: Sequence[Trial], axes: Axes, colour: str = FRONT, dash: str = "solid") -> Figure:
    """A front's step line."""
    shape = "hv" if METRICS[axes.cost].direction == "minimize" else "vh"
    return {
        "type": "scatter",
        "mode": "lines",
        "meta": "line",
        "x": _values(front, axes.cost),
        "y": _values(front, axes.quality),
        "line": {"shape": shape, "color": colour, "width": 1.5, "dash": dash},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def points_trace(name: str, mark: Mark, group: Sequence[Trial], axes: Axes) -> Figure:
    """Trials as marks; those of WITH_ERRORS have error bars, baselines their names."""
    colour = mark.colour
    quality = _values(group, axes.quality)  # where it is unknown, no cost: axes reach as far as there are points
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": name,
        "name": mark.label,
        "marker": {"symbol": mark.symbol, "size": mark.size, "color": colour, "line": {"width": 1.5, "color": colour}},
        "x": [x if y is not None else None for x, y in zip(_values(group, axes.cost), quality, strict=True)],
        "y": quality,
        "customdata": [t.number for t in group],
        "hoverinfo": "text",
        **(_error_bars(group, axes, colour) if name in WITH_ERRORS else {}),
        **(_labels(group, colour) if name == "baseline" else {}),
    }


def _labels(group: Sequence[Trial], colour: str) -> Figure:
    names = [html.escape(f"{t.run} {t.baseline}".strip(), quote=False) for t in group]
    font = {"size": 12, "color": colour}
    return {"mode": "markers+text", "text": names, "textposition": "bottom right", "textfont": font}


def _values(group: Sequence[Trial], key: str) -> list[float | None]:
    return [t.values[key] * METRICS[key].scale if key in t.values else None for t in group]


def _error_bars(group: Sequence[Trial], axes: Axes, colour: str) -> Figure:
    return {"error_x": error_bar([_arms(t, axes.cost) for t in group], colour),
            "error_y": error_bar([_arms(t, axes.quality) for t in group], colour)}  # fmt: skip


def _arms(trial: Trial, key: str) -> tuple[float | None, float | None]:
    """How far the interval reaches below and above the value, in the page's unit."""
    if key not in trial.values or key not in trial.intervals:
        return None, None
    (low, high), value, scale = trial.intervals[key], trial.values[key], METRICS[key].scale
    return (value - low) * scale, (high - value) * scale


def error_bar(arms: Sequence[tuple[float | None, float | None]], colour: str) -> Figure:
    """A trace's error bars from how far each reaches down and up."""
    down, up = [a for a, _ in arms], [b for _, b in arms]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 0,
            "color": colour}  # fmt: skip


def pattern_figure(cells: Sequence[PatternCell], key: str) -> Figure:
    """A heat map of a metric's median by the mixers of the first stages (down) and of the last (across)."""
    rows, columns = sorted({c.early for c in cells}), sorted({c.late for c in cells})
    at = {(c.early, c.late): c for c in cells}
    grid = [[at.get((early, late)) for late in columns] for early in rows]
    heat = {
        "type": "heatmap",
        "meta": "heat",
        "x": columns,
        "y": rows,
        "z": [[c.median * METRICS[key].scale if c else None for c in row] for row in grid],
        "text": [[number(c.median * METRICS[key].scale) if c else "" for c in row] for row in grid],
        "hovertext": [[_cell_words(c, key) if c else "" for c in row] for row in grid],
        "texttemplate": "%{text}",
        "hoverinfo": "text",
        "hoverongaps": False,
        "colorscale": "Cividis",
        "reversescale": METRICS[key].direction == "minimize",
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    margin = {"l": 56, "r": 8, "t": 8, "b": 48}
    frame = layout("mixers of the last stages", "first stages", 90 + 34 * max(len(rows), 2), margin)
    frame["xaxis"] |= {"type": "category", "showgrid": False, "ticks": ""}
    frame["yaxis"] |= {"type": "category", "showgrid": False, "ticks": "", "autorange": "reversed"}
    return {"data": [heat], "layout": frame}


def _cell_words(cell: PatternCell, key: str) -> str:
    metric = METRICS[key]
    median, best = (number(value * metric.scale) for value in (cell.median, cell.best))
    return f"<b>{cell.early}{cell.late}</b><br>median {median} {metric.unit}, best {best}<br>trials: {cell.n}"


def effects_figure(found: Sequence[ParameterEffect], key: str) -> Figure:
    """Each choice's effect with its interval, a line each, in groups by parameter; zero is the mean of all."""
    rows = [
        (i, parameter, effect) for i, parameter in enumerate(found[:EFFECT_PARAMETERS]) for effect in parameter.effects
    ]
    effects, labels = [effect for *_, effect in rows], [_label(parameter, effect) for _, parameter, effect in rows]
    places = [n + PARAMETER_GAP * i for n, (i, *_) in enumerate(rows)]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "meta": "front",
        "x": [e.mean * 100 for e in effects],
        "y": places,
        "error_x": error_bar([((e.mean - e.low) * 100, (e.high - e.mean) * 100) for e in effects], FRONT),
        "hovertext": [_effect_words(label, e, key) for label, e in zip(labels, effects, strict=True)],
        "hoverinfo": "text",
        "marker": {"size": 8, "symbol": "circle", "color": FRONT, "line": {"width": 0, "color": FRONT}},
        "showlegend": False,
    }
    title = f"{'%' if is_relative(key) else 'points'} against the mean"
    last = places[-1] if places else 0
    frame = layout(title, "", int(70 + ROW_HEIGHT * (last + 1)), {"l": 190, "r": 12, "t": 8, "b": 44})
    frame["xaxis"] |= {"zeroline": True}
    frame["yaxis"] |= {
        "tickvals": places,
        "ticktext": labels,
        "range": [last + 0.7, -0.7],
        "showgrid": False,
        "ticks": "",
    }
    return {"data": [dots], "layout": frame}


def _label(parameter: ParameterEffect, effect: Effect) -> str:
    return html.escape(f"{_short(parameter.parameter)} = {_short(effect.choice)}", quote=False)


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _effect_words(label: str, effect: Effect, key: str) -> str:
    unit = "%" if is_relative(key) else "points"
    mean, low, high = (signed(value * 100) for value in (effect.mean, effect.low, effect.high))
    span = f" ({low} to {high})" if effect.n > 1 else ""
    return f"<b>{label}</b><br>{mean} {unit}{span}<br>trials: {effect.n}"


def _axis(title: str) -> Figure:
    named = {"text": title, "font": {"size": 13}}
    return {"title": named, "automargin": True, "zeroline": False, "ticks": "outside", "ticklen": 4}


def layout(x: str, y: str, height: int, margin: dict[str, int]) -> Figure:
    """A plain frame with these axis titles; colours of the theme are the page's script's."""
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "autosize": True,
        "font": {"size": 12},
        "height": height,
        "margin": margin,
        "xaxis": _axis(x),
        "yaxis": _axis(y),
    }
