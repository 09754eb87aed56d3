"""How long one forward pass takes: the median of single repeats, with a 95 % interval that holds for any distribution.

Warm-up lasts until repeats stop getting faster, measuring until the interval is within `target` of the
median or the budget is spent. There is no mean: on a shared machine it describes the neighbours.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.clocks import Run as Run
from uniformer_bench.measure.clocks import Sample as Sample
from uniformer_bench.measure.clocks import Stopwatch as Stopwatch
from uniformer_bench.measure.clocks import protocol_clock
from uniformer_bench.measure.clocks import stopwatch as stopwatch
from uniformer_bench.measure.gpu import GpuState
from uniformer_bench.measure.protocol import Protocol, emulated
from uniformer_bench.model import UniFormer

CONFIDENCE = 0.95
LEAST_REPEATS = 6  # fewer have no 95 % interval of the median: 2 x 0.5^5 > 5 %
STAGE_REPEATS = 3  # of a stage, whose interval is not reported, at least
WARM_UP_SHARE = 0.25  # of the budget, at most
CHUNK_SHARE = 0.05  # of the budget between two looks at the interval
LARGEST_CHUNK = 50
STILL_FASTER = 0.05  # warm-up goes on while a window of repeats is this much faster than the one before
COARSE = 100  # a median below this many ticks of the clock is warned of
NEIGHBOURS = 0.25  # cores kept busy by others, below which nothing is said
SHORTEST_S = 0.2  # in which the system's own counters, of 10 ms, say something
RUNNING = 0.9  # the share of wall time that one thread gets on a quiet machine, at least
SLOW_CLOCK = 0.75  # of a GPU's median clock, below which a repeat is warned of
HELD_UP = 0.9  # of a repeat's time taken by launching it: the GPU waits for the host, which can be but a little ahead


@dataclass(frozen=True)
class Latency:
    """Raw repeats in order, in ms, and what there is to say about them. `stopped` is target or budget, `threads`
    torch's on the CPU at the time. Of a GPU: its state `before` and `after`, `issue_ms` of the host for one
    run, and whether the repeats were replays of a CUDA `graph`."""

    samples: tuple[Sample, ...]
    warmup: int
    stopped: str
    warnings: tuple[str, ...] = ()
    threads: int | None = None
    before: GpuState | None = None
    after: GpuState | None = None
    issue_ms: float | None = None
    graph: bool = False

    @property
    def samples_ms(self) -> list[float]:
        return [sample.ms for sample in self.samples]

    @property
    def n(self) -> int:
        return len(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples_ms)

    @property
    def p10(self) -> float:
        return quantile(self.samples_ms, 0.1)

    @property
    def p90(self) -> float:
        return quantile(self.samples_ms, 0.9)

    @property
    def ci95(self) -> tuple[float, float] | None:
        return median_interval(self.samples_ms)

    @property
    def cpu_median(self) -> float | None:
        times = [sample.cpu_ms for sample in self.samples if sample.cpu_ms is not None]
        return statistics.median(times) if times else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data: times in ms; ci95 is None for fewer than 6 repeats, and a warning then says so; gpu and issue_ms
        are None on a CPU, cpu_median on a GPU."""
        return {
            "median": self.median,
            "p10": self.p10,
            "p90": self.p90,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "n": self.n,
            "cpu_median": self.cpu_median,
            "stopped": self.stopped,
            "warnings": list(self.warnings),
            "threads": self.threads,
            "issue_ms": self.issue_ms,
            "graph": self.graph,
            "gpu": self._gpu(),
        }

    def _gpu(self) -> dict[str, Any] | None:
        if self.before is None or self.after is None:
            return None
        clocks = [sample.gpu.sm_clock_mhz for sample in self.samples if sample.gpu and sample.gpu.sm_clock_mhz]
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "median_sm_clock_mhz": statistics.median(clocks) if clocks else None,
            "least_sm_clock_mhz": min(clocks, default=None),
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def interval_rank(n: int) -> int:
    """k such that the median lies between the k-th smallest and the k-th largest of n values with 95 %
    confidence, whatever their distribution; 0 where n is too small.

    The largest k with P(Binomial(n, 1/2) < k) <= 2.5 %.
    """
    below, ways, limit = 0, 1, 2**n * 25 // 1000
    for k in range(n + 1):
        below += ways  # sum of n over i, for i up to k
        if below > limit:
            return k
        ways = ways * (n - k) // (k + 1)
    raise AssertionError("the binomial coefficients must exceed a fortieth of their sum")


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the median by order statistics, None for fewer than 6 values."""
    k, ordered = interval_rank(len(values)), sorted(values)
    return (ordered[k - 1], ordered[-k]) if k else None


def half_width(samples: Sequence[Sample]) -> float | None:
    """How far the interval reaches from the median at most, as a share of the median; None if unknown."""
    values = [sample.ms for sample in samples]
    interval, median = median_interval(values), statistics.median(values)
    if interval is None or median <= 0:
        return None
    return max(median - interval[0], interval[1] - median) / median


def measure_latency(
    run: Run,
    protocol: Protocol,
    *,
    budget_s: float,
    target: float = 0.02,
    min_repeats: int = LEAST_REPEATS,
    clock: Stopwatch | None = None,
) -> Latency:
    """Repeats `run`, one forward pass on the protocol's device, under inference_mode.

    At least `min_repeats` times, whatever the budget; no run may be interrupted. Raises UbenchError where
    budget or repeats are not positive.
    """
    return measure_latencies([run], protocol, budget_s=budget_s, target=target, min_repeats=min_repeats, clock=clock)[0]


def measure_latencies(
    runs: Sequence[Run],
    protocol: Protocol,
    *,
    budget_s: float,
    target: float = 0.02,
    min_repeats: int = LEAST_REPEATS,
    clock: Stopwatch | None = None,
    seed: int = 0,
) -> list[Latency]:
    """The latency of each of `runs`, which take turns in an order drawn anew from `seed`, so that what slows the
    machine for a while slows them alike. `budget_s` is for all; one that is sure is left out of further turns.

    Else as measure_latency.
    """
    if budget_s <= 0 or min_repeats < 1:
        raise UbenchError(f"budget_s and min_repeats must be positive, got {budget_s} and {min_repeats}")
    clock = clock or protocol_clock(protocol)
    before, start, others = clock.state and clock.state(), clock.now(), clock.others()
    with torch.inference_mode():
        graphed = [_graphed(run, protocol, clock) for run in runs]
        turns = _Turns(budget_s, target, min_repeats, random.Random(seed))
        repeated = _repeat([run for run, _, _ in graphed], clock, turns)
        issued = [clock.issue_ms and clock.issue_ms(run) for run, _, _ in graphed]
    after, elapsed = clock.state and clock.state(), clock.now() - start
    neighbours = (clock.others() - others) / elapsed if elapsed > SHORTEST_S else 0.0
    found = []
    for (_, graph, sentences), repeats, issue_ms in zip(graphed, repeated, issued, strict=True):
        about = [*sentences, *_about_samples(repeats, target, clock)]
        about += _about_machine(repeats.samples, neighbours, protocol, clock)
        about += _about_gpu(repeats.samples, before, after, issue_ms)
        stopped, threads = "target" if repeats.reached(target) else "budget", torch.get_num_threads()
        row = tuple(repeats.samples), repeats.warmup, stopped, tuple(about), threads, before, after, issue_ms, graph
        found.append(Latency(*row))
    return found


class _Turns(NamedTuple):
    """How long all repeat together, how sure each must be, how often each at least, and who is next."""

    budget_s: float
    target: float
    min_repeats: int
    rng: random.Random


class _Repeats(NamedTuple):
    samples: list[Sample]
    warmup: int
    chunk: int

    @property
    def width(self) -> float | None:
        return half_width(self.samples)

    def reached(self, target: float) -> bool:
        width = self.width  # sorts all samples
        return width is not None and width <= target


def _repeat(runs: Sequence[Run], clock: Stopwatch, turns: _Turns) -> list[_Repeats]:
    start, share_s = clock.now(), turns.budget_s / len(runs)
    rows = [_Repeats([], *_warm_up(run, clock, share_s)) for run in runs]
    unsure = list(range(len(runs)))
    while unsure:
        for i in turns.rng.sample(unsure, len(unsure)):
            samples = rows[i].samples
            samples += clock.time(runs[i], max(rows[i].chunk, turns.min_repeats - len(samples)))
        if clock.now() >= start + turns.budget_s:
            break
        unsure = [i for i in unsure if not rows[i].reached(turns.target)]
    return rows


def _graphed(run: Run, protocol: Protocol, clock: Stopwatch) -> tuple[Run, bool, list[str]]:
    """(what to repeat, whether it is a CUDA graph, sentences): as the protocol wants it, where that can be."""
    if not protocol.graph or clock.capture is None:
        return run, False, []
    run, reason = clock.capture(run)
    return run, reason is None, [reason] if reason else []


def _warm_up(run: Run, clock: Stopwatch, budget_s: float) -> tuple[int, int]:
    """(repeats spent, repeats in a chunk): windows of repeats until one is not much faster than the last."""
    deadline = clock.now() + WARM_UP_SHARE * budget_s
    clock.time(run, 1)  # compiles, allocates, chooses kernels
    before = clock.time(run, 1)[0].ms
    spent, window = 2, _chunk(before, budget_s)
    while clock.now() < deadline:
        after = statistics.median(sample.ms for sample in clock.time(run, window))
        spent += window
        settled, before = after > before * (1 - STILL_FASTER), after
        if settled:
            break
    return spent, _chunk(before, budget_s)


def _chunk(ms: float, budget_s: float) -> int:
    share_ms = 1000 * CHUNK_SHARE * budget_s
    return max(1, min(LARGEST_CHUNK, int(share_ms / ms) if ms > 0 else LARGEST_CHUNK))


def _about_samples(repeats: _Repeats, target: float, clock: Stopwatch) -> list[str]:
    samples, width = repeats.samples, repeats.width
    median, found = statistics.median(sample.ms for sample in samples), []
    if len(samples) < LEAST_REPEATS:
        found.append(f"{len(samples)} repeats have no 95 % interval, {LEAST_REPEATS} are needed")
    elif width is not None and width > target:
        found.append(f"the 95 % interval was within {width:.1%} of the median when the time was up, not {target:.1%}")
    if median < COARSE * clock.resolution_ms:
        found.append(f"a repeat took {median:.3g} ms, too short for a clock of {clock.resolution_ms:.2g} ms")
    return found


def _about_machine(samples: list[Sample], neighbours: float, protocol: Protocol, clock: Stopwatch) -> list[str]:
    found = []
    if neighbours > NEIGHBOURS and neighbours + protocol.threads > clock.cores:
        found.append(f"other processes kept {neighbours:.1f} of {clock.cores} cores busy, and this one wants its own")
    if emulated(protocol.device, protocol.precision):
        found.append(f"this processor has no instructions for {protocol.precision}, and emulates them: fp32 is faster")
    busy = [sample.cpu_ms / sample.ms for sample in samples if sample.cpu_ms is not None and sample.ms > 0]
    if protocol.threads == 1 and busy and statistics.median(busy) < RUNNING:
        found.append(f"this process ran {statistics.median(busy):.0%} of the time only: other work took the processor")
    return found


def _about_gpu(
    samples: list[Sample], before: GpuState | None, after: GpuState | None, issue_ms: float | None
) -> list[str]:
    found, n, states = [], len(samples), [sample.gpu for sample in samples if sample.gpu]
    slowed = [state.slowdowns for state in states if state.slowdowns]
    if slowed:
        causes = ", ".join(dict.fromkeys(word for words in slowed for word in words))
        found.append(f"{len(slowed)} of {n} repeats ran while the GPU's clock was held down: {causes}")
    clocks = [state.sm_clock_mhz for state in states if state.sm_clock_mhz is not None]
    usual = statistics.median(clocks) if clocks else 0
    slow = sum(clock < SLOW_CLOCK * usual for clock in clocks)
    if slow:
        found.append(f"{slow} of {n} repeats ran below {SLOW_CLOCK:.0%} of the GPU's median clock, {usual:g} MHz")
    others = max((state.other_processes or 0 for state in (before, after, *states) if state), default=0)
    if others:
        found.append(f"other processes were on the GPU: {others}")
    median = statistics.median(sample.ms for sample in samples)
    if issue_ms is not None and issue_ms > HELD_UP * median:
        found.append(f"bound by launching, not by the GPU: the host took {issue_ms:.3g} ms to issue a run")
    return found


def stage_latencies(
    model: UniFormer, clips: Tensor, protocol: Protocol, *, budget_s: float, clock: Stopwatch | None = None
) -> list[float]:
    """Median ms of every stage, and of the head last, each alone on the activations that reach it.

    They need not add up to the whole: each has its inputs in cache and its own launch.
    """
    medians, parts, x = [], stage_runs(model), clips
    with torch.inference_mode():
        for part in parts:
            run, share_s = _applied(part, x), budget_s / len(parts)
            latency = measure_latency(run, protocol, budget_s=share_s, min_repeats=STAGE_REPEATS, clock=clock)
            medians.append(latency.median)
            x = part(x)
    return medians


def _applied(part: Callable[[Tensor], Tensor], x: Tensor) -> Run:
    return lambda: part(x)


def stage_runs(model: UniFormer) -> list[Callable[[Tensor], Tensor]]:
    """The forward pass cut into its stages, the first with the change of memory layout, and its head."""
    stages = [_stage_run(*modules) for modules in model.stage_modules()]
    first = stages[0]
    return [
        lambda clips: first(model.ops.enter(clips)),
        *stages[1:],
        lambda x: model.head(model.norm(x).flatten(2).mean(-1)),
    ]


def _stage_run(embed: Callable[[Tensor], Tensor], blocks: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: blocks(embed(x))
