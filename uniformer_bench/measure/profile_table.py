"""A profile's document as a table for a person, which fits 80 columns.

A row a stage, below it its embedding and its equal blocks together; shares are of the whole model's MACs and of
the parts' summed time. Times are those of the batch, everything else is one clip's.
"""

from collections.abc import Mapping
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from uniformer_bench.measure.memory import NOT_ASKED

BAR = 4  # characters
COLUMNS = ("", "params\nM", "GMACs", "of MACs", "ms", "of time", "FLOP\n/byte", "bound", "of\nroof")
LEFT = ("", "of MACs", "of time", "bound")


def profile_table(document: Mapping[str, Any]) -> Table:
    """The table, with what is to be said of the whole below it."""
    title, parts = _title(document), [*document["stages"], document["head"]]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=_caption(document))
    table.title, table.title_justify, table.caption_justify = title, "left", "left"
    table.title_style, table.caption_style = "bold", ""
    for name in COLUMNS:
        justify: Literal["right", "left"] = "left" if name in LEFT else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    wholes = document["macs"], sum(part["latency_ms"] for part in parts)
    for part in parts:
        table.add_row(*_row(part["name"], part, wholes), style="bold")
        for name, row in _blocks(part):
            table.add_row(*_row(f"  {name}", row, wholes), style="dim")
    table.add_section()
    table.add_row(*_whole(document), style="bold")
    return table


def _title(document: Mapping[str, Any]) -> str:
    protocol = document["protocol"]
    height, width = protocol["size"]
    clip = f"{protocol['batch']} x {protocol['frames']}x{height}x{width}"
    how = [
        f"{protocol['device']} {protocol['precision']}",
        f"threads {protocol['threads']}",
        protocol["implementation"],
    ]
    how += [f"cache {protocol['cache']}"] if "cache" in protocol else []
    how += ["CUDA graph"] if document["latency_ms"]["graph"] else []
    return f"{document['variant'] or document['spec_id']}, clips {clip}, {', '.join(how)}"


def _blocks(part: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The embedding, and the blocks as one: equal ones cost so many times as much."""
    if "blocks" not in part:
        return []
    embedding, *blocks = part["blocks"]
    count, sums = len(blocks), ("params", "macs", "latency_ms")
    together = {**blocks[0], **{key: count * blocks[0][key] for key in sums}}
    return [("embedding", embedding), (f"{count} x {part['mixer']}", together)]


def _row(name: str, part: Mapping[str, Any], wholes: tuple[float, float]) -> list[str]:
    macs, time_ms = wholes
    reached = "" if part["reached"] is None else f"{part['reached']:.0%}"
    return [
        name,
        _figure(part["params"] / 1e6),
        _figure(part["macs"] / 1e9),
        _bar(part["macs"], macs),
        significant(part["latency_ms"]),
        _bar(part["latency_ms"], time_ms),
        f"{part['intensity']:.1f}",
        part["bound"],
        reached,
    ]


def _whole(document: Mapping[str, Any]) -> list[str]:
    latency_ms = document["latency_ms"]["median"]
    reached = f"{document['attainable_ms'] / latency_ms:.0%}" if latency_ms else ""
    figures = [_figure(document["params"] / 1e6), _figure(document["macs"] / 1e9)]
    return ["whole", *figures, "", significant(latency_ms), "", f"{document['intensity']:.1f}", "", reached]


def _figure(value: float) -> str:
    """Five characters for what is below 10,000."""
    return f"{value:.{3 if value < 10 else 2 if value < 100 else 1 if value < 1000 else 0}f}"


def _bar(value: float, whole: float) -> str:
    share = value / whole if whole else 0.0
    full, eighths = divmod(round(8 * BAR * min(1.0, share)), 8)
    return f"{share:4.0%} {'█' * full}{' ▏▎▍▌▋▊▉'[eighths]}".rstrip()


def significant(value: float) -> str:
    """Three significant digits, and no fewer than are before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}" if value >= 0.1 else f"{value:.3f}"


def _caption(document: Mapping[str, Any]) -> str:
    lines = [_counted(document), _trained(document), _timed(document), _memory(document)]
    lines += [*_largest(document), *_energy(document), _roof(document)]
    notes = document["checkpoint"]["notes"] if document["checkpoint"] else []
    warnings = document["latency_ms"]["warnings"] + document["energy"]["warnings"] + document["warnings"]
    return "\n".join([*lines, *notes, *warnings])


def _counted(document: Mapping[str, Any]) -> str:
    counts = {name: count["macs"] for name, count in document["counters"].items()}
    agree = (
        f"all counters agree ({', '.join(counts)})" if len(set(counts.values())) == 1 else f"counters differ: {counts}"
    )
    return f"{document['macs'] / 1e9:.3f} GMACs = {document['flops'] / 1e9:.3f} GFLOPs a clip; {agree}"


def _trained(document: Mapping[str, Any]) -> str:
    training = document["training"]
    return f"forward and backward: {training['macs'] / 1e9:.3f} GMACs = {training['flops'] / 1e9:.3f} GFLOPs a clip"


def _timed(document: Mapping[str, Any]) -> str:
    latency = document["latency_ms"]
    limits = " to ".join(significant(limit) for limit in latency["ci95"] or ())
    interval = f" (95 % interval {limits})" if limits else ""
    throughput = document["throughput_clips_per_s"]
    speed = f", {significant(throughput)} clips/s" if throughput else ""
    return f"median {significant(latency['median'])} ms{interval} of {latency['n']} repeats{speed}"


def _memory(document: Mapping[str, Any]) -> str:
    peaks = ((document["memory"][f"{kind}_peak_bytes"], kind) for kind in ("inference", "training"))
    gpu = [
        f"{peak['use']} {peak['start']} {megabytes(peak['allocated_bytes'])} of {megabytes(peak['reserved_bytes'])}"
        for peak in document["memory"]["gpu_peaks"]
    ]
    allocator = f"\nallocated of reserved: {', '.join(gpu)}" if gpu else ""
    return "peak memory: " + ", ".join(f"{kind} {megabytes(peak)}" for peak, kind in peaks) + allocator


def _largest(document: Mapping[str, Any]) -> list[str]:
    """Of both uses, where it was asked for, with what there is to say of either."""
    found = {use: of for use, of in document["largest_batch"].items() if of["reason"] != NOT_ASKED}
    if not found:
        return []
    limit = megabytes(next(iter(found.values()))["limit_bytes"])
    batches = (f"{use} {'unknown' if of['batch'] is None else of['batch']}" for use, of in found.items())
    reasons = (f"; {use}: {of['reason']}" for use, of in found.items() if of["reason"])
    return [f"largest batch in {limit}: {', '.join(batches)}{''.join(reasons)}"]


def _energy(document: Mapping[str, Any]) -> list[str]:
    """Where it was asked for, or why it is unknown."""
    energy = document["energy"]
    if energy["reason"] == NOT_ASKED:
        return []
    if energy["joules_per_clip"] is None:
        return [f"energy: unknown, {energy['reason']}"]
    net = f"{significant(energy['net_joules_per_clip'])} J above the idle GPU's {energy['idle_watts']:.0f} W"
    used = f"{significant(energy['joules_per_clip'])} J a clip at {energy['watts']:.0f} W"
    return [f"energy: {used}, {net}, over {energy['window_s']:.1f} s"]


def _roof(document: Mapping[str, Any]) -> str:
    roof = document["ceilings"]
    found = f"{roof['flops_per_s'] / 1e9:.1f} GFLOP/s, {roof['bytes_per_s'] / 1e9:.1f} GB/s"
    meaning = "of roof: the least time they allow over the time taken (overhead: under a third of it)"
    return f"ceilings measured here: {found}; {meaning}"


def megabytes(value: int | None) -> str:
    """MB of 10^6 bytes, or that they are unknown."""
    return "unknown" if value is None else f"{value / 1e6:.1f} MB"
