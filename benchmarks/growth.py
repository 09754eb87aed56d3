"""How cost grows with frames, size and width, by mixer: `python benchmarks/growth.py --results results/growth`.

One block of each mixer (tube 5x5x5, DPE 3x3x3, an FFN of 4 times the width, heads of 64) as in stage 3 of UniFormer-S:
16 frames of 224x224 are 8x14x14 tokens of 320 channels there. One thread, by process time, forward, the three mixers
in turns; the median over turns. Memory is the peak of inference, MACs are closed form. Writes growth.json, growth.svg.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from uniformer_bench.cost import cost
from uniformer_bench.measure.environment import environment
from uniformer_bench.measure.memory import peak_memory
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build, clips_like
from uniformer_bench.report.roofline_figure import Axis
from uniformer_bench.report.text import escape, number
from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec

MIXERS = ("local", "global", "split")
FRAMES_STRIDE, SIZE_STRIDE = 2, 16  # of stage 3
AXES = {"frames": (4, 8, 16, 32, 64), "size": (112, 160, 224, 272, 320), "width": (64, 128, 192, 320, 512)}
MEASURES = {"ms": ("time, ms", 1.0), "peak_bytes": ("memory, MB", 1e-6), "macs": ("GMACs", 1e-9)}
COLOURS = {"local": "#0072b2", "global": "#d55e00", "split": "#009e73"}
DASHES = {"local": "none", "global": "7 3", "split": "2 3"}
PANEL_W, PANEL_H, LEFT, TOP = 300, 200, 70, 56


class At(NamedTuple):
    """Where a block is looked at; the middle of all axes is UniFormer-S."""

    frames: int = 16
    size: int = 224
    width: int = 320

    def grid(self) -> tuple[int, int, int]:
        """The (T, H, W) of stage 3."""
        return max(1, self.frames // FRAMES_STRIDE), self.size // SIZE_STRIDE, self.size // SIZE_STRIDE

    def tokens(self) -> int:
        return math.prod(self.grid())


def spec_of(mixer: str, width: int) -> ArchSpec:
    """One block, entered by a linear layer on clips that already have its channels and its grid."""
    one = PatchSpec(kernel=(1, 1, 1), stride=(1, 1, 1))
    return ArchSpec(stages=(StageSpec(mixer=mixer, depth=1, width=width),), in_channels=width, stem=one)


def measured(at: At, repeats: int) -> list[dict[str, Any]]:
    """A row a mixer."""
    t, h, w = at.grid()
    protocol = Protocol(device="cpu", frames=t, size=(h, w))
    rows, runs = list[dict[str, Any]](), list[Callable[[], object]]()
    for mixer in MIXERS:
        spec = spec_of(mixer, at.width)
        model = build(spec, 2).eval()
        clips = clips_like(spec, 1, t, (h, w))
        ((embed, blocks),) = model.stage_modules()
        with torch.inference_mode():
            inside = embed(model.ops.enter(clips))
        runs.append(lambda blocks=blocks, inside=inside: blocks(inside))
        macs = cost(spec, frames=t, size=(h, w), num_classes=2).stages[0].blocks[1].macs
        memory = peak_memory(model, clips, protocol, training=False)
        known = {"mixer": mixer, **at._asdict(), "tokens": at.tokens()}
        rows.append(known | {"macs": macs, "peak_bytes": memory.inference_peak_bytes})
    for row, ms in zip(rows, interleaved_ms(runs, repeats), strict=True):
        row["ms"] = ms
    return rows


def interleaved_ms(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median milliseconds of process time of each, taken in turns after one turn that is not timed."""
    times: list[list[float]] = [[] for _ in runs]
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for run, found in zip(runs, times, strict=True):
                start = time.process_time()
                run()
                if turn:
                    found.append(1e3 * (time.process_time() - start))
    return [statistics.median(found) for found in times]


def takeover_tokens(width: int) -> float:
    """Tokens at which the square, 2 N^2 C, is as large as the rest of a global block, N C (27 + 4 C + 2 x 4 C)."""
    return (27 + 12 * width) / 2


def ratios(rows: list[dict[str, Any]], axis: str, other: str) -> list[tuple[float, float]]:
    """(value on the axis, time of global over time of `other`), rising along the axis."""
    ms = {(row[axis], row["mixer"]): row["ms"] for row in rows}
    return [(value, ms[value, "global"] / ms[value, other]) for value in sorted({row[axis] for row in rows})]


def crossing(points: list[tuple[float, float]]) -> float | None:
    """Where a ratio that rises goes through 1, on a line in logarithms between the points; None where it does not."""
    for (a, low), (b, high) in itertools.pairwise(points):
        if low <= 1 < high:
            return math.exp(math.log(a) + math.log(b / a) * -math.log(low) / math.log(high / low))
    return None


def sentences(series: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Where the global mixer's square takes over, and where its time exceeds that of the others."""
    tokens = takeover_tokens(At().width)
    frames = FRAMES_STRIDE * tokens / (At().size / SIZE_STRIDE) ** 2
    size = SIZE_STRIDE * math.sqrt(tokens * FRAMES_STRIDE / At().frames)
    found = [
        f"closed form, width {At().width}: the square of a global block outgrows the rest from {tokens:.0f} tokens on, "
        f"{frames:.1f} frames of {At().size} or {At().frames} frames of {size:.0f}"
    ]
    for axis, rows in series.items():
        for other in ("local", "split"):
            points = ratios(rows, axis, other)
            (first, low), (last, high), where = points[0], points[-1], crossing(points)
            begins = "" if where is None else f", 1 at {where:.0f}"
            found.append(
                f"measured time of global over {other}: {low:.2f} at {axis} {first}, {high:.2f} at {last}{begins}"
            )
    return found


def figure(series: dict[str, list[dict[str, Any]]], words: list[str]) -> str:
    """Three by three panels: time, memory and MACs against frames, size and width; all axes logarithmic."""
    panels = []
    for column, (axis, rows) in enumerate(series.items()):
        for row, measure in enumerate(MEASURES):
            panels.append(panel(rows, axis, measure, LEFT + column * (PANEL_W + LEFT), TOP + row * (PANEL_H + TOP)))
    width, bottom = 3 * (PANEL_W + LEFT) + 100, TOP + 3 * (PANEL_H + TOP)
    height, label = bottom + 14 * len(words), escape("; ".join(words))
    notes = "".join(f'<text x="{LEFT}" y="{bottom + 14 * i}">{escape(word)}</text>' for i, word in enumerate(words))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f'{"".join(panels)}{notes}</svg>\n'
    )  # fmt: skip


def panel(rows: list[dict[str, Any]], axis: str, measure: str, left: float, top: float) -> str:
    """One picture: a line a mixer, named at its end; both axes logarithmic."""
    title, scale = MEASURES[measure]
    values = [scale * row[measure] for row in rows]
    x = Axis(min(r[axis] for r in rows), max(r[axis] for r in rows), left, left + PANEL_W)
    y = Axis(min(values) / 1.3, max(values) * 1.3, top + PANEL_H, top)
    parts = [f'<text x="{left}" y="{top - 8}" font-weight="bold">{title} against {axis}</text>']
    parts.append(f'<path d="M{x.start} {y.end}V{y.start}H{x.end}" fill="none" stroke="#888"/>')
    for value in sorted({row[axis] for row in rows}):
        parts.append(f'<text x="{x.at(value):.1f}" y="{y.start + 16}" text-anchor="middle">{value}</text>')
    for value in ticks(y):
        parts.append(f'<path d="M{x.start} {y.at(value):.1f}H{x.end}" stroke="#ddd"/>')
        parts.append(f'<text x="{x.start - 6}" y="{y.at(value) + 4:.1f}" text-anchor="end">{number(value, 1)}</text>')
    ends, below = dict[str, float](), y.end
    for mixer in sorted(MIXERS, key=lambda mixer: -max(r[measure] for r in rows if r["mixer"] == mixer)):
        ends[mixer] = below = max(y.at(scale * max(r[measure] for r in rows if r["mixer"] == mixer)) + 4, below + 13)
    for mixer in MIXERS:
        line = "L".join(f"{x.at(r[axis]):.1f} {y.at(scale * r[measure]):.1f}" for r in rows if r["mixer"] == mixer)
        stroke = f'stroke="{COLOURS[mixer]}" stroke-dasharray="{DASHES[mixer]}"'
        parts.append(f'<path d="M{line}" fill="none" stroke-width="2" {stroke}/>')
        parts.append(f'<text x="{x.end + 4}" y="{ends[mixer]:.1f}" fill="{COLOURS[mixer]}">{mixer}</text>')
    return "".join(parts)


def ticks(axis: Axis) -> list[float]:
    """1, 2 and 5 times the powers of ten on the axis."""
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)))
    return [digit * 10.0**p for p in powers for digit in (1, 2, 5) if axis.low <= digit * 10.0**p <= axis.high]


def main() -> None:
    """Measure, print, write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results/growth"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    known: dict[At, list[dict[str, Any]]] = {}
    series: dict[str, list[dict[str, Any]]] = {}
    for axis, values in AXES.items():
        for value in values:
            at = At()._replace(**{axis: value})
            known[at] = known.get(at) or measured(at, options.repeats)
            series.setdefault(axis, []).extend(known[at])
            shown = "  ".join(f"{row['mixer']} {row['ms']:8.2f} ms" for row in known[at])
            print(f"{axis:7}{value:5}  {at.tokens():5} tokens  {shown}", flush=True)
    words = sentences(series)
    print("\n".join(words))
    options.results.mkdir(parents=True, exist_ok=True)
    document = {"schema_version": 1, "words": words, "series": series, "environment": environment()}
    (options.results / "growth.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.results / "growth.svg").write_text(figure(series, words))


if __name__ == "__main__":
    main()
