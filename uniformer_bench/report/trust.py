"""How far a run can be trusted, as HTML: rungs, the fidelity card, the finalists measured again.

Each part stands where the run has its data, and says nothing where it has not.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uniformer_bench.report.contents import Contents
from uniformer_bench.report.evidence import facts_list, words
from uniformer_bench.report.fidelity import Correlation, correlations, facts, points
from uniformer_bench.report.info import RungRow, rungs
from uniformer_bench.report.markup import as_table, plot, scroll_table, table_row
from uniformer_bench.report.text import MISSING, duration, escape, percent, shown
from uniformer_bench.runs import known

DRIFT = 1.25  # between two looks at the latency of one model: more than a short look is off by

TRUST = (
    "Kendall’s rank correlation of accuracy after the short run with that after the longer training: 1 is the same "
    "order, 0 none. An interval that holds 0 is no evidence that the short run ranks at all."
)

FINALS_NOTE = (
    "The front’s members, those that stood behind one that was lucky, and the baselines, trained again from other "
    "seeds and timed in turns on a quiet device. What chose them is no evidence for them: their accuracy is the mean "
    "of the trainings that came after, with a 95 % interval that holds the noise of seeds and of clips. The chance is "
    "that of being on the front, by these intervals. The test split was read for them alone, and nothing is chosen by "
    "it. All other trials are shown as the search saw them."
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
    """The front's members trained and measured again; nothing where the run has none."""
    found = [row for row in page.info.get("finalists") or [] if isinstance(row, Mapping) and "trial" in row]
    if not found:
        return ""
    columns = {head: [read(row) for row in found] for head, read in FINALS.items()}
    kept = {head: cells for head, cells in columns.items() if {*cells} != {MISSING}}
    if not kept:
        return ""
    body = "".join(
        f'<tr><th scope="row">{_opener(page, row)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for row, cells in zip(found, zip(*kept.values(), strict=True), strict=True)
    )
    reason = page.info.get("finalists_reason")
    missing = f" <strong>Not all was done: {escape(words(reason))}.</strong>" if reason else ""
    note = f'<p class="note">{FINALS_NOTE}{missing}{drift(found)}</p>'
    return f"<h3>Finalists, measured again</h3>{note}{scroll_table(('trial', *kept), body)}"


def drift(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence where the machine's speed changed between the search's looks and the finalists'."""
    pairs = [(_median_ms(row), known(row.get("latency_ms_in_search"))) for row in rows]
    ratios = [later / before for later, before in pairs if later and before]
    if max([1.0, *ratios]) / min([1.0, *ratios]) < DRIFT:
        return ""
    span = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return (
        f" <strong>These latencies are {span} times those in the search: the machine’s speed changed in between, and "
        "the points of other trials may be off by as much.</strong>"
    )


def _median_ms(row: Mapping[str, Any]) -> float | None:
    latency_ms = row.get("latency_ms")
    return known(latency_ms.get("median")) if isinstance(latency_ms, Mapping) else None


def _opener(page: Contents, row: Mapping[str, Any]) -> str:
    trial = page.by_number.get(row["trial"])
    if trial is None:
        return MISSING
    name = f" {escape(trial.baseline)}" if trial.baseline else ""
    pattern = f'<span class="pattern">{escape(trial.pattern)}</span>'
    return f'<button type="button" class="link" data-open="{trial.number}">{trial.label}{name}</button> {pattern}'


def _measured(key: str, column: str) -> Callable[[Mapping[str, Any]], str]:
    """A measurement with its interval: 81.2 % (79.0 to 83.1)."""

    def read(row: Mapping[str, Any]) -> str:
        value = row.get(column)
        if not isinstance(value, Mapping):
            return MISSING
        centre = known(value.get("median", value.get("mean")))
        low, high = (known(end) for end in value.get("ci95") or (None, None))
        return shown(key, centre) + (f" ({_bare(key, low)} to {_bare(key, high)})" if low is not None else "")

    return read


def _plainly(key: str, column: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: shown(key, known(row.get(column)))


def _by_seed(row: Mapping[str, Any]) -> str:
    """The trainings that are not the search's, one by one, and those that came to nothing."""
    accuracy = row.get("accuracy")
    if not isinstance(accuracy, Mapping):
        return MISSING
    values = [known(value) for value in dict(accuracy.get("by_seed") or {}).values()][1:]  # the first is the search's
    failed = [f"seed {seed} {words(why)}" for seed, why in dict(accuracy.get("failed") or {}).items()]
    return ", ".join([*(_bare("accuracy", value) for value in values), *failed]) or MISSING


def _chance(row: Mapping[str, Any]) -> str:
    chance = known(row.get("on_front"))
    return MISSING if chance is None else percent(chance)


def _bare(key: str, value: float | None) -> str:
    """A metric's value without its unit."""
    return shown(key, value).split("\u00a0")[0]


FINALS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "validation accuracy": _measured("accuracy", "accuracy"),
    "each training (%)": _by_seed,
    "in the search": _plainly("accuracy", "accuracy_in_search"),
    "test accuracy": _measured("accuracy", "test_accuracy"),
    "latency": _measured("latency", "latency_ms"),
    "latency in the search": _plainly("latency", "latency_ms_in_search"),
    "chance to be on the front": _chance,
}
