"""What a run's record says of how far its short runs can be trusted, as pure data.

`run.json` may hold `fidelity`, in which every mapping with a `tau` is a rank correlation (Kendall's), with `ci95` and
`n` where they are known, and `points` are trials with their accuracy after the short and the longer training.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from uniformer_bench.runs import known


class Correlation(NamedTuple):
    """Kendall's tau of the short run's order with the longer one's; `of` says within what."""

    of: str
    tau: float
    low: float | None
    high: float | None
    n: int | None


class Point(NamedTuple):
    """A trial's accuracy, as a fraction, after the short run and after the longer one."""

    trial: int
    short: float
    long: float


def correlations(document: object) -> tuple[Correlation, ...]:
    """Every correlation in the document, in its order; the outermost is `overall`."""
    return tuple(_walk(document, ()))


def _walk(value: object, path: tuple[str, ...]) -> Iterator[Correlation]:
    if isinstance(value, Mapping):
        if (tau := known(value.get("tau"))) is not None:
            yield _correlation(value, tau, path)
        for key, each in value.items():
            yield from _walk(each, (*path, str(key).replace("_", " ")))
    elif isinstance(value, list):
        for each in value:
            yield from _walk(each, path)


def _correlation(found: Mapping[str, Any], tau: float, path: Sequence[str]) -> Correlation:
    named = found.get("name") or found.get("band") or ""
    of = ": ".join(part for part in (*path, str(named)) if part) or "overall"
    ends = found.get("ci95") or (None, None)
    low, high = (known(end) for end in ends) if len(ends) == 2 else (None, None)
    n = known(found.get("n"))
    return Correlation(of, tau, low, high, None if n is None else int(n))


def points(document: object) -> tuple[Point, ...]:
    """The trials that were trained twice, by number; what is not whole is left out."""
    rows = document.get("points") if isinstance(document, Mapping) else None
    keys = ("trial", "short", "long")
    found = [[known(row.get(key)) for key in keys] for row in rows or [] if isinstance(row, Mapping)]
    return tuple(sorted(Point(int(t), s, e) for t, s, e in found if t is not None and s is not None and e is not None))


def facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document's plain values: what is neither a correlation nor a list of trials."""
    skipped = ("tau", "ci95", "n", "points", "warnings", "schema_version")
    return {k: v for k, v in document.items() if k not in skipped and not isinstance(v, Mapping | list)}
