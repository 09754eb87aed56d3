"""What bounds a part of a model on this device: arithmetic, memory traffic, or something else.

Ceilings are measured, never taken from a data sheet: the fastest of several runs of a large matrix product and
of a large copy (read and written bytes). Attainable is the longer of the two times at these ceilings. A part may
exceed it: where data stay in a cache, or where neighbours slowed down the measuring of the ceilings.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.latency import Stopwatch, stopwatch
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import linear

OVERHEAD = 3.0  # times the attainable time, from which neither ceiling explains what was measured
SMALLEST_SIDE, LARGEST_SIDE = 1024, 8192  # of the matrices
LONG_ENOUGH_MS = 10.0  # for a product: small ones do not fill a device
COPIED_BYTES, MEMORY_SHARE = 256 << 20, 16  # a copy is larger than caches, and at most 1/16 of free memory
BLOCK = 1 << 16  # random elements, which a copy repeats
LEAST_RUNS = 3


@dataclass(frozen=True)
class Ceilings:
    """The most that was seen of this device in a precision; `how` says what was run."""

    flops_per_s: float
    bytes_per_s: float
    how: str

    @property
    def ridge(self) -> float:
        """FLOPs per byte from which arithmetic bounds."""
        return self.flops_per_s / self.bytes_per_s

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        return asdict(self)


class Bound(NamedTuple):
    """The ceiling that is reached first, compute or memory, and the time in ms at it."""

    ceiling: str
    attainable_ms: float


def bound(macs: int, moved_bytes: int, ceilings: Ceilings) -> Bound:
    """The roofline for so many multiply-accumulates and bytes."""
    compute_ms = 2000 * macs / ceilings.flops_per_s
    memory_ms = 1000 * moved_bytes / ceilings.bytes_per_s
    return Bound("compute", compute_ms) if compute_ms >= memory_ms else Bound("memory", memory_ms)


def verdict(limit: Bound, measured_ms: float) -> str:
    """compute, memory, or overhead where the time is not explained by either: launches, small or slow kernels."""
    return "overhead" if measured_ms > OVERHEAD * limit.attainable_ms else limit.ceiling


def ceilings(protocol: Protocol, budget_s: float = 1.0, *, clock: Stopwatch | None = None) -> Ceilings:
    """Measures the protocol's device in its precision, on as many threads as torch has now.

    Raises UbenchError where the budget is not positive, torch's errors where memory does not suffice.
    """
    if budget_s <= 0:
        raise UbenchError(f"budget_s must be positive, got {budget_s}")
    clock = clock or stopwatch(protocol.device)
    with torch.inference_mode():
        side, product_ms = _fastest_product(protocol, budget_s / 2, clock)
        size, copy_ms = _fastest_copy(protocol, budget_s / 2, clock)
    how = (
        f"the fastest of several products of two {side}x{side} {protocol.precision} matrices and copies of "
        f"{size / 1e6:.0f} MB, on {protocol.device}, threads {torch.get_num_threads()}"
    )
    return Ceilings(2000 * side**3 / product_ms, 2000 * size / copy_ms, how)


def _fastest_product(protocol: Protocol, budget_s: float, clock: Stopwatch) -> tuple[int, float]:
    """(side, ms): square matrices of random values, doubled until a product takes long enough to fill the device."""
    side = SMALLEST_SIDE
    while True:
        run, *others = _products(_random((side, side), protocol, 0), _random((side, side), protocol, 1))
        clock.time(run, 1)  # allocates, chooses a kernel
        if side >= LARGEST_SIDE or clock.time(run, 1)[0].ms >= LONG_ENOUGH_MS:
            return side, min(_fastest(each, budget_s / (1 + len(others)), clock) for each in (run, *others))
        side *= 2


def _products(a: Tensor, b: Tensor) -> list[Callable[[], object]]:
    """The ways to a product: torch's, and the one that the fast operators take where it is another."""
    out = torch.empty_like(a)
    found: list[Callable[[], object]] = [lambda: torch.mm(a, b, out=out)]
    if linear.choose(a.device.type, a.dtype, b.numel(), recorded=False).name == "onednn":
        found.append(lambda: linear.product(a, b, None))
    return found


def _fastest_copy(protocol: Protocol, budget_s: float, clock: Stopwatch) -> tuple[int, float]:
    """(bytes, ms)."""
    size = min(COPIED_BYTES, _free_bytes(protocol.device) // MEMORY_SHARE)
    block = _random((BLOCK,), protocol, 0)
    source = block.repeat(max(1, size // (BLOCK * block.element_size())))
    copy = torch.empty_like(source)
    return source.numel() * source.element_size(), _fastest(lambda: copy.copy_(source), budget_s, clock)


def _fastest(run: Callable[[], object], budget_s: float, clock: Stopwatch) -> float:
    """ms of the fastest run within the budget, and of LEAST_RUNS at least: others can only slow it down."""
    clock.time(run, 1)
    end, runs = clock.now() + budget_s, list[float]()
    while len(runs) < LEAST_RUNS or clock.now() < end:
        runs += [sample.ms for sample in clock.time(run, LEAST_RUNS)]
    return min(runs)


def _random(shape: tuple[int, ...], protocol: Protocol, seed: int) -> Tensor:
    """Standard normal: zeros would draw less power, and run faster than any model."""
    device = protocol.device
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=protocol.dtype())


def _free_bytes(device: str) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else psutil.virtual_memory().available
