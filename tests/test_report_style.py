"""The page's colours: text that can be read, roles and runs that colour-blind readers can tell apart."""

import itertools
import re
from pathlib import Path

import pytest

from uniformer_bench.report.page import ASSETS

CSS = (Path(ASSETS) / "report.css").read_text(encoding="utf-8")
TEXT = ("ink", "soft", "accent", "front", "baseline", "failed", *(f"run-{letter}" for letter in "abcdef"))
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
BLIND = {
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}


def palettes():
    light, dark = (
        re.search(pattern, CSS, re.DOTALL)[1] for pattern in (r":root \{(.*?)\n\}", r"printing\) \{(.*?)\n  \}")
    )
    first = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return {"light": first, "dark": first | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))}


def linear(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def luminance(colour):
    r, g, b = linear(colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    x, y, z = (
        sum(w * c for w, c in zip(row, rgb, strict=True))
        for row in ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    )
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x / 0.9505, y, z / 1.089)]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def seen(colour, matrix):
    rgb = linear(colour)
    return lab([max(0.0, sum(w * c for w, c in zip(row, rgb, strict=True))) for row in matrix])


def test_contrast_and_distance_are_those_of_the_standards():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)  # the usual grey that just passes
    assert lab(linear("#ffffff")) == pytest.approx((100, 0, 0), abs=0.1)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast(theme):
    palette = palettes()[theme]
    found = {(n, g): contrast(palette[n], palette[g]) for n in TEXT for g in ("paper", "panel")}
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("kind", list(BLIND))
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_drawn_together_differs_for_colour_blind_readers(theme, kind):
    palette = palettes()[theme]
    groups = (("front", "baseline", "dominated"), ("local", "global", "split"), ("run-a", "run-b", "run-d"))
    for a, b in (pair for group in groups for pair in itertools.combinations(group, 2)):
        distance = (
            sum((p - q) ** 2 for p, q in zip(seen(palette[a], BLIND[kind]), seen(palette[b], BLIND[kind]), strict=True))
            ** 0.5
        )
        assert distance > 10, (a, b, distance)
