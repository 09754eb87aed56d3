"""Which of two models is faster: a ratio of times with its interval, and a verdict that a control has to allow.

A, B and a second copy of A (the control) run in blocks, one sample each, in random order; a block gives a ratio
A/B and a ratio A/A. Several blocks make a round, for which all three are copied to other places in memory, and
a round counts as one observation. Time alone says when to stop, since looking at ratios until something shows finds
differences that are not there.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, NamedTuple

import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.clocks import capture_graph, l2_flush, stopwatch, time_events
from uniformer_bench.measure.comparison import Block, Comparison, exceeds
from uniformer_bench.measure.profile import one_line_when_out_of_memory, thread_count
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.measure.subjects import Ready, Run, Subject, make_ready

SCHEMA_VERSION = 1
SAMPLE_S = 0.01  # one sample lasts this long at least: a thousand ticks of a slow clock
ROUNDS = (12, 9, 6)  # as the budget allows: where the interval by order statistics is barely wider than 95 %
COARSE = 0.05  # a resolution above which the person is told how little was seen
NEIGHBOURS = 0.25  # cores kept busy by others, below which nothing is said


class Clock(NamedTuple):
    """`time` is the seconds that n runs took, `now` in seconds of the wall, `others` the processor seconds
    that other processes have had so far, on `cores` cores; `cold_time` as `time` with a GPU's L2 emptied before
    each run, which is not in it."""

    name: str
    time: Callable[[Run, int], float]
    now: Callable[[], float]
    others: Callable[[], float]
    cores: int
    cold_time: Callable[[Run, int], float] | None = None


class Arm(NamedTuple):
    """What is timed, what is done untimed before each sample of it, and whether each run finds its cache empty."""

    run: Run
    turn: Callable[[], object]
    cold: bool = False


class Arms(NamedTuple):
    """The three that take part: the control is another copy of A."""

    a: Arm
    b: Arm
    control: Arm


class Plan(NamedTuple):
    """How many rounds, and runs of each arm in a sample."""

    rounds: int
    runs: tuple[int, int, int]


def compare(
    a: Subject,
    b: Subject,
    *,
    base: Protocol,
    num_classes: int,
    budget_s: float = 10.0,
    fail_above: float | None = None,
    seed: int = 0,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """The document of `ubench compare`: A against B, in forward passes under `base` and their own settings.

    Six rounds are made whatever the budget. Random weights, clips and orders come from `seed`. Raises
    UbenchError for a budget or a limit that is not positive, and where a subject cannot run (make_ready).
    """
    _check(base, budget_s, fail_above)
    protocols, rng = (a.protocol(base), b.protocol(base)), random.Random(seed)
    with thread_count(protocols[0].threads), one_line_when_out_of_memory(base):
        clock = clock or clock_for(*protocols)
        trio = _trio(a, b, protocols, num_classes, seed)
        refused = dict[str, None]()
        fresh = _placements(trio, rng, refused)
        start, others = clock.now(), clock.others()
        rounds = take(fresh, budget_s=budget_s, rng=rng, clock=clock)
        neighbours = (clock.others() - others) / max(clock.now() - start, 1e-9)
    found = Comparison(tuple(rounds), (protocols[0].batch, protocols[1].batch))
    document = {
        "schema_version": SCHEMA_VERSION,
        **found.to_dict(),
        "a": _described(a, trio[0], num_classes, [block.a for block in found.blocks]),
        "b": _described(b, trio[1], num_classes, [block.b for block in found.blocks]),
        "clock": clock.name,
        "seed": seed,
        "warnings": [*refused, *_warnings(found, protocols, clock, neighbours)],
    }
    limit = {} if fail_above is None else {"fail_above": fail_above, "failed": exceeds(document, fail_above)}
    return document | limit


def _check(base: Protocol, budget_s: float, fail_above: float | None) -> None:
    if budget_s <= 0:
        raise UbenchError(f"budget_s must be positive, got {budget_s}")
    if fail_above is not None and fail_above < 0:
        raise UbenchError(f"fail_above must not be negative, got {fail_above}")
    if base.mode != "inference":
        raise UbenchError(f"a comparison's mode must be inference, got {base.mode!r}")


class _Made(NamedTuple):
    """One of the three, built, with what it is run under."""

    ready: Ready
    protocol: Protocol


def _trio(
    a: Subject, b: Subject, protocols: tuple[Protocol, Protocol], num_classes: int, seed: int
) -> tuple[_Made, _Made, _Made]:
    """A, B and the control, which is A's model where that can be copied."""
    a_ready = make_ready(a, protocols[0], num_classes, seed)
    b_ready = make_ready(b, protocols[1], num_classes, seed)
    control = make_ready(a, protocols[0], num_classes, seed) if protocols[0].compile else a_ready
    return _Made(a_ready, protocols[0]), _Made(b_ready, protocols[1]), _Made(control, protocols[0])


def _placements(trio: Sequence[_Made], rng: random.Random, refused: dict[str, None]) -> Callable[[], Arms]:
    """Gives the three arms anew, each in a place of its own, taken in random order. Why one could not be the CUDA
    graph that it should be is added to `refused`."""
    switch = len({made.protocol.threads for made in trio}) > 1

    def fresh() -> Arms:
        arms = dict[int, Arm]()
        for i in rng.sample(range(len(trio)), len(trio)):
            run, reason = _graphed(trio[i].ready.fresh(), trio[i].protocol)
            refused.update({reason: None} if reason else {})
            arms[i] = _arm(run, trio[i].protocol, switch)
        return Arms(arms[0], arms[1], arms[2])

    return fresh


def _graphed(run: Run, protocol: Protocol) -> tuple[Run, str | None]:
    """The replay of a run where the protocol wants a CUDA graph, or the run itself with a sentence why not."""
    return capture_graph(run, protocol.device) if protocol.graph else (run, None)


def _arm(run: Run, protocol: Protocol, switch: bool) -> Arm:
    """Where threads `switch` between arms, they are set before each sample, and a run then starts them."""

    def turn() -> None:
        torch.set_num_threads(protocol.threads)
        run()

    return Arm(run, turn if switch else lambda: None, protocol.cache == "cold")


def _time(arm: Arm, n: int, clock: Clock) -> float:
    """Seconds of so many runs of an arm, by the clock's way for it."""
    return (clock.cold_time or clock.time)(arm.run, n) if arm.cold else clock.time(arm.run, n)


def take(fresh: Callable[[], Arms], *, budget_s: float, rng: random.Random, clock: Clock) -> list[tuple[Block, ...]]:
    """Rounds of equal length that fill the budget, each with as many blocks as fit and one at least."""
    end = clock.now() + budget_s
    plan, rounds = _plan(fresh(), budget_s, clock), list[tuple[Block, ...]]()
    share_s = (end - clock.now()) / plan.rounds
    while len(rounds) < plan.rounds:
        arms, round_end = fresh(), end - share_s * (plan.rounds - len(rounds) - 1)
        for arm in arms:
            arm.run()  # the first at a new place finds its caches cold
        blocks = [_block(arms, plan.runs, rng, clock)]
        while clock.now() < round_end:
            blocks.append(_block(arms, plan.runs, rng, clock))
        rounds.append(tuple(blocks))
    return rounds


def _plan(arms: Arms, budget_s: float, clock: Clock) -> Plan:
    """What fits into the budget by the wall time of a second run, the first being a start from cold."""
    walls = []
    for arm in arms:
        arm.turn()
        _time(arm, 1, clock)
        before = clock.now()
        _time(arm, 1, clock)  # and not the run alone, which on a GPU returns before it is done
        walls.append(max(clock.now() - before, 1e-9))
    of_a = (walls[0] + walls[2]) / 2
    runs = tuple(ceil(SAMPLE_S / wall) for wall in (of_a, walls[1], of_a))
    round_s = sum((1 + n) * wall for n, wall in zip(runs, walls, strict=True))
    rounds = next((n for n in ROUNDS if n * round_s <= budget_s), ROUNDS[-1])
    return Plan(rounds, (runs[0], runs[1], runs[2]))


def _block(arms: Arms, runs: tuple[int, int, int], rng: random.Random, clock: Clock) -> Block:
    seconds = [0.0] * len(arms)
    for i in rng.sample(range(len(arms)), len(arms)):
        arms[i].turn()
        seconds[i] = _time(arms[i], runs[i], clock) / runs[i]
    if min(seconds) <= 0:
        raise UbenchError(f"a sample must take time on the clock, got {min(seconds)} s by {clock.name} time")
    return Block(*seconds)


def clock_for(a: Protocol, b: Protocol) -> Clock:
    """Events on a GPU; processor time where both have one CPU thread, which a neighbour hardly moves; else wall time.

    With more threads processor time would count those that wait for each other as working. Raises
    torch.OutOfMemoryError where there is no room to flush a GPU's cache.
    """
    watch = stopwatch(a.device)
    if a.on_cuda:
        flush = l2_flush(a.device) if "cold" in (a.cache, b.cache) else None
        warm, cold = (lambda run, n, f=f: _events_s(run, n, a.device, f) for f in (None, flush))
        return Clock("events", warm, watch.now, watch.others, watch.cores, cold)
    if a.device == "cpu" and a.threads == b.threads == 1:
        return Clock("process", _timer(time.process_time, lambda: None), watch.now, watch.others, watch.cores)
    wait = torch.mps.synchronize if a.device == "mps" else lambda: None
    return Clock("wall", _timer(time.perf_counter, wait), watch.now, watch.others, watch.cores)


def _timer(seconds: Callable[[], float], wait: Callable[[], object]) -> Callable[[Run, int], float]:
    def timed(run: Run, n: int) -> float:
        start = seconds()
        for _ in range(n):
            run()
        wait()
        return seconds() - start

    return timed


def _events_s(run: Run, n: int, device: str, flush: Run | None) -> float:
    return sum(sample.ms for sample in time_events(run, n, device, flush=flush)) / 1000


def _described(subject: Subject, made: _Made, num_classes: int, seconds: list[float]) -> dict[str, Any]:
    return {
        "subject": subject.text,
        "variant": subject.variant,
        "spec_id": subject.spec.id,
        "spec": subject.spec.to_dict(),
        "checkpoint": str(subject.checkpoint) if subject.checkpoint else None,
        "notes": list(made.ready.notes),
        "num_classes": num_classes,
        "protocol": made.protocol.to_dict(),
        "median_ms": 1000 * statistics.median(seconds),
    }


def _warnings(
    comparison: Comparison, protocols: tuple[Protocol, Protocol], clock: Clock, neighbours: float
) -> list[str]:
    control, found = comparison.control, []
    if not control.low <= 1 <= control.high:
        found.append(f"two copies of A differed by {abs(control.ratio - 1):.1%}, so no smaller difference is believed")
    if comparison.resolution > COARSE:
        found.append(
            f"only a difference of {comparison.resolution:.0%} or more would have been seen; give it more time"
        )
    threads = max(protocol.threads for protocol in protocols)
    if neighbours > NEIGHBOURS and neighbours + threads > clock.cores:
        busy = f"other processes kept {neighbours:.1f} of {clock.cores} cores busy, and this one wants its own"
        found.append(busy + ("; one thread would be timed by processor time" if clock.name == "wall" else ""))
    return found
