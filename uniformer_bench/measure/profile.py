"""Everything there is to say about one model on one device, as the document of `ubench profile --json`.

An unknown number is None with its reason beside it (a counter's note, memory's reasons, a warning), never 0.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import psutil
import torch
from rich.table import Table
from torch import Tensor, nn

from uniformer_bench.cost import BlockCost, Cost, cost
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.environment import environment
from uniformer_bench.measure.latency import Latency, measure_latency, stage_latencies
from uniformer_bench.measure.macs import count_macs
from uniformer_bench.measure.memory import Memory, is_out_of_memory, peak_memory
from uniformer_bench.measure.protocol import Protocol, check_precision
from uniformer_bench.model import UniFormer, build, clips_like, load_official_state_dict
from uniformer_bench.spec import ArchSpec

SCHEMA_VERSION = 1
WHOLE_SHARE = 0.7  # of the budget, for the model as a whole; the rest is for its stages
BAR = 10  # characters


def profile(
    spec: ArchSpec,
    *,
    variant: str | None,
    num_classes: int,
    protocol: Protocol,
    budget_s: float = 10.0,
    checkpoint_state: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Measures `spec` under `protocol`, with random weights or those of `checkpoint_state`.

    Raises UbenchError where the device cannot, where memory does not suffice or where the weights do not fit.
    """
    check_precision(protocol.device, protocol.precision)
    if protocol.mode != "inference":
        raise UbenchError(f"a profile's mode must be inference, got {protocol.mode!r}")
    closed_form = cost(spec, frames=protocol.frames, size=protocol.size, num_classes=num_classes)
    with thread_count(protocol.threads), _one_line_when_out_of_memory(protocol):
        memory = _memory_first(spec, num_classes, protocol)
        model = _model(spec, num_classes, protocol, checkpoint_state)
        clips = clips_like(spec, protocol.batch, protocol.frames, protocol.size).to(protocol.device, protocol.dtype())
        memory = memory or peak_memory(model, clips, protocol)
        run, sentences = _compiled(model, clips) if protocol.compile else (model, [])
        latency = measure_latency(lambda: run(clips), protocol, budget_s=WHOLE_SHARE * budget_s)
        stages_ms = stage_latencies(model, clips, protocol, budget_s=(1 - WHOLE_SHARE) * budget_s)
    input_shape: dict[str, Any] = {"frames": protocol.frames, "size": protocol.size, "num_classes": num_classes}
    counts = count_macs(spec, **input_shape, implementation=protocol.implementation)
    return {
        "schema_version": SCHEMA_VERSION,
        "variant": variant,
        "spec_id": spec.id,
        "spec": spec.to_dict(),
        "num_classes": num_classes,
        "protocol": protocol.to_dict() | {"warmup": latency.warmup, "repeats": latency.n},
        "params": closed_form.params,
        "macs": closed_form.macs,
        "flops": closed_form.flops,
        "counters": {name: count.to_dict() for name, count in counts.items()},
        **_measured(latency, memory, protocol),
        **_parts(closed_form, stages_ms),
        "environment": environment(),
        "warnings": sentences,
    }


def _measured(latency: Latency, memory: Memory, protocol: Protocol) -> dict[str, Any]:
    return {
        "latency_ms": latency.to_dict(),
        "throughput_clips_per_s": 1000 * protocol.batch / latency.median if latency.median > 0 else None,
        "memory": memory.to_dict(),
    }


def _parts(closed_form: Cost, stages_ms: list[float]) -> dict[str, Any]:
    """Costs are those of one clip, latencies those of the batch, each part timed alone."""
    stages = [
        {
            "name": stage.name,
            "mixer": stage.mixer,
            "grid": list(stage.grid),
            "params": stage.params,
            "macs": stage.macs,
            "latency_ms": latency_ms,
            "blocks": [asdict(block) for block in stage.blocks],
        }
        for stage, latency_ms in zip(closed_form.stages, stages_ms, strict=False)
    ]
    return {"stages": stages, "head": _head(closed_form.head, stages_ms[-1])}


def _head(head: BlockCost, latency_ms: float) -> dict[str, Any]:
    return {"name": head.name, "params": head.params, "macs": head.macs, "latency_ms": latency_ms}


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """That many CPU threads for torch, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _one_line_when_out_of_memory(protocol: Protocol) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UbenchError(_too_large(protocol, f"{protocol.device} has")) from None


def _too_large(protocol: Protocol, limit: str) -> str:
    clips = f"{protocol.batch} x {protocol.frames}x{protocol.size[0]}x{protocol.size[1]}"
    return f"clips of {clips} need more memory than {limit}; lower batch, frames or size"


def _memory_first(spec: ArchSpec, num_classes: int, protocol: Protocol) -> Memory | None:
    """On a CPU, where it costs nothing: a system out of memory kills the process before torch can say a word."""
    if protocol.device != "cpu":
        return None
    with torch.device("meta"):
        model = build(spec, num_classes, protocol.implementation)
        clips = torch.empty(protocol.batch, spec.in_channels, protocol.frames, *protocol.size)
    memory, available = peak_memory(model, clips, protocol), psutil.virtual_memory().available
    if memory.inference_peak_bytes is not None and memory.inference_peak_bytes > available:
        got = f"{memory.inference_peak_bytes / 1e9:.1f} GB of {available / 1e9:.1f} GB"
        raise UbenchError(_too_large(protocol, f"is free on this machine, {got}"))
    return memory


def _model(
    spec: ArchSpec, num_classes: int, protocol: Protocol, checkpoint_state: Mapping[str, Tensor] | None
) -> UniFormer:
    model = build(spec, num_classes, protocol.implementation)
    if checkpoint_state is not None:
        load_official_state_dict(model, checkpoint_state)
    return model.eval().to(protocol.device, protocol.dtype())


def _compiled(model: nn.Module, clips: Tensor) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """The compiled model after its first run, or the model itself and a sentence why."""
    apart = "stages are timed without compilation"
    try:
        compiled = torch.compile(model)  # compiles in its first run
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # compilers use deprecated parts of torch
            compiled(clips)
    except Exception as error:  # whatever a compiler may find
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        return model, [f"torch.compile failed, so everything is timed without it: {reason}"]
    return compiled, [apart]


def profile_table(document: Mapping[str, Any]) -> Table:
    """A profile for a person: a row a stage, the head and the whole, with each one's share of MACs and time."""
    protocol, parts = document["protocol"], [*document["stages"], document["head"]]
    height, width = protocol["size"]
    clip = f"{protocol['batch']} x {protocol['frames']}x{height}x{width}"
    how = f"{protocol['device']} {protocol['precision']}, threads {protocol['threads']}, {protocol['implementation']}"
    title = f"{document['variant'] or document['spec_id']}, clips {clip}, {how}"
    table = Table(title=title, caption=_caption(document), caption_justify="left", title_justify="left")
    for name in ("stage", "mixer", "params M", "GMACs", "of MACs", "ms", "of time"):
        justify: Literal["right", "left"] = "right" if name in ("params M", "GMACs", "ms") else "left"
        table.add_column(name, justify=justify, no_wrap=True)
    macs, time_ms = document["macs"], sum(part["latency_ms"] for part in parts)
    for part in parts:
        table.add_row(*_row(part, _bar(part["macs"], macs), _bar(part["latency_ms"], time_ms)))
    table.add_section()
    whole = {"name": "whole", "latency_ms": document["latency_ms"]["median"]}
    table.add_row(*_row(whole | {"params": document["params"], "macs": macs}, "", ""))
    return table


def _row(part: Mapping[str, Any], macs_bar: str, time_bar: str) -> list[str]:
    figures = (f"{part['params'] / 1e6:.3f}", f"{part['macs'] / 1e9:.3f}", macs_bar, f"{part['latency_ms']:.2f}")
    return [part["name"], part.get("mixer", ""), *figures, time_bar]


def _bar(value: float, whole: float) -> str:
    share = value / whole if whole else 0.0
    return f"{share:4.0%} {'█' * round(BAR * share)}"


def _caption(document: Mapping[str, Any]) -> str:
    latency, memory = document["latency_ms"], document["memory"]
    counts = {name: count["macs"] for name, count in document["counters"].items()}
    agree = "all counters agree" if len(set(counts.values())) == 1 else f"counters differ: {counts}"
    lines = [f"{document['macs'] / 1e9:.3f} GMACs = {document['flops'] / 1e9:.3f} GFLOPs a clip; {agree}"]
    low, high = latency["ci95"] or (None, None)
    interval = f" (95 % interval {low:.2f} to {high:.2f})" if low is not None else ""
    speed = f", {document['throughput_clips_per_s']:.1f} clips/s" if document["throughput_clips_per_s"] else ""
    lines.append(f"median {latency['median']:.2f} ms{interval} of {latency['n']} repeats{speed}")
    peaks = ((memory[f"{kind}_peak_bytes"], kind) for kind in ("inference", "training"))
    lines.append("peak memory: " + ", ".join(f"{kind} {_megabytes(peak)}" for peak, kind in peaks))
    return "\n".join(lines + latency["warnings"] + document["warnings"])


def _megabytes(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 1e6:.1f} MB"
