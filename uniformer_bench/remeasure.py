"""A finished run's front and baselines measured where this is called: another device, another precision, no training.

All take turns under one protocol, so that they can be ranked; what a device cannot do is a row with its reason. The
run keeps what its own device said: `remeasured/<label>.json` stands beside it, a file a device.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

import uniformer_bench
from uniformer_bench.errors import UbenchError
from uniformer_bench.export.graphs import check_onnx
from uniformer_bench.files import to_json, write_whole
from uniformer_bench.measure.environment import environment
from uniformer_bench.measure.latency import Latency, measure_latencies
from uniformer_bench.measure.memory import is_out_of_memory, peak_memory
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol, runs_onnx
from uniformer_bench.model import build
from uniformer_bench.runs import REMEASURED, Record, Run, clip_of
from uniformer_bench.search.evaluate import LatencyRun, latency_run
from uniformer_bench.space import Clip
from uniformer_bench.spec import ArchSpec

Found = TypeVar("Found")

EACH_S = 2.0  # for one architecture, where no budget is given
# What is the run's unless asked.
SETTINGS = ("frames", "size", "precision", "batch", "implementation", "compile", "onnx")


class _Member(NamedTuple):
    """An architecture to measure: its trial, its forward pass or why there is none, its memory or why not."""

    record: Record
    run: LatencyRun | None
    memory_bytes: int | None
    reasons: tuple[str, ...]


def protocol_like(info: Mapping[str, Any], device: str, threads: int, asked: Mapping[str, Any]) -> Protocol:
    """The run's protocol on this device, with what is `asked` for in its place where that is not None.

    Raises UbenchError where the run does not say what its clips are.
    """
    given = {**(info.get("input") or {}), **(info.get("protocol") or {})}
    if not given.get("frames") or not given.get("size"):
        raise UbenchError("a run must record its protocol's frames and size to be measured again, got neither")
    kept = {key: given[key] for key in SETTINGS if given.get(key) is not None}
    changed = {key: value for key, value in asked.items() if value is not None}
    wanted = kept | changed
    if not runs_onnx(device, wanted.get("precision", "fp32"), wanted.get("compile", False)):
        kept.pop("onnx", None)  # the run's ONNX Runtime cannot: it is PyTorch here, unless it is asked for
    return Protocol(device=device, threads=threads, **{**kept, **changed})


def remeasure(
    run: Run, protocol: Protocol, *, label: str | None = None, budget_s: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """The document of a run's front and baselines under `protocol`: a row a trial, None with a reason for unknown.

    `budget_s` is for all latencies together. Raises UbenchError for a run without classes or a front, and where the
    protocol wants ONNX Runtime, which is not there.
    """
    if protocol.onnx:
        check_onnx()
    records, classes = members_of(run.trials), (run.info.get("data") or {}).get("classes")
    if not classes:
        raise UbenchError("a run must name its classes to be measured again, got none")
    if not records:
        raise UbenchError("a run must have a front or baselines to be measured again, got neither")
    budget_s, machine = budget_s or EACH_S * len(records), environment()
    with thread_count(protocol.threads):
        members = [_ready(record, len(classes), _on_own_clip(protocol, run.info, record)) for record in records]
        runs = [member.run.run for member in members if member.run]
        found = iter(measure_latencies(runs, protocol, budget_s=budget_s, seed=seed) if runs else ())
    return {
        "schema_version": 1,
        "label": label or default_label(machine, protocol, run.info.get("protocol") or {}),
        "run": run.info.get("name"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": uniformer_bench.__version__,
        "seed": seed,
        "budget_s": budget_s,
        "protocol": protocol.to_dict(),
        "environment": machine,
        "rows": [_row(member, next(found) if member.run else None) for member in members],
    }


def members_of(records: Sequence[Record]) -> list[Record]:
    """The front and the complete baselines by number; what has no architecture is left out."""
    meant = [r for r in records if r.get("front") or (r.get("baseline") and r["state"] == "complete")]
    return sorted((record for record in meant if record.get("spec")), key=lambda record: record["number"])


def default_label(machine: Mapping[str, Any], protocol: Protocol, before: Mapping[str, Any]) -> str:
    """The processor's or the GPU's name, and how the protocol differs from the run's `before`."""
    name = machine.get("gpu") if protocol.on_cuda else machine.get("cpu")
    parts = [str(name or protocol.device)]
    parts += [protocol.precision] if protocol.precision != before.get("precision", "fp32") else []
    parts += [f"batch {protocol.batch}"] if protocol.batch != before.get("batch", 1) else []
    parts += ["compiled"] if protocol.compile and not before.get("compile") else []
    parts += [("PyTorch", "ONNX Runtime")[protocol.onnx]] if protocol.onnx != bool(before.get("onnx")) else []
    return ", ".join(parts)


def save(document: Mapping[str, Any], folder: Path) -> Path:
    """Writes `remeasured/<label>.json` in the run's folder, in the place of an earlier one of that label.

    Raises UbenchError for a label without a letter or a digit.
    """
    stem = re.sub(r"[\W_]+", "-", document["label"].lower()).strip("-")[:80]
    if not stem:
        raise UbenchError(f"a device's name must hold a letter or a digit, got {document['label']!r}")
    path = folder / REMEASURED / f"{stem}.json"
    write_whole(path, to_json(document) + "\n")
    return path


def _ready(record: Record, classes: int, protocol: Protocol) -> _Member:
    spec = ArchSpec.from_dict(record["spec"])

    def forward() -> LatencyRun:
        found = latency_run(build(spec, classes, protocol.implementation), spec, protocol)
        with torch.inference_mode():
            found.run()
        return found

    def peak() -> tuple[int | None, str | None]:
        with torch.device("meta"):
            clips = torch.empty(protocol.batch, spec.in_channels, protocol.frames, *protocol.size)
        memory = peak_memory(build(spec, classes, protocol.implementation), clips, protocol, training=False)
        return memory.inference_peak_bytes, dict(memory.reasons).get("inference_peak_bytes")

    run, why_no_run = _within_memory(forward)
    memory, why_no_memory = _within_memory(peak)
    peak_bytes, reason = memory or (None, why_no_memory)
    said = (f"latency: {why_no_run}" if why_no_run else None, f"memory: {reason}" if reason else None)
    return _Member(record, run, peak_bytes, tuple(each for each in said if each))


def _on_own_clip(protocol: Protocol, info: Mapping[str, Any], record: Record) -> Protocol:
    """The protocol on the record's own clip, where it has one; another than the run's was asked for, for all."""
    if "clip" not in record or Clip(protocol.frames, protocol.size) != clip_of(info, {}):
        return protocol
    return replace(protocol, **clip_of(info, record)._asdict())


def _within_memory(make: Callable[[], Found]) -> tuple[Found | None, str | None]:
    """What `make` gives, or why the device's memory does not hold it."""
    try:
        return make(), None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None, "the device has too little memory"


def _row(member: _Member, latency: Latency | None) -> dict[str, Any]:
    record = member.record
    return {
        "trial": record["number"],
        "spec_id": record["spec_id"],
        "pattern": ArchSpec.from_dict(record["spec"]).pattern,
        "baseline": record["baseline"],
        "latency_ms": latency.to_dict() if latency else None,
        "latency_ms_in_run": record["metrics"].get("latency"),
        "memory_bytes": member.memory_bytes,
        "notes": list(member.run.notes) if member.run else [],
        "reason": "; ".join(member.reasons) or None,
    }
