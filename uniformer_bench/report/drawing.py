"""An architecture drawn as SVG: a column a stage, a block's cells its depth, its height the spatial grid.

Below, bars give the stage's width, to the scale of the page, and its shares of MACs, parameters and latency.

Mixers differ by texture and shape as well as colour: local is a rectangle of small squares, global a solid
block with round corners, split a block cut in two. Fills are the page's patterns `#fill-<mixer>`, colours its CSS.
One scale serves all drawings of a page, so that they can be compared.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from uniformer_bench.report.arch import ArchView, StageView
from uniformer_bench.report.text import escape, percent

COLUMN, BLOCK, TALL = 104, 88, 76  # of a stage's column, of the deepest stage, of the largest grid
SHORT = 12  # the least height that still shows its texture
LINES, ROWS = 19, ("width", "MACs", "params", "latency")


class Scale(NamedTuple):
    """The deepest stage, the largest spatial side and the widest stage among the drawings that share it."""

    depth: int
    side: float
    width: int = 1


def scale_of(views: Iterable[ArchView]) -> Scale:
    """The scale that all of `views` fit."""
    stages = [stage for each in views for stage in each.stages]
    sides, widths = (_side(stage) for stage in stages), (stage.width for stage in stages)
    return Scale(max((s.depth for s in stages), default=1), max(sides, default=1.0), max(widths, default=1))


def drawing(arch: ArchView, scale: Scale) -> str:
    """The full drawing, labelled."""
    width, height = COLUMN * len(arch.stages), TALL + LINES * len(ROWS) + 56
    columns = "".join(_column(i, stage, scale) for i, stage in enumerate(arch.stages))
    timed = any(stage.latency_share is not None for stage in arch.stages)
    note = "" if timed else f'<text class="q" x="2" y="{height - 8}">latency by stage: not measured</text>'
    return _svg("drawing", width, height, columns + note, describe(arch))


def thumbnail(arch: ArchView, scale: Scale) -> str:
    """The blocks alone, half as large."""
    blocks = "".join(_blocks(i * 48 + 2, TALL / 2, stage, scale, 0.5) for i, stage in enumerate(arch.stages))
    return _svg("thumbnail", 48 * len(arch.stages), TALL // 2 + 2, blocks, describe(arch))


def describe(arch: ArchView) -> str:
    """The drawing in words."""
    words = [
        f"stage {i}: {s.depth} {s.mixer} of width {s.width}, {percent(s.macs_share)} of MACs"
        for i, s in enumerate(arch.stages, 1)
    ]
    return f"{arch.pattern}; " + "; ".join(words)


def x(triple: Iterable[object]) -> str:
    """3×5×5."""
    return "×".join(str(axis) for axis in triple)


def _svg(kind: str, width: int, height: int, body: str, words: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(words)}">{body}</svg>'
    )


def _side(stage: StageView) -> float:
    return math.sqrt(stage.grid[1] * stage.grid[2])


def _column(i: int, stage: StageView, scale: Scale) -> str:
    left = i * COLUMN + 2
    mixer = stage.mixer + (f" {x(stage.tube)}" if stage.tube else "")
    blocks = f"{stage.depth} block{'' if stage.depth == 1 else 's'}"
    lines = [("m", mixer), ("d", blocks), ("q", f"grid {x(stage.grid)}")]
    words = "".join(
        f'<text class="{kind}" data-k="{i}{kind}" x="{left}" y="{TALL + 20 + 14 * n}">{escape(text)}</text>'
        for n, (kind, text) in enumerate(lines)
    )
    shares = (stage.width / scale.width, stage.macs_share, stage.params_share, stage.latency_share)
    bars = "".join(
        _bar(left, n, i, name, share, stage) for n, (name, share) in enumerate(zip(ROWS, shares, strict=True))
    )
    return _blocks(left, TALL, stage, scale, 1) + words + bars


def _bar(left: float, row: int, i: int, name: str, share: float | None, stage: StageView) -> str:
    """A line of words and a bar; nothing for a share that was not measured."""
    if share is None:
        return ""
    y, width = TALL + 68 + LINES * row, name == "width"
    attributes = f'class="d" data-k="{i}width"' if width else 'class="q"'
    words = f"{stage.width} wide" if width else f"{name} {percent(share)}"
    return (
        f'<text {attributes} x="{left}" y="{y}">{words}</text>'
        f'<rect class="bar {name.lower()}" x="{left}" y="{y + 4}" width="{share * BLOCK:.4g}" height="3"/>'
    )


def _blocks(left: float, base: float, stage: StageView, scale: Scale, zoom: float) -> str:
    """All cells of a stage in one path, standing on `base`."""
    cell = zoom * BLOCK / scale.depth
    height = zoom * max(SHORT, TALL * _side(stage) / scale.side)
    gap = min(2.0, cell * 0.12)
    shape = {"local": _square, "global": _round, "split": _cut}.get(stage.mixer, _square)
    path = "".join(shape(left + n * cell, base - height, cell - gap, height) for n in range(stage.depth))
    return f'<path class="{escape(stage.mixer)}" d="{path}"/>'


def _square(left: float, top: float, width: float, height: float) -> str:
    return f"M{left:.4g} {top:.4g}h{width:.4g}v{height:.4g}h{-width:.4g}z"


def _round(left: float, top: float, width: float, height: float) -> str:
    r = min(width, height) * 0.35
    arc = f"a{r:.3g} {r:.3g} 0 0 1 "
    return (
        f"M{left + r:.4g} {top:.4g}h{width - 2 * r:.4g}{arc}{r:.3g} {r:.3g}v{height - 2 * r:.4g}{arc}{-r:.3g} {r:.3g}"
        f"h{2 * r - width:.4g}{arc}{-r:.3g} {-r:.3g}v{2 * r - height:.4g}{arc}{r:.3g} {-r:.3g}z"
    )


def _cut(left: float, top: float, width: float, height: float) -> str:
    half = (height - 2) / 2
    return _square(left, top, width, half) + _square(left, top + half + 2, width, half)
