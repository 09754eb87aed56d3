"""Other devices as HTML: a sentence and a plot each, and one table of all, which holds the plots' numbers."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from uniformer_bench.report.contents import Contents, title
from uniformer_bench.report.devices import Device, Placed
from uniformer_bench.report.figures import ABOVE, ROLES, Figure, Mark, axis_title, layout, line_trace, points_trace
from uniformer_bench.report.info import Interval, Trial, front_of
from uniformer_bench.report.markup import plot, section
from uniformer_bench.report.text import MISSING, TIMES, escape, number, plural, shown

NOTE = (
    "The front and the baselines, measured on other devices without training again: accuracy is that of this run. The "
    "ratio is the time a clip takes there over what it takes on the run’s own device, with its 95 % interval. Ranks "
    "go from the fastest, 1; a pair is told apart where the intervals of its latencies do not overlap."
)


def other_devices(page: Contents) -> str:
    """The section; nothing where no other device measured."""
    if not page.devices:
        return ""
    blocks = "".join(
        f'<div><p class="note">{_said(device)}</p>'
        + plot(f"plot-device-{i}", f"The front on {device.label}", "")
        + _warnings(device)
        + "</div>"
        for i, device in enumerate(page.devices)
    )
    return section(
        "devices",
        "Other devices",
        f'<p class="note">{NOTE}</p>{_table(page)}<div class="two">{blocks}</div>',
    )


def _said(device: Device) -> str:
    ratios = sorted(placed.ratio for placed in device.placed if placed.ratio is not None)
    span = f"{number(ratios[0])} to {number(ratios[-1])} times the run’s time a clip. " if ratios else ""
    gone = ", ".join(trial.label for trial in device.fallen)
    front = f"No longer on the front: {gone}. " if gone else "All measured members of the front stay on it. "
    pairs = (
        f"Of {plural(device.pairs, 'pair')} told apart on both, {device.swapped} swap places." if device.pairs else ""
    )
    pick = next(
        (f"The pick there is {title(t)}: {_lower(device.sentence)} " for t in device.trials if t.number == device.pick),
        "",
    )
    words = f"{span}{pick}{front}{pairs}"
    return f"<b>{escape(device.label)}</b> ({escape(terms(device.protocol))}): {escape(words)}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _warnings(device: Device) -> str:
    told = [(placed.trial, warning) for placed in device.placed for warning in placed.warnings]
    if not told:
        return ""
    rows = "".join(f"<li>{escape(title(trial))}: {escape(warning)}</li>" for trial, warning in told)
    return f"<details><summary>{plural(len(told), 'warning')} of measuring</summary><ul>{rows}</ul></details>"


HOW = (("compile", "compiled"), ("onnx", "ONNX Runtime"))  # what a protocol is called for where it is true


def terms(protocol: Mapping[str, Any]) -> str:
    """A protocol in a few words: cuda bf16, batch 8, compiled."""
    parts = [f"{protocol.get('device', '')} {protocol.get('precision', '')}".strip()]
    parts += [f"batch {protocol['batch']}"] if protocol.get("batch") else []
    on_cpu = str(protocol.get("device")) == "cpu" and protocol.get("threads")
    parts += [plural(protocol["threads"], "thread")] if on_cpu else []
    return ", ".join([*parts, *(word for key, word in HOW if protocol.get(key))])


def own_name(info: Mapping[str, Any]) -> str:
    """The run's own device by name."""
    machine, protocol = info.get("environment") or {}, info.get("protocol") or {}
    on_gpu = str(protocol.get("device")).startswith("cuda")
    return str((machine.get("gpu") if on_gpu else machine.get("cpu")) or protocol.get("device") or "the run’s own")


def _table(page: Contents) -> str:
    quality = page.answer.axes.quality
    by_device = [{placed.trial.number: placed for placed in device.placed} for device in page.devices]
    there = [trial for trial in page.trials if any(trial.number in rows for rows in by_device)]
    there.sort(key=lambda trial: (trial.values.get("latency", float("inf")), trial.number))
    heads = ["ms", f"ratio ({TIMES})", "rank", "front", "MB"]
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(heads)}" class="group">{escape(device.label)}'
        f"<br><small>{escape(terms(device.protocol))}</small></th>"
        for device in page.devices
    )
    own = f"{escape(own_name(page.info))}<br><small>{escape(terms(page.info.get('protocol') or {}))}</small>"
    names = ["trial", "pattern", axis_title(quality), "ms", *heads * len(page.devices)]
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        _row(trial, quality, [rows.get(trial.number) for rows in by_device], page.devices) for trial in there
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Latency by device"><table class="plain devices">'
        f'<thead><tr><td colspan="3"></td><th scope="col" class="group">{own}</th>{groups}</tr>'
        f"<tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(trial: Trial, quality: str, placed: Sequence[Placed | None], devices: Sequence[Device]) -> str:
    name = f'<button type="button" class="link" data-open="{trial.number}">{escape(title(trial))}</button>'
    own = [
        _figure(trial.values.get(quality), quality),
        _with(trial.values.get("latency"), trial.intervals.get("latency")),
    ]
    cells = "".join(_cells(trial, p, device) for p, device in zip(placed, devices, strict=True))
    return (
        f'<tr><th scope="row">{name}</th><td class="pattern">{escape(trial.pattern)}</td>'
        f"{''.join(f'<td>{cell}</td>' for cell in own)}{cells}</tr>"
    )


def _cells(trial: Trial, placed: Placed | None, device: Device) -> str:
    if placed is None:
        return f"<td>{MISSING}</td>" * 5
    if placed.latency is None:
        return f'<td colspan="4" class="text">{escape(placed.reason or MISSING)}</td><td>{_memory(placed)}</td>'
    stays = "on it" if trial.number in device.front else ("left it" if trial.front else MISSING)
    cells = (_with(placed.latency, placed.interval), _with(placed.ratio, placed.ratio_interval), _rank(placed), stays,
             _memory(placed))  # fmt: skip
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _with(value: float | None, span: Interval | None) -> str:
    around = f" <small>{number(span[0])} to {number(span[1])}</small>" if span else ""
    return f"{number(value)}{around}"


def _rank(placed: Placed) -> str:
    if placed.rank is None or placed.rank_before is None:
        return MISSING
    if placed.rank == placed.rank_before:
        return str(placed.rank)
    return f"{placed.rank_before} → {placed.rank}"


def _memory(placed: Placed) -> str:
    return _figure(placed.memory, "memory")


def _figure(value: float | None, key: str) -> str:
    return escape(shown(key, value).split("\u00a0")[0])


def device_figures(devices: Sequence[Device]) -> dict[str, Figure]:
    """A plot a device: quality against its latency, its front as a step line, what left the front open."""
    return {f"plot-device-{i}": device_figure(device) for i, device in enumerate(devices)}


def device_figure(device: Device) -> Figure:
    """The front under this device's latencies."""
    trials, axes = device.trials, device.axes
    groups = {
        "dominated": ("no longer on it", [t for t in trials if not t.baseline and t.number not in device.front]),
        "front": ("front", [t for t in trials if not t.baseline and t.number in device.front]),
        "baseline": ("baseline", [t for t in trials if t.baseline]),
    }
    marks = {role: Mark(label, *ROLES[role][1:]) for role, (label, _) in groups.items()}
    traces = [
        points_trace(role, marks[role], group, axes) | {"hovertext": [_words(trial) for trial in group]}
        for role, (_, group) in groups.items()
        if group
    ]
    frame = layout(axis_title("latency"), axis_title(axes.quality), 320, {"l": 60, "r": 12, "t": 36, "b": 48})
    return {"data": [line_trace(front_of(trials, axes), axes), *traces], "layout": {**frame, "legend": ABOVE}}


def _words(trial: Trial) -> str:
    latency = shown("latency", trial.values["latency"])
    return f"<b>{html.escape(title(trial), quote=False)}</b> {trial.pattern}<br>latency {latency}"
