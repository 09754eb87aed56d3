"""How far a run can be trusted, as HTML: rungs, the fidelity card, the finalists measured again.

Each part stands where the run has its data, and says nothing where it has not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from uniformer_bench.metrics import METRICS
from uniformer_bench.report.contents import Contents
from uniformer_bench.report.evidence import facts_list, label, words
from uniformer_bench.report.fidelity import Correlation, correlations, facts, points
from uniformer_bench.report.info import RungRow, rungs
from uniformer_bench.report.markup import as_table, plot, scroll_table, table_row
from uniformer_bench.report.text import MISSING, duration, escape, number, percent, shown
from uniformer_bench.runs import known

TRUST = (
    "Kendall’s rank correlation of accuracy after the short run with that after the longer training: 1 is the same "
    "order, 0 none. An interval that holds 0 is no evidence that the short run ranks at all."
)


def stopped_early(page: Contents) -> str:
    """What each rung stopped; nothing where no trial has rungs."""
    found = rungs(page.trials)
    if not found:
        return ""
    heads = ("epochs", "reached it", "stopped here", "share stopped", "least loss", "time")
    rows = "".join(table_row((f"{row.epochs:g}", *_rung(row))) for row in found)
    curves = plot("plot-rungs", "Training loss by rung", "") if "plot-rungs" in page.figures else ""
    return f"<h3>What each rung stopped</h3>{scroll_table(heads, rows)}{curves}"


def _rung(row: RungRow) -> tuple[str, ...]:
    best = f"{row.best:.3f}" if row.best is not None else MISSING
    return str(row.reached), str(row.stopped), percent(row.stopped / row.reached), best, duration(row.seconds)


def fidelity_card(page: Contents) -> str:
    """How the short run's order agrees with a longer training's; a line where that was not asked."""
    document = page.info.get("fidelity")
    if not isinstance(document, Mapping) or not document:
        return ""
    warnings = "".join(f"<li>{escape(words(each))}</li>" for each in document.get("warnings") or [])
    said = f'<ul class="cautions">{warnings}</ul>' if warnings else ""
    rows = "".join(table_row(_correlation(each)) for each in correlations(document))
    table = scroll_table(("of", "tau", "95 % interval", "trials", ""), rows) if rows else ""
    return (
        f'<h3>How far the short run can be trusted</h3>{said}<p class="note">{TRUST}</p><div class="two"><div>{table}'
        f"{facts_list('', facts(document))}</div>{_scatter(page)}</div>"
    )


def _correlation(found: Correlation) -> tuple[str, ...]:
    span, verdict = MISSING, ""
    if found.low is not None and found.high is not None:
        span = f"{found.low:.2f} to {found.high:.2f}".replace("-", "−")
        verdict = "holds 0" if found.low <= 0 <= found.high else ""
    return found.of, f"{found.tau:.2f}".replace("-", "−"), span, str(found.n or MISSING), verdict


def _scatter(page: Contents) -> str:
    if "plot-fidelity" not in page.figures:
        return ""
    rows = [(str(p.trial), f"{100 * p.short:.1f}", f"{100 * p.long:.1f}") for p in points(page.info.get("fidelity"))]
    table = as_table(("trial", "short run (%)", "longer (%)"), rows)
    return f"<div>{plot('plot-fidelity', 'Accuracy after longer training against the short run', table)}</div>"


def finalists(page: Contents) -> str:
    """The front's members measured again; nothing where the run has none."""
    found = [row for row in page.info.get("finalists") or [] if isinstance(row, Mapping) and "trial" in row]
    if not found:
        return ""
    keys = list(dict.fromkeys(key for row in found for key in row if key != "trial"))
    rows = "".join(_finalist(page, row, keys) for row in found)
    heads = ["trial", METRICS[page.answer.axes.quality].label, *(label(key) for key in keys)]
    return f"<h3>Finalists, measured again</h3>{scroll_table(heads, rows)}"


def _finalist(page: Contents, row: Mapping[str, Any], keys: Sequence[str]) -> str:
    trial = page.by_number.get(row["trial"])
    name = f'<button type="button" class="link" data-open="{trial.number}">{trial.label}</button>' if trial else MISSING
    quality = page.answer.axes.quality
    learnt = shown(quality, trial.values[quality]) if trial and trial.has(quality) else MISSING
    cells = "".join(f"<td>{escape(cell(key, row.get(key)))}</td>" for key in keys)
    return f'<tr><th scope="row">{name}</th><td>{escape(learnt)}</td>{cells}</tr>'


def cell(key: str, value: object) -> str:
    """A value of a finalist: a measurement with its interval, an accuracy in percent, whatever else in words."""
    scale = 100.0 if key in METRICS and METRICS[key].unit == "%" else 1.0
    if isinstance(value, Mapping):
        centre = known(value.get("median", value.get("mean")))
        ends = [known(end) for end in value.get("ci95") or ()]
        if centre is None:
            return words(value)
        low_high = [number(end * scale) for end in ends if end is not None]
        return f"{number(centre * scale)}{f' ({low_high[0]} to {low_high[1]})' if len(low_high) == 2 else ''}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(key, each) for each in value)
    if isinstance(value, float) and known(value) is not None:
        return number(value * scale)
    return words(value)
