"""The largest batch that fits into memory, for inference or a step of training.

On a CPU by shape alone: peaks grow with the batch in straight pieces, so that a line through two of them leads to
the answer, and the answer counts only when it and the next larger one have been looked at. On a GPU by trying.
"""

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import psutil
import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.memory import BY_SHAPE, is_out_of_memory, peak_in, peak_on_gpu
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import UniFormer, build
from uniformer_bench.spec import ArchSpec

BY_TRYING = "runs of doubled, then bisected batches on the GPU"
MARGIN = 0.1  # of the memory available on a CPU's machine, left to kernels and to others
CAP = 1 << 16  # clips, beyond which nobody wants to know
BY_LINE = 4  # guesses by a straight line before halving, which always ends

OUT_OF_MEMORY = "out of memory"

Peak = Callable[[int], int | str]  # bytes for a batch, or why it could not be run


@dataclass(frozen=True)
class LargestBatch:
    """`batch` clips fit and one more does not, or `reason` says what else; 0 where one clip is too large, None where
    a device does not tell. `peak_bytes` are those of that batch, of one clip where none fits, None where unknown."""

    batch: int | None
    peak_bytes: int | None
    limit_bytes: int | None
    method: str
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        return asdict(self)


class Fits(NamedTuple):
    """A batch and its peak."""

    batch: int
    peak: int


def largest_batch(
    subject: UniFormer | ArchSpec,
    protocol: Protocol,
    *,
    num_classes: int = 400,
    training: bool = False,
    limit_bytes: int | None = None,
    cap: int = CAP,
) -> LargestBatch:
    """Of a model, which is not touched, or of a spec's with so many classes, on clips as the protocol has them.

    The protocol's own batch plays no part. Without `limit_bytes` the limit is what is free on the device, on a CPU
    less a tenth. A peak counts weights and clips, in training gradients and AdamW's state. Raises UbenchError
    where limit or cap are not positive.
    """
    for name, value in (("limit_bytes", limit_bytes), ("cap", cap)):
        if value is not None and value < 1:
            raise UbenchError(f"{name} must be positive, got {value}")
    if protocol.device != "cpu" and not protocol.on_cuda:
        reason = f"{protocol.device} does not say what its tensors take"
        return LargestBatch(None, None, limit_bytes, reason, reason)
    model, use = _model(subject, num_classes, protocol), "training" if training else "inference"
    if protocol.on_cuda:
        gc.collect()  # a compiled model hangs in cycles
        torch.cuda.empty_cache()
        limit = limit_bytes or torch.cuda.mem_get_info(protocol.device)[0]
        return by_trying(lambda batch: _peak_when_tried(model, protocol, use, batch), limit, cap)
    limit = limit_bytes or int(psutil.virtual_memory().available * (1 - MARGIN))
    return by_shape(lambda batch: peak_in(model, _shape(model, protocol, batch), protocol, use).peak, limit, cap)


def by_shape(peak: Callable[[int], int], limit: int, cap: int = CAP) -> LargestBatch:
    """From the peaks of one and two clips along a straight line, and where it misses from the nearest two known."""
    seen = {1: peak(1)}
    if seen[1] > limit:
        return _nothing(seen[1], limit, BY_SHAPE)
    seen[min(2, cap)] = peak(min(2, cap))
    while True:
        low = max(batch for batch in seen if seen[batch] <= limit)
        high = min((batch for batch in seen if seen[batch] > limit), default=cap + 1)
        if high - low <= 1:
            return _answer(Fits(low, seen[low]), limit, BY_SHAPE, cap)
        batch = _guess(seen, low, high, limit)
        seen[batch] = peak(batch)


def _guess(seen: dict[int, int], low: int, high: int, limit: int) -> int:
    """A batch between `low`, which fits, and `high`, which does not: where the line meets the limit."""
    if len(seen) > 2 + 2 * BY_LINE:
        return (low + high) // 2
    first, second = (low, high) if high in seen else (max((b for b in seen if b < low), default=low), low)
    slope = (seen[second] - seen[first]) / (second - first) if second > first else 0
    met = low + int((limit - seen[low]) / slope) if slope > 0 else high - 1
    return min(max(met, low + 1), high - 1)


def by_trying(peak: Peak, limit: int, cap: int = CAP) -> LargestBatch:
    """Doubles the batch until one does not fit, then halves what lies between."""

    found = peak(1)
    if isinstance(found, str) or found > limit:
        return _nothing(None if isinstance(found, str) else found, limit, BY_TRYING)
    best, high, why = Fits(1, found), cap + 1, ""
    while best.batch < high - 1:
        batch = min(2 * best.batch, cap) if high > cap else (best.batch + high) // 2
        found = peak(batch)
        if isinstance(found, int) and found <= limit:
            best = Fits(batch, found)
        else:
            high, why = batch, found if isinstance(found, str) else OUT_OF_MEMORY
    answer = _answer(best, limit, BY_TRYING, cap)
    return answer if why in ("", OUT_OF_MEMORY) else replace(answer, reason=f"batch {high} stopped at {why}")


def _answer(best: Fits, limit: int, method: str, cap: int) -> LargestBatch:
    reason = f"batches above {cap} were not looked at" if best.batch == cap else None
    return LargestBatch(best.batch, best.peak, limit, method, reason)


def _nothing(peak: int | None, limit: int, method: str) -> LargestBatch:
    needs = "ran out of memory" if peak is None else f"needs {peak / 1e6:.1f} MB"
    return LargestBatch(0, peak, limit, method, f"one clip {needs}, the limit is {limit / 1e6:.1f} MB")


def _model(subject: UniFormer | ArchSpec, num_classes: int, protocol: Protocol) -> UniFormer:
    if not isinstance(subject, ArchSpec):
        return subject
    with torch.device("meta"):
        return build(subject, num_classes, protocol.implementation)


def _shape(model: UniFormer, protocol: Protocol, batch: int) -> tuple[int, ...]:
    return batch, model.spec.in_channels, protocol.frames, *protocol.size


def _peak_when_tried(model: UniFormer, protocol: Protocol, use: str, batch: int) -> int | str:
    """What the allocator took for it, cold or warm, or why it could not be run: some kernels count in 32 bits, and
    end before memory does. One clip that fails for another reason than memory is an error."""
    try:
        found = peak_in(model, _shape(model, protocol, batch), protocol, use, peak_on_gpu)
        return max(run.reserved_bytes for run in found.gpu_peaks)
    except RuntimeError as error:
        if batch == 1 and not is_out_of_memory(error):
            raise
        short = is_out_of_memory(error)
        why = OUT_OF_MEMORY if short else f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    torch.cuda.empty_cache()
    return why
