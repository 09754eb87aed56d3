"""A run's front and baselines on other devices, as pure data: each latency beside the run's own, ranks, and the front.

Latencies are compared a clip, because a device may be given another batch. Ranks are among those measured on both.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from uniformer_bench.report.answer import answer
from uniformer_bench.report.info import Axes, Interval, Trial, front_of
from uniformer_bench.runs import known


class Placed(NamedTuple):
    """A trial on a device: its latency in ms of a batch, how many times the run's own a clip takes, and its ranks,
    1 for the fastest. What is not known is None; `ratio_interval` adds both intervals in quadrature."""

    trial: Trial
    latency: float | None
    interval: Interval | None
    ratio: float | None
    ratio_interval: Interval | None
    rank_before: int | None
    rank: int | None
    memory: float | None
    reason: str | None
    warnings: tuple[str, ...] = ()


class Device(NamedTuple):
    """What a device said. Of the pairs that both latencies order for sure, `swapped` are in another order there;
    `front` are the trials that none measured beats, `axes` the run's quality and latency, `pick` what the page's rule
    picks there, with its sentence."""

    label: str
    protocol: dict[str, Any]
    placed: tuple[Placed, ...]
    pairs: int
    swapped: int
    front: tuple[int, ...]
    axes: Axes
    pick: int | None = None
    sentence: str = ""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Its trials with this device's latency in the place of the run's."""
        return tuple(_moved(placed) for placed in self.placed if placed.latency is not None)

    @property
    def fallen(self) -> tuple[Trial, ...]:
        """The trials of the run's front that are not on this device's."""
        return tuple(p.trial for p in self.placed if p.trial.front and p.latency and p.trial.number not in self.front)


def devices(
    remeasured: Sequence[Mapping[str, Any]], trials: Sequence[Trial], info: Mapping[str, Any], quality: str
) -> tuple[Device, ...]:
    """Every device that measured trials of this run, in the order of their labels."""
    by_number = {trial.number: trial for trial in trials}
    found = [_device(document, by_number, _batch(info), quality) for document in remeasured]
    return tuple(sorted((device for device in found if device.placed), key=lambda device: device.label))


def _batch(document: Mapping[str, Any]) -> float:
    return known((document.get("protocol") or {}).get("batch")) or 1


def _device(document: Mapping[str, Any], by_number: Mapping[int, Trial], batch: float, quality: str) -> Device:
    scale = batch / _batch(document)
    rows = [(by_number[row["trial"]], row) for row in document["rows"] if row.get("trial") in by_number]
    placed = _ranked([_placed(trial, row, scale) for trial, row in rows])
    axes = Axes(quality, "latency")
    label, protocol = str(document.get("label") or "another device"), dict(document.get("protocol") or {})
    device = Device(label, protocol, tuple(placed), *_pairs(placed), (), axes)
    found = answer(device.trials, axes)
    pick = found.choice.pick if found.choice else None
    front = tuple(trial.number for trial in front_of(device.trials, axes))
    return device._replace(front=front, pick=pick, sentence=found.sentences[pick] if pick is not None else "")


def _placed(trial: Trial, row: Mapping[str, Any], scale: float) -> Placed:
    measured = row.get("latency_ms") or {}
    latency, ends = known(measured.get("median")), [known(end) for end in measured.get("ci95") or ()]
    low, high = ends if len(ends) == 2 else (None, None)
    interval = None if low is None or high is None else (low, high)
    ratio, around = _ratio(trial, latency, interval, scale)
    warnings = tuple(map(str, [*(row.get("notes") or []), *(measured.get("warnings") or [])]))
    memory = known(row.get("memory_bytes"))
    return Placed(trial, latency, interval, ratio, around, None, None, memory, row.get("reason"), warnings)


def _ratio(
    trial: Trial, latency: float | None, interval: Interval | None, scale: float
) -> tuple[float | None, Interval | None]:
    before = trial.values.get("latency")
    if latency is None or not before:
        return None, None
    ratio, was = scale * latency / before, trial.intervals.get("latency")
    if interval is None or was is None or min(interval[0], was[0]) <= 0:
        return ratio, None
    half = math.hypot(*(math.log(high / low) / 2 for low, high in (interval, was)))
    return ratio, (ratio * math.exp(-half), ratio * math.exp(half))


def _ranked(placed: Sequence[Placed]) -> list[Placed]:
    """With the ranks of those that both have measured, fastest first there."""
    both = [p for p in placed if p.ratio is not None]
    orders = [sorted(both, key=lambda p: (p.latency, p.trial.number)),
              sorted(both, key=lambda p: (p.trial.values["latency"], p.trial.number))]  # fmt: skip
    now, before = ({p.trial.number: i for i, p in enumerate(order, 1)} for order in orders)
    others = [p for p in placed if p.ratio is None]
    return [p._replace(rank=now[p.trial.number], rank_before=before[p.trial.number]) for p in orders[0]] + others


def _pairs(placed: Sequence[Placed]) -> tuple[int, int]:
    """(pairs whose intervals are apart on both devices, those of them that are in another order)."""
    spans = [
        (p.trial.intervals["latency"], p.interval) for p in placed if p.interval and "latency" in p.trial.intervals
    ]
    orders = [(_order(a[0], b[0]), _order(a[1], b[1])) for i, a in enumerate(spans) for b in spans[:i]]
    sure = [(before, now) for before, now in orders if before and now]
    return len(sure), sum(before != now for before, now in sure)


def _order(a: Interval, b: Interval) -> int:
    """-1 where `a` is below `b` for sure, 1 where it is above, 0 where they overlap."""
    return -1 if a[1] < b[0] else int(a[0] > b[1])


def _moved(placed: Placed) -> Trial:
    assert placed.latency is not None, "a trial without a latency has no place"
    trial = placed.trial
    intervals = {key: ends for key, ends in trial.intervals.items() if key != "latency"}
    intervals |= {"latency": placed.interval} if placed.interval else {}
    return trial._replace(values=trial.values | {"latency": placed.latency}, intervals=intervals)
