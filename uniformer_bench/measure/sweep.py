"""How throughput, latency and memory change with the batch, and with the precision.

Every row is one setting, measured or with the reason why not. The batch is doubled until two doublings in a row
gain less than 5 % over the best throughput before them or memory is short; the knee is the smallest batch within
5 % of the best.
"""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psutil
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.latency import STAGE_REPEATS, measure_latency
from uniformer_bench.measure.memory import is_out_of_memory, peak_memory
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.profile_table import megabytes, significant
from uniformer_bench.measure.protocol import PRECISIONS, Protocol, check_precision
from uniformer_bench.model import UniFormer, build, clips_like
from uniformer_bench.spec import ArchSpec

GAIN = 0.05  # of throughput, below which a doubling was in vain
IN_VAIN = 2  # such doublings in a row end the sweep
LARGEST_BATCH = 4096
ROW_SHARE = 1 / 8  # of the budget

Row = dict[str, Any]


def sweep(spec: ArchSpec, *, num_classes: int, protocol: Protocol, budget_s: float = 20.0) -> dict[str, list[Row]]:
    """Both sweeps, as the `sweep` of a profile's document: {"batch": rows, "precision": rows}."""
    given: dict[str, Any] = {"num_classes": num_classes, "protocol": protocol}
    return {
        "batch": sweep_batch(spec, **given, budget_s=budget_s * 0.7),
        "precision": sweep_precision(spec, **given, budget_s=budget_s * 0.3),
    }


def sweep_batch(
    spec: ArchSpec, *, num_classes: int, protocol: Protocol, budget_s: float, batches: Iterable[int] | None = None
) -> list[Row]:
    """Rows by batch, for powers of two or those given. The last has a reason where the sweep could not go on.

    Raises UbenchError where the device cannot compute in the protocol's precision or the budget is not positive.
    """
    check_precision(protocol.device, protocol.precision)
    _check_budget(budget_s)
    model, end, rows = _model(spec, num_classes, protocol), time.monotonic() + budget_s, list[Row]()
    for batch in batches or _powers_of_two():
        at = replace(protocol, batch=batch)
        if rows and time.monotonic() > end:
            rows.append(_unmeasured(at, f"the sweep's {budget_s:.3g} s were up"))
        else:
            rows.append(_measured(model, at, budget_s * ROW_SHARE))
        if rows[-1]["reason"] or (batches is None and _in_vain(rows)):
            break
    return _with_knee(rows)


def sweep_precision(
    spec: ArchSpec,
    *,
    num_classes: int,
    protocol: Protocol,
    budget_s: float,
    precisions: Sequence[str] = PRECISIONS,
) -> list[Row]:
    """Rows by precision at the protocol's batch; one that the device cannot do is a row with its reason.

    Raises UbenchError for a budget that is not positive and for a precision that does not exist.
    """
    _check_budget(budget_s)
    rows = []
    for precision in precisions:
        at = replace(protocol, precision=precision)
        try:
            check_precision(at.device, precision)
        except UbenchError as error:
            rows.append(_unmeasured(at, str(error)))
            continue
        rows.append(_measured(_model(spec, num_classes, at), at, budget_s / len(precisions)))
    return rows


def _check_budget(budget_s: float) -> None:
    if budget_s <= 0:
        raise UbenchError(f"budget_s must be positive, got {budget_s}")


def _powers_of_two() -> Iterable[int]:
    return itertools.takewhile(lambda batch: batch <= LARGEST_BATCH, (1 << i for i in itertools.count()))


def _model(spec: ArchSpec, num_classes: int, protocol: Protocol) -> UniFormer:
    model = build(spec, num_classes, protocol.implementation)
    return model.eval().to(protocol.device, protocol.dtype())


def _measured(model: UniFormer, at: Protocol, budget_s: float) -> Row:
    """One setting, or why it cannot be."""
    try:
        clips = torch.empty(at.batch, model.spec.in_channels, at.frames, *at.size, device="meta")
        peak = peak_memory(model, clips, at, training=False).inference_peak_bytes
        if at.device == "cpu" and peak is not None and peak > psutil.virtual_memory().available:
            return _unmeasured(at, f"out of memory: needs {peak / 1e9:.1f} GB", peak)
        return _timed(model, at, budget_s, peak)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if at.device.startswith("cuda"):
        torch.cuda.empty_cache()
    return _unmeasured(at, "out of memory")


def _timed(model: UniFormer, at: Protocol, budget_s: float, peak: int | None) -> Row:
    clips = clips_like(model.spec, at.batch, at.frames, at.size).to(at.device, at.dtype())
    with thread_count(at.threads):
        latency = measure_latency(lambda: model(clips), at, budget_s=budget_s, min_repeats=STAGE_REPEATS)
    speed = 1000 * at.batch / latency.median if latency.median > 0 else None
    return _row(at, latency.to_dict(), speed, peak, None)


def _unmeasured(at: Protocol, reason: str, peak: int | None = None) -> Row:
    return _row(at, {}, None, peak, reason)


def _row(at: Protocol, latency: Mapping[str, Any], speed: float | None, peak: int | None, reason: str | None) -> Row:
    return {
        "batch": at.batch,
        "precision": at.precision,
        "latency_ms": latency.get("median"),
        "ci95": latency.get("ci95"),
        "n": latency.get("n", 0),
        "clips_per_s": speed,
        "inference_peak_bytes": peak,
        "knee": False,
        "reason": reason,
        "warnings": latency.get("warnings", []),
    }


def _in_vain(rows: Sequence[Row]) -> bool:
    """Whether none of the last doublings gained enough over the best before them."""
    speeds = [row["clips_per_s"] or 0.0 for row in rows]
    return len(speeds) > IN_VAIN and max(speeds[-IN_VAIN:]) < max(speeds[:-IN_VAIN]) * (1 + GAIN)


def _with_knee(rows: list[Row]) -> list[Row]:
    speeds = [row["clips_per_s"] for row in rows if row["clips_per_s"] is not None]
    enough = max(speeds, default=0.0) * (1 - GAIN)
    knee = next((i for i, row in enumerate(rows) if (row["clips_per_s"] or 0.0) >= enough and speeds), None)
    return [row | {"knee": i == knee} for i, row in enumerate(rows)]


def sweep_table(rows: Sequence[Row]) -> Table:
    """A row a setting; bars are shares of the best throughput. Why a setting could not be measured is below."""
    reasons = [f"batch {row['batch']} {row['precision']}: {row['reason']}" for row in rows if row["reason"]]
    caption = "\n".join(reasons) or None
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=caption)
    table.caption_justify, table.caption_style = "left", ""
    for name in ("batch", "precision", "ms", "95 % interval", "clips/s", "", "peak memory", ""):
        right = name in ("batch", "ms", "clips/s", "peak memory")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    best = max((row["clips_per_s"] or 0.0 for row in rows), default=0.0)
    for row in rows:
        table.add_row(*_cells(row, best), style="bold" if row["knee"] else "")
    return table


def _cells(row: Row, best: float) -> list[str]:
    ms, speed, interval = row["latency_ms"], row["clips_per_s"], row["ci95"]
    return [
        str(row["batch"]),
        row["precision"],
        "–" if ms is None else significant(ms),
        " to ".join(significant(limit) for limit in interval) if interval else "",
        "–" if speed is None else significant(speed),
        "█" * round(10 * speed / best) if speed and best else "",
        megabytes(row["inference_peak_bytes"]),
        "knee" if row["knee"] else "",
    ]
