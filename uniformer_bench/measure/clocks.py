"""Clocks for repeats: wall and processor time on a CPU; on a GPU its own events, its L2 cold or warm, eager or graphed.

On a GPU what is timed lies between two events; flushing the cache comes before the first. `cuda` arguments stand
in for torch.cuda.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
import torch

from uniformer_bench.measure.gpu import GpuState, state_reader
from uniformer_bench.measure.protocol import Protocol

GPU_TICK_MS = 0.0005  # of CUDA events
L2_TIMES = 2  # a buffer of so many times the L2's size, zeroed, leaves nothing else in it
USUAL_L2_BYTES = 128 << 20  # where CUDA does not say; no GPU's was larger when this was written
GRAPH_WARM_UPS = 3  # runs on the side stream before the capture, as torch asks for
ISSUES = 3  # runs handed to an idle GPU to see how long that takes

Run = Callable[[], object]


class Sample(NamedTuple):
    """One repeat: wall (or GPU) time, the processor time of all threads in it where that is known, and what the
    GPU was like at the end of the repeats it was taken with."""

    ms: float
    cpu_ms: float | None = None
    gpu: GpuState | None = None


class Stopwatch(NamedTuple):
    """A clock for repeats. `time` runs something that many times; `now` is in seconds; `others` is the
    processor time in seconds that other processes have had so far, of `cores` at a time.

    Of a GPU only: `state` reads what it is like, `issue_ms` how long the host takes to hand it one run, and
    `capture` turns a run into the replay of a CUDA graph, or gives it back with a sentence why not.
    """

    time: Callable[[Run, int], list[Sample]]
    now: Callable[[], float]
    resolution_ms: float
    others: Callable[[], float]
    cores: int
    state: Callable[[], GpuState] | None = None
    issue_ms: Callable[[Run], float] | None = None
    capture: Callable[[Run], tuple[Run, str | None]] | None = None


def stopwatch(device: str) -> Stopwatch:
    """The clock of a device: wall and processor time, or on a GPU its own events, its cache as the last run left it."""
    cores = os.cpu_count() or 1
    if device.startswith("cuda"):
        return Stopwatch(lambda run, n: time_events(run, n, device), time.perf_counter, GPU_TICK_MS, _others_s, cores)
    wait: Run = torch.mps.synchronize if device == "mps" else lambda: None
    tick_ms = 1000 * time.get_clock_info("perf_counter").resolution
    return Stopwatch(lambda run, n: _time_wall(run, n, wait), time.perf_counter, tick_ms, _others_s, cores)


def protocol_clock(
    protocol: Protocol, *, read: Callable[[], GpuState] | None = None, cuda: Any = torch.cuda
) -> Stopwatch:
    """The clock that a protocol asks for: on a GPU with its cache cold or warm, and with an eye on its state.

    Raises torch.OutOfMemoryError where there is no room to flush the cache.
    """
    device, plain = protocol.device, stopwatch(protocol.device)
    if not device.startswith("cuda"):
        return plain
    read = read or state_reader(device)
    flush = l2_flush(device, cuda) if protocol.cache == "cold" else None
    return plain._replace(
        time=lambda run, n: time_events(run, n, device, flush=flush, read=read, cuda=cuda),
        state=read,
        issue_ms=lambda run: _issue_ms(run, device, cuda),
        capture=lambda run: capture_graph(run, device, cuda),
    )


def l2_flush(device: str, cuda: Any = torch.cuda) -> Run:
    """Zeroes a buffer that takes the place of all else in the L2 of `device`."""
    size = getattr(cuda.get_device_properties(device), "L2_cache_size", 0) or USUAL_L2_BYTES
    return torch.empty(L2_TIMES * size, dtype=torch.uint8, device=device).zero_


def capture_graph(run: Run, device: str, cuda: Any = torch.cuda) -> tuple[Run, str | None]:
    """The replay of `run` as a CUDA graph, captured on a side stream after a warm-up there; where it cannot be
    captured, `run` itself and a sentence why.

    The graph reads its inputs where they lay when it was captured.
    """
    try:
        with cuda.device(device):
            graph, side = cuda.CUDAGraph(), cuda.Stream(device)
            side.wait_stream(cuda.current_stream())
            with cuda.stream(side):
                for _ in range(GRAPH_WARM_UPS):
                    run()
            cuda.current_stream().wait_stream(side)
            with cuda.graph(graph, stream=side):
                run()
    except RuntimeError as error:  # a wait, a copy from the host, no memory: whatever a graph cannot hold
        cuda.synchronize()
        return run, f"no CUDA graph could be captured, so every kernel is launched anew: {_one_line(error)}"
    return graph.replay, None


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _time_wall(run: Run, n: int, wait: Run) -> list[Sample]:
    samples = []
    for _ in range(n):
        cpu, start = time.process_time(), time.perf_counter()
        run()
        wait()
        end = time.perf_counter()
        samples.append(Sample(1000 * (end - start), 1000 * (time.process_time() - cpu)))
    return samples


def time_events(
    run: Run,
    n: int,
    device: str,
    *,
    flush: Run | None = None,
    read: Callable[[], GpuState] | None = None,
    cuda: Any = torch.cuda,
) -> list[Sample]:
    """An event before and after every repeat, and one wait for all of them: a wait for each would add to it.

    The GPU's state is read before that wait, while it may still be at work: an idle one says nothing of its limits.
    """

    def mark() -> Any:
        event = cuda.Event(enable_timing=True)
        event.record()
        return event

    starts, ends = list[Any](), list[Any]()
    with cuda.device(device):
        for _ in range(n):
            if flush:
                flush()
            starts.append(ends[-1] if ends and not flush else mark())
            run()
            ends.append(mark())
        state = read() if read else None
        cuda.synchronize()
    return [Sample(start.elapsed_time(end), None, state) for start, end in zip(starts, ends, strict=True)]


def _issue_ms(run: Run, device: str, cuda: Any, now: Callable[[], float] = time.perf_counter) -> float:
    """Median time until `run` returns, on a GPU that has nothing else to do: what the host needs to launch it."""
    times = []
    with cuda.device(device):
        for _ in range(ISSUES):
            cuda.synchronize()
            start = now()
            run()
            times.append(1000 * (now() - start))
        cuda.synchronize()
    return statistics.median(times)


def _others_s() -> float:
    """Processor seconds of the whole machine so far, with those a host took away, less this process's own."""
    times = psutil.cpu_times()
    busy = (getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return sum(busy) - time.process_time()
