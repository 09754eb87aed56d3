"""What a comparison showed, as values: ratios of times with intervals, a verdict that the control allows, and words.

A round is one observation: the median of its blocks. The interval is that of the median of the rounds by order
statistics, which holds whatever the noise looks like.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from math import expm1, log, sqrt
from typing import Any, NamedTuple

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.latency import median_interval


class Block(NamedTuple):
    """Seconds of one run of each."""

    a: float
    b: float
    control: float


class Ratio(NamedTuple):
    """A ratio of times and its 95 % interval."""

    ratio: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        return {"ratio": self.ratio, "ci95": [self.low, self.high]}


@dataclass(frozen=True)
class Comparison:
    """What the rounds showed: `clips` are those in a run of A and of B, and times are compared per clip."""

    rounds: tuple[tuple[Block, ...], ...]
    clips: tuple[int, int] = (1, 1)

    @property
    def ratio(self) -> Ratio:
        """A's time over B's, both copies of A taken together (their geometric mean), since both are A."""
        per_clip = self.clips[1] / self.clips[0]
        return _ratio([[per_clip * sqrt(x.a * x.control) / x.b for x in blocks] for blocks in self.rounds])

    @property
    def control(self) -> Ratio:
        """A's time over that of its own copy."""
        return _ratio([[x.a / x.control for x in blocks] for blocks in self.rounds])

    @property
    def verdict(self) -> str:
        """On A against B: a difference is seen where the interval leaves out 1 and the ratio is further from 1
        than any of the control's interval, between whose copies there is none."""
        ratio = self.ratio
        if ratio.low <= 1 <= ratio.high or abs(log(ratio.ratio)) <= _reach(self.control):
            return "no difference seen"
        return "faster" if ratio.ratio < 1 else "slower"

    @property
    def resolution(self) -> float:
        """The share by which A must differ from B for these rounds to show it."""
        ratio = self.ratio
        half_width = max(log(ratio.high / ratio.ratio), log(ratio.ratio / ratio.low))
        return expm1(max(half_width, _reach(self.control)))

    @property
    def blocks(self) -> list[Block]:
        """All of them, in order."""
        return [block for blocks in self.rounds for block in blocks]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: verdict, ratio and interval, those of the control, and how much they rest on."""
        return {
            "verdict": self.verdict,
            **self.ratio.to_dict(),
            "control": self.control.to_dict(),
            "resolution": self.resolution,
            "rounds": len(self.rounds),
            "pairs": len(self.blocks),
        }


def _ratio(rounds: list[list[float]]) -> Ratio:
    medians = [statistics.median(blocks) for blocks in rounds]
    interval = median_interval(medians)
    assert interval is not None, "a comparison has rounds enough for an interval"
    return Ratio(statistics.median(medians), *interval)


def _reach(ratio: Ratio) -> float:
    """The logarithm of the farthest that an interval goes from 1."""
    return max(log(ratio.high), -log(ratio.low), 0.0)


def exceeds(document: Mapping[str, Any], limit: float) -> bool:
    """Whether A is slower than B by more than the share `limit`, with the whole interval above it."""
    return document["verdict"] == "slower" and document["ci95"][0] > 1 + limit


def parse_percent(text: str) -> float:
    """`5%` -> 0.05. Raises UbenchError for anything but a percentage that is not negative."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value < float("inf"):
        raise UbenchError(f"a limit must be a percentage such as 5%, got {text!r}")
    return value


def comparison_text(document: Mapping[str, Any]) -> str:
    """A comparison for a person: the verdict, both times, the control, and what there is to warn of."""
    a, b, control = document["a"], document["b"], document["control"]
    shown = f"({document['clock']} time, {document['pairs']} pairs in {document['rounds']} rounds)"
    lines = [
        _sentence(document),
        *(f"  {name}  {_milliseconds(of):>12}  {of['subject']}" for name, of in (("A", a), ("B", b))),
        f"  A/B {_interval(document)} {shown}",
        f"  A/A {_interval(control)} the control; a difference of {document['resolution']:.1%} would have been seen",
        *(f"  {name}: {note}" for name, of in (("A", a), ("B", b)) for note in of["notes"]),
        *(f"  warning: {sentence}" for sentence in document["warnings"]),
    ]
    if "failed" in document:
        outcome = "failed" if document["failed"] else "passed"
        lines.append(f"  {outcome}: A may be slower than B by {document['fail_above']:.1%} at most")
    return "\n".join(lines)


def _sentence(document: Mapping[str, Any]) -> str:
    if document["verdict"] == "no difference seen":
        return "no difference seen between A and B"
    return f"A is {document['verdict']} than B: it takes {document['ratio']:.3f} times as long"


def _milliseconds(of: Mapping[str, Any]) -> str:
    return f"{of['median_ms']:.3f} ms"


def _interval(found: Mapping[str, Any]) -> str:
    return f"{found['ratio']:.4f} (95 % interval {found['ci95'][0]:.4f} to {found['ci95'][1]:.4f})"
