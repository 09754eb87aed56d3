"""Figures of several runs, as plain mappings: a run has its own colour, symbol and dash."""

from collections.abc import Sequence

from uniformer_bench.report.comparison import Comparison, Side
from uniformer_bench.report.figures import ABOVE, Figure, Mark, layout, line_trace, points_trace, scatter_of
from uniformer_bench.report.info import Axes, contenders, front_of
from uniformer_bench.report.progress_figures import MARGIN

# letter: symbol, dash, colour (after Okabe and Ito, darkened until text in them can be read)
RUNS = {
    "A": ("circle", "solid", "#0072b2"),
    "B": ("square", "dash", "#b34700"),
    "C": ("triangle-up", "dot", "#00785a"),
    "D": ("diamond", "dashdot", "#a0528f"),
    "E": ("star", "longdash", "#7a6400"),
    "F": ("hexagon", "longdashdot", "#4a4f57"),
}


def fronts_figure(found: Comparison) -> Figure:
    """Every run's front as a step line, its other complete trials as small open marks, its baselines by name."""
    return scatter_of([trace for side in found.sides for trace in _traces(side, found.axes)], found.axes)


def _traces(side: Side, axes: Axes) -> list[Figure]:
    symbol, dash, colour = RUNS[side.letter]
    front = front_of(contenders(side.trials), axes)
    others = [t for t in side.trials if t.state == "complete" and not t.baseline and t not in front]
    groups = (
        ("dominated", Mark(f"{side.letter}, other trials", f"{symbol}-open", 6, colour), others),
        ("front", Mark(f"{side.letter}, front", symbol, 10, colour), front),
        ("baseline", Mark(f"{side.letter}, baselines", f"{symbol}-open-dot", 12, colour),
         [t for t in side.trials if t.baseline and t.has(*axes)]),
    )  # fmt: skip
    own = {"meta": f"run-{side.letter.lower()}", "legendgroup": side.letter}
    points = [points_trace(name, mark, group, axes) for name, mark, group in groups if group]
    return [trace | own for trace in (line_trace(front, axes, colour, dash), *points)]


def histories_figure(sides: Sequence[Side], *, by_trials: bool = False) -> Figure:
    """Hypervolume of every run over minutes since its start, or over complete trials."""
    traces = [_history(side, by_trials) for side in sides if side.history.points]
    frame = layout("complete trials" if by_trials else "minutes", "hypervolume", 280, MARGIN)
    return {"data": traces, "layout": {**frame, "legend": ABOVE}}


def _history(side: Side, by_trials: bool) -> Figure:
    _, dash, colour = RUNS[side.letter]
    points = side.history.points
    return {
        "type": "scatter",
        "mode": "lines",
        "meta": f"run-{side.letter.lower()}",
        "name": side.letter,
        "x": list(range(1, len(points) + 1)) if by_trials else [seconds / 60 for seconds, _, _ in points],
        "y": [volume for _, _, volume in points],
        "line": {"shape": "hv", "color": colour, "width": 2, "dash": dash},
        "hovertemplate": f"{side.letter}: %{{y:.4f}}<extra></extra>",
    }
