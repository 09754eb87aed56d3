"""The evidence as HTML: all trials, how the search went and how it was run."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from uniformer_bench.report.contents import Contents
from uniformer_bench.report.info import BESIDE, RUN_STEP, Cause, Fate, History, fates, phases
from uniformer_bench.report.markup import as_table, bar, copyable, plot, section
from uniformer_bench.report.text import MISSING, duration, escape, number, percent, plain, plural

MOST_CAUSES = 8
PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")
CONVENTION = (
    "One multiply-accumulate (MAC) is two floating-point operations (FLOPs). MACs are those of convolutions, linear "
    "layers and the two products of attention, for one clip; the paper’s “GFLOPs” are MACs. MB are 10⁶ bytes. Accuracy "
    "is the share of validation clips named rightly after the short run, latency the median of the protocol’s repeats."
)


def all_trials(page: Contents) -> str:
    """The frame of the table; the page's script fills it."""
    states = "".join(
        f'<option value="{escape(f.state)}">{escape(f.state)} ({f.total})</option>' for f in fates(page.trials)
    )
    return section(
        "trials",
        "All trials",
        '<form class="controls" id="trial-filters"><label>search <input type="search" id="trial-search" '
        'placeholder="LLGG, 5x5x5, memory …"></label> <label>state <select id="trial-state">'
        f'<option value="">all</option><option value="front">front</option>{states}</select></label> '
        '<label><input type="checkbox" id="trial-params"> parameters</label> '
        '<button type="button" id="trial-clear" hidden>Clear selections</button>'
        '<span class="push"><button type="button" id="save-csv">CSV</button> <button type="button" id="save-json">JSON'
        '</button></span></form><p class="note" id="trial-count" role="status"></p>'
        '<div class="scroll tall" tabindex="0" role="region" aria-label="Table of trials">'
        '<table id="trial-table"><caption class="hidden">All trials</caption><thead></thead><tbody></tbody></table>'
        "</div>"
        '<button type="button" id="trial-more" hidden></button>',
    )


def how_it_went(page: Contents, trust: str = "") -> str:
    """Hypervolume, fates and their messages, time by phase; `trust` is HTML about rungs and fidelity."""
    if not page.trials:
        return section("went", "How it went", '<p class="note">No trial has ended yet.</p>')
    reference = (page.info.get("hypervolume") or {}).get("reference")
    against = (
        f'<p class="note">Reference point, fixed at the start: {escape(words(reference))}.</p>' if reference else ""
    )
    found = fates(page.trials)
    return section(
        "went",
        "How it went",
        f'{_hypervolume(page)}{against}<div class="two"><div><h3>What became of the trials</h3>{_fates(found)}</div>'
        f"<div><h3>Time by phase</h3>{_phases(phases(page.trials))}</div></div>{trust}{_failures(found)}",
    )


def _hypervolume(page: Contents) -> str:
    if "plot-history" not in page.figures:
        return '<p class="note">Hypervolume over time needs two trials.</p>'
    table = as_table(("trial", "complete trials", "after", "hypervolume"), _rises(page.history))
    plots = (
        plot("plot-history-trials", "Hypervolume over trials", ""),
        plot("plot-history", "Hypervolume over time", ""),
    )
    return f'<div class="two">{"".join(plots)}</div>{table}'


def _rises(past: History) -> Sequence[tuple[str, ...]]:
    """The points at which the hypervolume rose."""
    best, rows = float("-inf"), []
    for i, (seconds, n, volume) in enumerate(past.points, 1):
        if volume > best:
            best = volume
            rows.append((str(n % RUN_STEP), str(i), duration(seconds), f"{volume:.4f}"))
    return rows


def _fates(found: Sequence[Fate]) -> str:
    most = max(fate.total for fate in found)
    rows = "".join(
        f'<tr><th scope="row">{escape(fate.state)}{_beside(fate)}</th>{bar(fate.total / most, str(fate.total))}</tr>'
        for fate in found
    )
    return f'<table class="plain bars"><tbody>{rows}</tbody></table>'


def _beside(fate: Fate) -> str:
    return " <small>not counted</small>" if fate.state in BESIDE else ""


def _phases(found: Sequence[tuple[str, float]]) -> str:
    total = sum(seconds for _, seconds in found)
    if total <= 0:
        return '<p class="note">No times were recorded.</p>'
    rows = "".join(
        f'<tr><th scope="row">{escape(phase)}</th>{bar(s / total, f"{duration(s)}, {percent(s / total)}")}</tr>'
        for phase, s in found
    )
    return f'<table class="plain bars"><tbody>{rows}</tbody></table>'


def _failures(found: Sequence[Fate]) -> str:
    told = [fate for fate in found if fate.causes]
    if not told:
        return ""
    blocks = "".join(
        f"<dt>{escape(fate.state)} <small>{plural(fate.total, 'trial')}</small></dt><dd>{_causes(fate.causes)}</dd>"
        for fate in told
    )
    return f'<h3>Why trials ended early</h3><dl class="causes">{blocks}</dl>'


def _causes(causes: Sequence[Cause]) -> str:
    shown, rest = causes[:MOST_CAUSES], causes[MOST_CAUSES:]
    more = (
        f"<details><summary>{plural(len(rest), 'more message')}</summary><ul>{_messages(rest)}</ul></details>"
        if rest
        else ""
    )
    return f"<ul>{_messages(shown)}</ul>{more}"


def _messages(causes: Sequence[Cause]) -> str:
    return "".join(f"<li><code>{escape(c.message)}</code> {_numbers(c.numbers)}</li>" for c in causes)


def _numbers(numbers: Sequence[int], most: int = 12) -> str:
    links = " ".join(
        f'<button type="button" class="link" data-open="{n}">{n % RUN_STEP}</button>' for n in numbers[:most]
    )
    return f'<span class="numbers-of">{links}{f" and {len(numbers) - most} more" if len(numbers) > most else ""}</span>'


def how_it_was_run(page: Contents) -> str:
    """Everything needed to run it again, and what it could not tell."""
    info = page.info
    settings = {key: info.get(key) for key in ("seed", "sampler", "version", "created", "trials_asked", "objectives")}
    settings["elapsed"] = duration(info.get("elapsed_s"))
    if info.get("driver_cpu_s") is not None:
        settings["processor time of the driver"] = duration(info["driver_cpu_s"])
    keys = {"Input": "input", "Protocol": "protocol", "Short run": "recipe", "Environment": "environment"}
    parts = {"Run": settings} | {name: info.get(key) for name, key in keys.items()} | {"Donor": _donor(info)}
    lists = "".join(facts_list(name, facts) for name, facts in parts.items() if facts)
    notes = "".join(f"<li>{escape(note)}</li>" for note in info.get("notes") or [])
    unknown = f"<h3>What else to know</h3><ul>{notes}</ul>" if notes else ""
    space = copyable("Search space file", str(info["space_text"])) if info.get("space_text") else ""
    command = copyable("Command", str(info["command"]), True) if info.get("command") else ""
    body = f'{command}{space}{_data_card(info.get("data") or {})}<div class="facts-grid">{lists}</div>'
    return section("run", "How it was run", f'{body}<h3>Conventions</h3><p class="note">{CONVENTION}</p>{unknown}')


def _donor(info: Mapping[str, Any]) -> dict[str, Any]:
    """What every training of the run started from, where the search trained it."""
    if not (donor := info.get("donor")):
        return {}
    known = {"pattern": donor["pattern"], "parameters": f"{donor['params']:,}", "epochs": donor["epochs"]}
    return known | {"trained in": duration(donor["seconds"]), "accuracy": percent(donor["accuracy"])}


def facts_list(name: str, facts: Mapping[str, Any]) -> str:
    """Names and values under a heading."""
    rows = "".join(
        f"<div><dt>{escape(label(str(k).removesuffix('_bytes')))}</dt><dd>{escape(fact(k, v))}</dd></div>"
        for k, v in facts.items()
    )
    heading = f"<h3>{escape(name)}</h3>" if name else ""
    return f'<div>{heading}<dl class="numbers">{rows}</dl></div>'


def fact(key: object, value: object) -> str:
    """A fact's value in words, bytes in GB, nothing of a list as none."""
    if str(key).endswith("_bytes") and isinstance(value, int | float) and math.isfinite(value):
        return f"{number(value / 1e9)}\u00a0GB"
    return "none" if value in ([], {}, ()) else words(value)


def _data_card(data: Mapping[str, Any]) -> str:
    if not data:
        return ""
    plain = {key: value for key, value in data.items() if key != "samples"}
    strips = "".join(_strip(sample) for sample in data.get("samples") or [] if isinstance(sample, Mapping))
    pictures = f'<h3>Clips, a few frames each</h3><div class="strips">{strips}</div>' if strips else ""
    return f'<div class="data-card">{facts_list("Data", plain)}</div>{pictures}'


def _strip(sample: Mapping[str, Any]) -> str:
    """A sample {"name": class, "image": PNG data URI}; anything else than such a URI is left out."""
    if not PICTURE.fullmatch(str(sample.get("image"))):
        return ""
    name = escape(sample.get("name") or "")
    return (
        f'<figure><img src="{sample["image"]}" alt="Frames of a clip: {name}"><figcaption>{name}</figcaption></figure>'
    )


def label(key: object) -> str:
    """trials_asked as trials asked."""
    return str(key).replace("_", " ")


def words(value: object) -> str:
    """A plain value as people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{label(key)} {words(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(words(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return plain(value) if math.isfinite(value) else MISSING
    return MISSING if value is None else str(value)
