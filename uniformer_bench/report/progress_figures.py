"""Figures of how a search went, as plain mappings: hypervolume, learning curves by rung, short against long runs."""

from collections.abc import Sequence

from uniformer_bench.report.fidelity import Point
from uniformer_bench.report.figures import ABOVE, BASELINE, FRONT, ROLES, Figure, layout
from uniformer_bench.report.info import History, Trial

MARGIN = {"l": 60, "r": 12, "t": 28, "b": 44}


def history_figure(found: History, *, by_trials: bool = False) -> Figure:
    """Hypervolume over minutes since the start, or over complete trials, and the baselines' level as a line."""
    minutes = [seconds / 60 for seconds, _, _ in found.points]
    places = list(range(1, len(minutes) + 1)) if by_trials else minutes
    unit = "complete trials" if by_trials else "min"
    line = {
        "type": "scatter",
        "mode": "lines",
        "meta": "line",
        "name": "front",
        "x": places,
        "y": [volume for _, _, volume in found.points],
        "customdata": [n for _, n, _ in found.points],
        "line": {"shape": "hv", "color": FRONT, "width": 2},
        "hovertemplate": f"trial %{{customdata}}: %{{y:.4f}} after %{{x:.4~g}} {unit}<extra></extra>",
    }
    level = [_level(found.level, places)] if found.level is not None and places else []
    frame = layout("complete trials" if by_trials else "minutes", "hypervolume", 280, MARGIN)
    return {"data": [line, *level], "layout": {**frame, "legend": ABOVE}}


def _level(level: float, places: Sequence[float]) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "meta": "level",
        "name": "baselines alone",
        "x": [places[0], places[-1]],
        "y": [level, level],
        "line": {"dash": "dash", "color": BASELINE, "width": 1.5},
        "hoverinfo": "skip",
    }


def rungs_figure(trials: Sequence[Trial]) -> Figure:
    """Training loss over epochs, a line a trial: those that were stopped, and those that went on to the end."""
    climbed = [trial for trial in trials if any(rung.loss is not None for rung in trial.rungs)]
    stopped = [trial for trial in climbed if trial.state == "pruned"]
    others = [trial for trial in climbed if trial.state != "pruned"]
    traces = [_curves("pruned", "stopped", stopped), _curves("front", "went on", others)]
    frame = layout("epochs", "training loss", 280, MARGIN)
    return {"data": [trace for trace in traces if trace["x"]], "layout": {**frame, "legend": ABOVE}}


def _curves(role: str, name: str, trials: Sequence[Trial]) -> Figure:
    """Lines of many trials in one trace, a gap after each."""
    rows: list[tuple[float | None, float | None, int]] = []
    for trial in trials:
        rows += [(r.epochs, r.loss, trial.number) for r in trial.rungs if r.loss is not None]
        rows.append((None, None, trial.number))
    _, symbol, _, colour = ROLES[role]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "meta": role,
        "name": name,
        "x": [x for x, _, _ in rows],
        "y": [y for _, y, _ in rows],
        "customdata": [n for _, _, n in rows],
        "connectgaps": False,
        "opacity": 0.6,
        "line": {"width": 1, "color": colour},
        "marker": {"symbol": symbol, "size": 5, "color": colour, "line": {"width": 1, "color": colour}},
        "hovertemplate": "trial %{customdata}: %{y:.3f} after %{x:.3~g} epochs<extra></extra>",
    }


def fidelity_figure(found: Sequence[Point]) -> Figure:
    """Accuracy of a longer training against that of the short run."""
    _, symbol, size, colour = ROLES["front"]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "meta": "front",
        "x": [point.short * 100 for point in found],
        "y": [point.long * 100 for point in found],
        "customdata": [point.trial for point in found],
        "marker": {"symbol": symbol, "size": size - 2, "color": colour, "line": {"width": 0, "color": colour}},
        "hovertemplate": "trial %{customdata}: %{x:.1f} % short, %{y:.1f} % long<extra></extra>",
        "showlegend": False,
    }
    return {"data": [dots], "layout": layout("after the short run (%)", "after the longer one (%)", 320, MARGIN)}
