"""Everything there is to say about one model on one device, as the document of `ubench profile --json`.

An unknown number is None with its reason beside it (a counter's note, memory's reasons, a warning), never 0.
MACs and bytes are those of one clip, times those of the batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn

from uniformer_bench.cost import BlockCost, Cost, StageCost, cost
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.energy import Energy, measure_energy
from uniformer_bench.measure.environment import environment
from uniformer_bench.measure.largest_batch import LargestBatch, largest_batch
from uniformer_bench.measure.latency import STAGE_REPEATS, Latency, measure_latency, stage_latencies
from uniformer_bench.measure.macs import count_macs, count_training_macs
from uniformer_bench.measure.memory import NOT_ASKED, USES, Memory, is_out_of_memory, peak_memory
from uniformer_bench.measure.profile_table import profile_table as profile_table
from uniformer_bench.measure.protocol import Protocol, check_precision
from uniformer_bench.measure.roofline import Ceilings, bound, ceilings, verdict
from uniformer_bench.model import UniFormer, build, clips_like
from uniformer_bench.model.checkpoints import load_checkpoint
from uniformer_bench.model.compiled import compile_model
from uniformer_bench.model.inference import for_inference
from uniformer_bench.spec import ArchSpec

SCHEMA_VERSION = 1
WHOLE_SHARE, STAGES_SHARE, BLOCKS_SHARE, CEILINGS_SHARE = 0.6, 0.2, 0.1, 0.1  # of the budget


class Weights(NamedTuple):
    """A file of weights, how its 2D kernels become 3D, and what there was to say of it before it was loaded."""

    path: Path
    inflate: str = "average"
    notes: tuple[str, ...] = ()


class _Found(NamedTuple):
    """What was measured of a model while it was there; `notes` are of its weights, `sentences` warnings."""

    memory: Memory
    latency: Latency
    stages_ms: list[float]
    blocks_ms: list[tuple[float, float]]
    roof: Ceilings
    energy: Energy
    notes: tuple[str, ...]
    sentences: list[str]


def profile(
    spec: ArchSpec,
    *,
    variant: str | None,
    num_classes: int,
    protocol: Protocol,
    budget_s: float = 10.0,
    weights: Weights | None = None,
    energy: bool = False,
    largest: bool = False,
) -> dict[str, Any]:
    """Measures `spec` under `protocol`, with random weights or those of a file; energy (some 10 s more) and the
    largest batch where asked for.

    Raises UbenchError where the device cannot, where memory does not suffice or where the weights do not fit.
    """
    check_precision(protocol.device, protocol.precision)
    if protocol.mode != "inference":
        raise UbenchError(f"a profile's mode must be inference, got {protocol.mode!r}")
    input_shape: dict[str, Any] = {"frames": protocol.frames, "size": protocol.size, "num_classes": num_classes}
    element = protocol.dtype().itemsize
    closed_form = cost(spec, **input_shape, bytes_per_element=element, batch=protocol.batch)
    with thread_count(protocol.threads), one_line_when_out_of_memory(protocol):
        found = _measure(spec, num_classes, protocol, budget_s, weights, energy)
        batches = {use: _largest(spec, num_classes, protocol, use, largest) for use in USES}
    parts = _parts(closed_form, found.stages_ms, found.blocks_ms, found.roof, protocol.batch)
    counts = count_macs(spec, **input_shape, implementation=protocol.implementation)
    return {
        "schema_version": SCHEMA_VERSION,
        "variant": variant,
        "spec_id": spec.id,
        "spec": spec.to_dict(),
        "num_classes": num_classes,
        "checkpoint": {"path": str(weights.path), "notes": list(found.notes)} if weights else None,
        "protocol": protocol.to_dict() | {"warmup": found.latency.warmup, "repeats": found.latency.n},
        "params": closed_form.params,
        "macs": closed_form.macs,
        "flops": closed_form.flops,
        "counters": {name: count.to_dict() for name, count in counts.items()},
        "training": _training(closed_form, spec, input_shape, protocol),
        "moved_bytes": closed_form.moved_bytes,
        "intensity": closed_form.intensity,
        **_measured(found.latency, found.memory, protocol),
        "energy": found.energy.to_dict(),
        "largest_batch": batches,
        "attainable_ms": sum(part["attainable_ms"] for part in (*parts["stages"], parts["head"])),
        "ceilings": found.roof.to_dict(),
        **parts,
        "environment": environment(),
        "warnings": found.sentences,
    }


def _measure(
    spec: ArchSpec, num_classes: int, protocol: Protocol, budget_s: float, weights: Weights | None, energy: bool
) -> _Found:
    """All that needs the model; energy last, since it heats the device."""
    memory = _memory_first(spec, num_classes, protocol)
    model, notes = _model(spec, num_classes, protocol, weights)
    clips = clips_like(spec, protocol.batch, protocol.frames, protocol.size).to(protocol.device, protocol.dtype())
    memory = memory or peak_memory(model, clips, protocol)  # of the model that can be trained
    model = for_inference(model)
    run, sentences = _compiled(model, clips) if protocol.compile else (model, [])
    latency = measure_latency(lambda: run(clips), protocol, budget_s=WHOLE_SHARE * budget_s)
    stages_ms = stage_latencies(model, clips, protocol, budget_s=STAGES_SHARE * budget_s)
    blocks_ms = _block_latencies(model, clips, protocol, BLOCKS_SHARE * budget_s)
    roof = ceilings(protocol, CEILINGS_SHARE * budget_s)
    used = measure_energy(lambda: run(clips), protocol) if energy else Energy(reason=NOT_ASKED)
    return _Found(memory, latency, stages_ms, blocks_ms, roof, used, notes, sentences)


def _largest(spec: ArchSpec, num_classes: int, protocol: Protocol, use: str, asked: bool) -> dict[str, Any]:
    """The largest batch for inference or training, of a model of its own, so that no other takes its room."""
    if not asked:
        return LargestBatch(None, None, None, NOT_ASKED, NOT_ASKED).to_dict()
    return largest_batch(spec, protocol, num_classes=num_classes, training=use == "training").to_dict()


def _measured(latency: Latency, memory: Memory, protocol: Protocol) -> dict[str, Any]:
    return {
        "latency_ms": latency.to_dict(),
        "throughput_clips_per_s": 1000 * protocol.batch / latency.median if latency.median > 0 else None,
        "memory": memory.to_dict(),
    }


def _training(closed_form: Cost, spec: ArchSpec, input_shape: dict[str, Any], protocol: Protocol) -> dict[str, Any]:
    """Forward and backward of one clip."""
    counts = count_training_macs(spec, **input_shape, implementation=protocol.implementation)
    return {
        "macs": closed_form.training_macs,
        "flops": closed_form.training_flops,
        "counters": {name: count.to_dict() for name, count in counts.items()},
    }


def _block_latencies(model: UniFormer, clips: Tensor, protocol: Protocol, budget_s: float) -> list[tuple[float, float]]:
    """(embedding, block) of every stage in ms, each alone; the first block stands for all, which are equal."""
    modules, found, x = model.stage_modules(), list[tuple[float, float]](), model.ops.enter(clips)

    def median_ms(module: nn.Module, given: Tensor) -> float:
        share_s = budget_s / (2 * len(modules))
        return measure_latency(lambda: module(given), protocol, budget_s=share_s, min_repeats=STAGE_REPEATS).median

    with torch.inference_mode():
        for embed, blocks in modules:
            embedded = embed(x)
            first = next(blocks.children())
            found.append((median_ms(embed, x), median_ms(first, embedded)))
            x = blocks(embedded)
    return found


def _parts(
    closed_form: Cost, stages_ms: list[float], blocks_ms: list[tuple[float, float]], roof: Ceilings, batch: int
) -> dict[str, Any]:
    """Stages with their blocks, and the head, each timed alone, so that times need not add up."""
    stages = []
    for stage, stage_ms, (embed_ms, block_ms) in zip(closed_form.stages, stages_ms, blocks_ms, strict=False):
        embedding, *blocks = stage.blocks
        rows = [asdict(embedding) | _roofline(embedding, embed_ms, roof, batch)]
        rows += [asdict(block) | _roofline(block, block_ms, roof, batch) for block in blocks]
        about = {"mixer": stage.mixer, "grid": list(stage.grid)}
        stages.append(_part(stage, about, stage_ms, roof, batch) | {"blocks": rows})
    return {"stages": stages, "head": _part(closed_form.head, {}, stages_ms[-1], roof, batch)}


def _part(
    part: StageCost | BlockCost, about: dict[str, Any], latency_ms: float, roof: Ceilings, batch: int
) -> dict[str, Any]:
    sums = {"params": part.params, "macs": part.macs, "training_macs": part.training_macs}
    rest = {"moved_bytes": part.moved_bytes} | _roofline(part, latency_ms, roof, batch)
    return {"name": part.name} | about | sums | rest


def _roofline(part: StageCost | BlockCost, latency_ms: float, roof: Ceilings, batch: int) -> dict[str, Any]:
    """`reached` is attainable over measured time: more than 1 where a cache spares memory its traffic."""
    limit = bound(batch * part.macs, batch * part.moved_bytes, roof)
    return {
        "intensity": part.intensity,
        "latency_ms": latency_ms,
        "ceiling": limit.ceiling,
        "attainable_ms": limit.attainable_ms,
        "reached": limit.attainable_ms / latency_ms if latency_ms > 0 else None,
        "bound": verdict(limit, latency_ms),
    }


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
def one_line_when_out_of_memory(protocol: Protocol) -> Iterator[None]:
    """Turns whatever says that memory ran out into a UbenchError that names the clips."""
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
    spec: ArchSpec, num_classes: int, protocol: Protocol, weights: Weights | None
) -> tuple[UniFormer, tuple[str, ...]]:
    """The model on its device, and what there is to say of its weights."""
    model, notes = build(spec, num_classes, protocol.implementation), tuple[str, ...]()
    if weights is not None:
        loaded = load_checkpoint(model, weights.path, inflate=weights.inflate)
        notes = tuple(dict.fromkeys(weights.notes + loaded.notes))
    return model.eval().to(protocol.device, protocol.dtype()), notes


def _compiled(model: nn.Module, clips: Tensor) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """The compiled model after its first run, or the model itself, and a sentence."""
    run, notes = compile_model(model, clips)
    return run, list(notes) or ["stages are timed without compilation"]
