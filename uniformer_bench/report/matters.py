"""What matters as HTML: heat maps of patterns, effects of choices, parallel coordinates, each with its text."""

import re
from collections.abc import Sequence

from uniformer_bench.metrics import METRICS
from uniformer_bench.report.contents import Contents
from uniformer_bench.report.effects import ParameterEffect, is_relative, patterns
from uniformer_bench.report.figures import EFFECT_PARAMETERS
from uniformer_bench.report.insights import Estimate, Insight, Insights
from uniformer_bench.report.markup import as_table, bar, plot, section
from uniformer_bench.report.parallel import Dimension
from uniformer_bench.report.text import MISSING, escape, number, percent, plural, signed

CAVEAT = (
    "Each choice against the mean of all complete trials that have the parameter, with 95 % intervals. The sampler "
    "favours what went well, so choices are not drawn evenly: this describes the search, and proves no cause."
)
LEARNT = (
    "Each change with all other choices held, by regression on all of them at once; 95 % intervals by bootstrap "
    "that hold for all changes together. Cost is also read off trials that were stopped early."
)
FINDINGS = 8


def what_matters(page: Contents) -> str:
    """Heat maps of patterns, effects of choices, parallel coordinates."""
    if not any(name.startswith("plot-pattern") for name in page.figures):
        return section("matters", "What matters", '<p class="note">This needs complete trials.</p>')
    maps = "".join(_map(page, key) for key in page.answer.axes)
    dots = "".join(_effects(page, key) for key in page.answer.axes)
    found = f'<h3>Effects of choices</h3><p class="note">{CAVEAT}</p><div class="two">{dots}</div>' if dots else ""
    lead = (
        "Mixers by stage: L local, G global, S split. Brighter is better; empty was not finished. A click on a cell "
        "leaves its trials alone in the table."
    )
    taught = learnt(page.insights) if page.insights else ""
    patterns_of = f'<h3>Patterns of mixers</h3><p class="note">{lead}</p><div class="two">{maps}</div>'
    body = f"{taught}{patterns_of}{found}{parallel(page.parallel)}"
    return section("matters", "What matters", body)


def learnt(given: Insights) -> str:
    """The findings as sentences, how many changes showed nothing, and the findings' numbers as a table."""
    why = "".join(f"<li>{escape(reason[:1].upper() + reason[1:])}.</li>" for reason in given.reasons)
    reasons = f'<ul class="note">{why}</ul>' if why else ""
    if not given.trials:
        return f"<h3>What a change does</h3>{reasons}" if reasons else ""
    first, rest = given.found[:FINDINGS], given.found[FINDINGS:]
    more = f"<details><summary>{len(rest)} more</summary>{_findings(rest)}</details>" if rest else ""
    other = "other " if given.found else ""
    unseen = f"{plural(given.unseen, f'{other}change')}: no effect seen." if given.unseen else ""
    counted = ", ".join(f"{plural(n, 'trial')} for {METRICS[key].label}" for key, n in given.trials.items())
    note = f'<p class="note">{unseen} {LEARNT} From {escape(counted)}.</p>'
    return f"<h3>What a change does</h3>{_findings(first)}{more}{reasons}{note}{_estimates(given)}"


def _findings(found: Sequence[Insight]) -> str:
    rows = "".join(
        f"<li><b>{escape(each.words)}</b>{escape(each.sentence.removeprefix(each.words))}</li>" for each in found
    )
    return f'<ul class="findings">{rows}</ul>' if rows else ""


def _estimates(given: Insights) -> str:
    heads = ["change", *(f"{METRICS[k].label} ({'%' if is_relative(k) else 'points'})" for k in given.trials)]
    rows = [(each.words, *(_estimate(each.effects.get(key)) for key in given.trials)) for each in given.found]
    return as_table(heads, rows) if rows else ""


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return MISSING
    return f"{signed(100 * found.value)} ({signed(100 * found.low)} to {signed(100 * found.high)})"


def _map(page: Contents, key: str) -> str:
    metric = METRICS[key]
    name, heading = f"plot-pattern-{key}", f"Median {metric.label} ({metric.unit})"
    if name not in page.figures:
        return ""
    cells = patterns(page.trials, key)
    rows = [(c.early + c.late, str(c.n), number(c.median * metric.scale), number(c.best * metric.scale)) for c in cells]
    return plot(name, heading, as_table(("pattern", "trials", "median", "best"), rows))


def _effects(page: Contents, key: str) -> str:
    found, label = page.effects[key], METRICS[key].label
    if not found:
        return ""
    unit = "%" if is_relative(key) else "points"
    rows = [
        (f"{parameter.parameter} = {e.choice}", str(e.n), signed(e.mean * 100),
         f"{signed(e.low * 100)} to {signed(e.high * 100)}" if e.n > 1 else "")
        for parameter in found for e in parameter.effects
    ]  # fmt: skip
    table = as_table(("choice", "trials", f"{unit} against the mean", "95 % interval"), rows)
    return f"<div>{plot(f'plot-effects-{key}', f'On {label}', table)}{_shares(found, label)}</div>"


def _shares(found: Sequence[ParameterEffect], label: str) -> str:
    rows = [
        f'<tr><th scope="row">{escape(each.parameter)}</th>{bar(each.share, percent(each.share))}</tr>'
        for each in found
    ]
    first, rest = "".join(rows[:EFFECT_PARAMETERS]), "".join(rows[EFFECT_PARAMETERS:])
    more = (
        f"<details><summary>{plural(len(rows) - EFFECT_PARAMETERS, 'more parameter')}</summary>{_bars(rest)}</details>"
    )
    return (
        f'<h3 class="minor">Importance: share of the variance of {escape(label)} that goes with a parameter</h3>'
        f'<p class="note">Adjusted eta squared, each parameter alone.</p>{_bars(first)}{more if rest else ""}'
    )


def _bars(rows: str) -> str:
    return f'<table class="plain bars"><tbody>{rows}</tbody></table>'


def parallel(dimensions: Sequence[Dimension]) -> str:
    """The frame of the parallel coordinates: titles, a canvas for the page's script, and fields for every axis."""
    if not dimensions:
        return ""
    heads = "".join(f"<span>{_breakable(each.title)}</span>" for each in dimensions)
    fields = "".join(f"<span>{_fields(i, each)}</span>" for i, each in enumerate(dimensions))
    said = f"Parallel coordinates of the complete trials on {len(dimensions)} axes"
    return (
        '<h3>Parallel coordinates</h3><p class="note">A line is a complete trial. Drag along an axis, or fill in its '
        'fields, to leave what passes there: here, in the front and in the table.</p><div class="scroll" tabindex="0" '
        f'role="region" aria-label="Parallel coordinates"><form id="parallel" style="--axes: {len(dimensions)}">'
        f'<div class="heads">{heads}</div><canvas id="plot-parallel" role="img" aria-label="{said}; the table of '
        f'trials holds the same numbers."></canvas><div class="fields">{fields}</div></form></div>'
        '<p class="note" id="parallel-count" role="status"></p>'
    )


def _breakable(title: str) -> str:
    """A name that may be long, with places to break it."""
    return re.sub(r"([._])", r"\1&#8203;", escape(title))


def _fields(i: int, given: Dimension) -> str:
    title = escape(given.title)
    if given.choices:
        options = "".join(f"<option>{escape(choice)}</option>" for choice in given.choices)
        return f'<select data-dimension="{i}" aria-label="{title}"><option value="">all</option>{options}</select>'
    return "".join(
        f'<input type="number" step="any" data-dimension="{i}" aria-label="{title} at {words}" placeholder="{sign}">'
        for words, sign in (("least", "from"), ("most", "to"))
    )
