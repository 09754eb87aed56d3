"""The first part of the page as HTML: header, answer and front. All names pass through `escape`."""

from collections import Counter
from collections.abc import Iterable, Sequence

from uniformer_bench.metrics import LIMITS, METRICS, near_miss
from uniformer_bench.report.answer import Choice
from uniformer_bench.report.contents import Contents, span, title
from uniformer_bench.report.figures import axis_title
from uniformer_bench.report.info import COUNTED, Trial
from uniformer_bench.report.markup import as_table, scroll_table, section
from uniformer_bench.report.text import duration, escape, plain, plural, shown

NAV = (
    ("answer", "Answer"),
    ("front", "Front"),
    ("devices", "Other devices"),
    ("architectures", "Architectures"),
    ("matters", "What matters"),
    ("trials", "Trials"),
    ("went", "How it went"),
    ("run", "How it was run"),
)
TEXTURES = """<svg class="defs" width="0" height="0" aria-hidden="true"><defs>
<pattern id="fill-local" width="5" height="5" patternUnits="userSpaceOnUse"><rect class="ground-local" width="5" \
height="5"/><rect class="ink-local" x="0.8" y="0.8" width="2.6" height="2.6"/></pattern>
<pattern id="fill-split" width="4" height="4" patternUnits="userSpaceOnUse"><rect class="ground-split" width="4" \
height="4"/><path class="ink-split" d="M0 1h4" stroke-width="1.6"/></pattern>
</defs></svg>"""


def header(page: Contents) -> str:
    """Title, what was searched in a line, and the page's contents."""
    info, counts = page.info, Counter(trial.state for trial in page.trials)
    built = sum(counts[state] for state in COUNTED)
    asked = info.get("trials_asked")
    done = f"{built} of {asked} trials" if asked and asked != built else plural(built, "trial")
    device = (info.get("protocol") or {}).get("device")
    elapsed = duration(info.get("elapsed_s")) if info.get("elapsed_s") else ""
    space = f"space {info['space_name']}" if info.get("space_name") else ""
    made = str(info.get("created") or "")[:10]
    facts = [done, f"{counts['complete']} complete", space, f"on {device}" if device else "", elapsed, made]
    line = " · ".join(escape(fact) for fact in facts if fact)
    nav = [each for each in NAV if each[0] != "devices" or page.devices]
    return heading("Architecture search", escape(page.name), line, nav)


def heading(kind: str, name: str, line: str, nav: Sequence[tuple[str, str]]) -> str:
    """The top of a page; `name` and `line` are HTML, `nav` (anchor, words) of its sections."""
    links = "".join(f'<a href="#{anchor}">{words}</a>' for anchor, words in nav)
    return (
        f'<a class="skip" href="#answer">Skip to the answer</a>{TEXTURES}\n<header><p class="kind">{kind}'
        f'</p><h1>{name}</h1><p class="facts">{line}</p></header>\n'
        f'<nav aria-label="Sections">{links}</nav>\n<main>'
    )


def footer(page: Contents) -> str:
    """The viewer that opens a trial, and who made the page."""
    version = escape(page.info.get("version") or "")
    return (
        '</main>\n<dialog id="viewer" aria-labelledby="viewer-title"><div class="bar"><h2 id="viewer-title"></h2>'
        '<button type="button" data-close>Close</button></div><div id="viewer-body"></div></dialog>\n'
        '<noscript><p class="note">The plots and the table of trials need JavaScript; the rest reads without it.</p>'
        f"</noscript>\n<footer>uniformer_bench {version}. This file is whole: it loads nothing.</footer>"
    )


def answer(page: Contents) -> str:
    """The pick in a sentence, the budget, three cards, the baselines."""
    choice = page.answer.choice
    if choice is None:
        return section("answer", "The answer", _no_answer(page))
    cheaper = "Faster" if page.answer.axes.cost == "latency" else "Cheaper"
    better = "More accurate" if page.answer.axes.quality == "accuracy" else "Better"
    headings = zip(Choice._fields, ("The pick", cheaper, better), choice, strict=True)
    cards = "".join(card(page, role, words, trial) for role, words, trial in headings)
    rule = f'<p class="note"><span id="rule">{escape(page.answer.rule)}</span> {constraints(page)}</p>'
    asked = budget(page.answer.axes.cost, page.answer.ladders)
    body = f'{_lede(page)}{rule}{asked}<div class="cards">{cards}</div>{_baselines(page)}'
    return section("answer", "The answer", body)


def _no_answer(page: Contents) -> str:
    return (
        f'<p class="lede">Nothing to choose from yet.</p><p class="note">{escape(page.answer.rule)} '
        f"{escape(_missed(page))}{constraints(page)} What became of the trials is under “How it went”.</p>"
        f"{_baselines(page)}"
    )


def _missed(page: Contents) -> str:
    """A sentence on what came closest to the limits, where nothing that was measured has kept them."""
    given = page.info.get("constraints") or {}
    limits = {
        key: value for key, value in given.items() if key in LIMITS and isinstance(value, int | float) and value > 0
    }
    said = near_miss([(trial.number, trial.state, trial.values) for trial in page.trials], limits)
    return f"{said[:1].upper()}{said[1:]}. " if said else ""


def _lede(page: Contents) -> str:
    choice = page.answer.choice
    assert choice is not None, "a lede without a pick"
    words = page.options[choice.pick]
    return (
        f'<p class="lede" id="lede" aria-live="polite"><strong data-slot="name">{escape(words["name"])}</strong>, '
        f'<span class="pattern" data-slot="pattern">{escape(words["pattern"])}</span>: '
        f'<span data-slot="sentence">{escape(_lower_first(words["sentence"]))}</span></p>'
    )


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def constraints(page: Contents) -> str:
    """The run's constraints as a sentence, escaped."""
    given = page.info.get("constraints") or {}
    parts = [f"{METRICS[LIMITS[k].metric].label} at most {_limit(v)} {LIMITS[k].unit.split()[0]}" if k in LIMITS
             else f"{k} {v}" for k, v in given.items() if v is not None]  # fmt: skip
    return f"Constraints: {escape(', '.join(parts))}." if parts else "No constraints were set."


def _limit(value: object) -> str:
    return plain(value) if isinstance(value, int | float) else str(value)


def budget(first: str, ladders: Iterable[str]) -> str:
    """The form that asks for a budget on one of the metrics in `ladders`."""
    keys = sorted(ladders, key=lambda key: key != first)
    options = "".join(f'<option value="{key}">{escape(axis_title(key))}</option>' for key in keys)
    return (
        '<form class="budget" id="budget"><span class="ask">With a budget:</span> '
        f'<label>metric <select id="budget-metric">{options}</select></label> '
        '<label>at most <input type="number" id="budget-limit" min="0" step="any" placeholder="any"></label> '
        '<input type="range" id="budget-range" min="0" max="1000" value="1000" aria-label="Budget"> '
        '<button type="reset">No budget</button> <output id="budget-says" for="budget-limit"></output></form>'
    )


def card(page: Contents, role: str, heading: str, trial: int | None, none: str = "No other trial is.") -> str:
    """A chosen trial, which the page's script exchanges as the budget changes."""
    words = page.options[trial] if trial is not None else {}
    slot = {key: escape(words.get(key, "")) for key in ("name", "pattern", "sentence", "quality", "cost")}
    spans = {key: escape(words.get(f"{key}_span", "")) for key in ("quality", "cost")}
    labels = {name: METRICS[key].label for name, key in page.answer.axes._asdict().items()}
    figures = "".join(
        f'<div><dt>{labels[name]}</dt><dd><b data-slot="{name}">{slot[name]}</b> '
        f'<small data-slot="{name}_span">{spans[name]}</small></dd></div>'
        for name in ("quality", "cost")
    )
    empty, full = ("", " hidden") if trial is None else (" hidden", "")
    return (
        f'<article class="card {role}" data-role="{role}" data-trial="{"" if trial is None else trial}">'
        f'<h3>{escape(heading)}</h3><p class="none"{empty}>{none}</p><div class="filled"{full}>'
        f'<p class="name"><span data-slot="name">{slot["name"]}</span> <span class="pattern" data-slot="pattern">'
        f'{slot["pattern"]}</span></p><div class="thumb" data-slot="drawing">{words.get("drawing", "")}</div>'
        f'<dl class="figures">{figures}</dl><p class="sentence" data-slot="sentence">{slot["sentence"]}</p>'
        '<button type="button" data-open-card>Open architecture</button></div></article>'
    )


def _baselines(page: Contents) -> str:
    rows = [page.by_number[n] for n in page.answer.baselines]
    if not rows:
        return '<p class="note">No baselines were asked for.</p>'
    keys = [*page.answer.axes, *(k for k in ("macs", "params", "memory") if k not in page.answer.axes)]
    body = "".join(_baseline(trial, keys) for trial in rows)
    heads = ["baseline", "pattern", *(axis_title(key) for key in keys)]
    return scroll_table(heads, body, caption="Baselines")


def _baseline(trial: Trial, keys: list[str]) -> str:
    cells = "".join(_cell(trial, key) for key in keys)
    state = "" if trial.state == "complete" else f" <small>{escape(trial.state)}</small>"
    button = f'<button type="button" class="link" data-open="{trial.number}">{escape(trial.baseline)}</button>'
    return f'<tr><th scope="row">{button}{state}</th><td class="pattern">{escape(trial.pattern)}</td>{cells}</tr>'


def _cell(trial: Trial, key: str) -> str:
    within = span(trial, key)
    value = shown(key, trial.values.get(key)).split("\u00a0")[0]
    return f"<td>{escape(value)}{f' <small>{escape(within)}</small>' if within else ''}</td>"


def front(page: Contents, finalists: str = "") -> str:
    """The scatter plot and its controls, then what measuring its members again gave, as HTML."""
    if "plot-front" not in page.figures:
        return section("front", "The front", '<p class="note">No trial has been measured yet.</p>')
    axes = page.answer.axes
    there = [key for key in METRICS if key in axes or any(trial.has(key) for trial in page.trials)]
    choose = _axis_control("x", axes.cost, there) + _axis_control("y", axes.quality, there)
    quality, cost = METRICS[axes.quality].label, METRICS[axes.cost].label
    return section(
        "front",
        "The fronts" if page.trials[0].run else "The front",
        f'<form class="controls" id="front-axes">{choose}</form><figure><div id="plot-front" class="plot" role="group" '
        f'aria-label="Scatter plot of {escape(quality)} against {escape(cost)}; the table of trials holds the same '
        'numbers."></div><figcaption><span id="front-count"></span> Bars are 95 % intervals. Drag over points to '
        "select trials in the table; double-click to let go; click a point to open its architecture."
        f"</figcaption>{_front_table(page)}</figure>{finalists}",
    )


def _front_table(page: Contents) -> str:
    """The front's members in words, for who cannot see the plot."""
    axes = page.answer.axes
    rows = [
        (title(trial), trial.pattern, *(f"{shown(k, trial.values[k])} {_within(trial, k)}".strip() for k in axes))
        for trial in sorted((t for t in page.trials if t.front and t.has(*axes)), key=lambda t: t.values[axes.cost])
    ]
    heads = ("front member", "pattern", *(METRICS[key].label for key in axes))
    return as_table(heads, rows) if rows else ""


def _within(trial: Trial, key: str) -> str:
    words = span(trial, key)
    return f"({words})" if words else ""


def _axis_control(axis: str, chosen: str, keys: Sequence[str]) -> str:
    options = "".join(
        f'<option value="{key}"{" selected" if key == chosen else ""}>{escape(axis_title(key))}</option>'
        for key in keys
    )
    return (
        f'<span class="pair"><label>{axis} <select id="front-{axis}">{options}</select></label> '
        f'<label><input type="checkbox" id="front-{axis}-log"> log</label></span>'
    )
