"""The architectures of a page as HTML: small drawings of the front, two side by side, and the viewer's content."""

import shlex

from uniformer_bench.metrics import METRICS
from uniformer_bench.report.contents import Contents, title
from uniformer_bench.report.drawing import drawing, thumbnail
from uniformer_bench.report.info import Trial
from uniformer_bench.report.markup import copyable, section
from uniformer_bench.report.text import escape, shown


def architectures(page: Contents) -> str:
    """Small drawings of the front, and two architectures side by side."""
    if not page.views:
        return section("architectures", "Architectures", '<p class="note">No architecture has been built yet.</p>')
    left, right = _first_two(page)
    panes = "".join(_pane(page, side, n) for side, n in (("a", left), ("b", right)))
    return section(
        "architectures",
        "Architectures",
        f'{_legend()}<p class="note">Height is the spatial grid, cells are blocks, all to one scale.</p>'
        f'{_gallery(page)}<h3>Side by side</h3><p class="note">What differs is underlined.</p>'
        f'<div class="panes">{panes}</div>',
    )


def _gallery(page: Contents) -> str:
    """The front's members, cheapest first, as buttons that put them in the left pane."""
    cards = "".join(_small(page, n) for n in page.gallery if n in page.views)
    if not cards:
        return ""
    count, quality = sum(trial.front for trial in page.trials), METRICS[page.answer.axes.quality].label
    thinned = f" {len(page.gallery)} of {count} are shown, evenly along it." if count > len(page.gallery) else ""
    order = f"From the cheapest to the best in {escape(quality)}.{thinned} Choose one for the left pane below."
    return f'<h3>The front</h3><p class="note">{order}</p><div class="gallery">{cards}</div>'


def _legend() -> str:
    blocks = {"local": "M0 1h16v12h-16z", "global": "M5 1h6a5 5 0 0 1 5 5v2a5 5 0 0 1 -5 5h-6a5 5 0 0 1 -5 -5v-2"
              "a5 5 0 0 1 5 -5z", "split": "M0 1h16v5h-16zM0 8h16v5h-16z"}  # fmt: skip
    words = {"local": "local: a tube of neighbours", "global": "global: attention over all tokens",
             "split": "split: attention over time, then space"}  # fmt: skip
    items = "".join(
        '<li><svg class="thumbnail" viewBox="0 0 16 14" width="16" height="14" aria-hidden="true">'
        f'<path class="{mixer}" d="{path}"/></svg> {words[mixer]}</li>'
        for mixer, path in blocks.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _small(page: Contents, n: int) -> str:
    trial, axes = page.by_number[n], page.answer.axes
    words = f"{shown(axes.quality, trial.values[axes.quality])}, {shown(axes.cost, trial.values[axes.cost])}"
    return (
        f'<button type="button" data-pane="{n}">{thumbnail(page.views[n], page.scale)}<span class="name">'
        f'{escape(trial.baseline or trial.label)} <span class="pattern">{escape(trial.pattern)}</span></span><small>'
        f"{escape(words)}</small></button>"
    )


def _first_two(page: Contents) -> tuple[int, int]:
    """The pick beside the reference, or the first two there are."""
    choice, known = page.answer.choice, list(page.views)
    left = choice.pick if choice and choice.pick in page.views else known[0]
    wanted = [page.answer.reference, *(choice or ())[1:], *known]
    right = next((n for n in wanted if n in page.views and n != left), left)
    return left, right  # type: ignore[return-value]


def _pane(page: Contents, side: str, chosen: int) -> str:
    front = set(page.gallery)
    order = sorted(page.views, key=lambda n: (n not in front, page.by_number[n].baseline is None, n))
    options = "".join(
        f'<option value="{n}"{" selected" if n == chosen else ""}>{escape(_label(page.by_number[n]))}</option>'
        for n in order
    )
    name = "Left" if side == "a" else "Right"
    return (
        f'<div class="pane" id="pane-{side}"><select aria-label="{name} architecture">{options}</select>'
        f'<div class="body">{architecture(page, chosen)}</div></div>'
    )


def _label(trial: Trial) -> str:
    return f"{title(trial)} {trial.pattern}{' · front' if trial.front else ''}"


def architecture(page: Contents, n: int) -> str:
    """A drawing with the numbers, and the ways to have it."""
    trial, view = page.by_number[n], page.views[n]
    numbers = "".join(
        f'<div><dt>{METRICS[key].label}</dt><dd data-k="{key}">{escape(shown(key, value))}</dd></div>'
        for key, value in trial.values.items()
        if key != "flops"
    )
    return (
        f'<div class="scroll" tabindex="0">{drawing(view, page.scale)}</div><dl class="numbers">{numbers}</dl>'
        f"{copyable('YAML', view.yaml)}{copyable('Python', view.python)}{_commands(page, trial)}"
    )


def _commands(page: Contents, trial: Trial) -> str:
    """What trains a trial in full and exports it; on a page of several runs a number does not name a trial."""
    if trial.run:
        return ""
    run, out = shlex.quote(f"results/{page.name}"), shlex.quote(f"trained/{page.name}-{trial.number}")
    builtin = (page.info.get("data") or {}).get("kind", "builtin") == "builtin"
    data = "builtin" if builtin else "YOUR_CLIPS"  # a page says where clips lie in its command only
    train = f"ubench train --run {run} --trial {trial.number} --data {data} --out {out}"
    lines = [train, f"ubench export {out} --out {shlex.quote(f'models/{page.name}-{trial.number}')}"]
    return copyable("Commands: train and export", "\n".join(lines))
