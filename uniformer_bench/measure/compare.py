"""Which of two models is faster: a ratio of times with its interval, and a verdict that a control has to allow.

A, B and a second copy of A (the control) run in blocks, one sample each, in random order; a block gives a ratio
A/B and a ratio A/A. Several blocks make a round, for which all three are copied to other places in memory, and
a round counts as one observation: its median. The number of rounds and blocks is fixed by their price before any
ratio is looked at, since looking until something shows finds differences that are not there. The interval is that
of the median of rounds by order statistics, which holds whatever the noise looks like.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, exp, log
from typing import Any, NamedTuple

import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.latency import median_interval, stopwatch
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.measure.subjects import Run, Subject, make_ready

SCHEMA_VERSION = 1
SAMPLE_S = 0.01  # one sample lasts this long at least: a thousand ticks of a slow clock
ROUNDS = 12
LEAST_ROUNDS = 6  # fewer have no 95 % interval of the median
COARSE = 0.05  # a resolution above which the person is told how little was seen
NEIGHBOURS = 0.25  # cores kept busy by others, below which nothing is said


class Clock(NamedTuple):
    """`time` is the seconds that n runs took, `now` in seconds of the wall, `others` the processor seconds
    that other processes have had so far, on `cores` cores."""

    name: str
    time: Callable[[Run, int], float]
    now: Callable[[], float]
    others: Callable[[], float]
    cores: int


class Arm(NamedTuple):
    """What is timed, and what is done untimed before each sample of it."""

    run: Run
    turn: Callable[[], object]


class Arms(NamedTuple):
    """The three that take part: the control is another copy of A."""

    a: Arm
    b: Arm
    control: Arm


class Block(NamedTuple):
    """Seconds of one run of each."""

    a: float
    b: float
    control: float


class Plan(NamedTuple):
    """How many rounds, blocks in each, and runs of each arm in a sample."""

    rounds: int
    blocks: int
    runs: tuple[int, int, int]


class Ratio(NamedTuple):
    """A ratio of times and its 95 % interval."""

    ratio: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        return {"ratio": self.ratio, "ci95": [self.low, self.high]}


@dataclass(frozen=True)
class Comparison:
    """What the rounds showed: `clips` are those in a run of A and of B, and times are compared per clip."""

    rounds: tuple[tuple[Block, ...], ...]
    clips: tuple[int, int] = (1, 1)

    @property
    def ratio(self) -> Ratio:
        """A's time over B's."""
        per_clip = self.clips[1] / self.clips[0]
        return _ratio([[per_clip * block.a / block.b for block in blocks] for blocks in self.rounds])

    @property
    def control(self) -> Ratio:
        """A's time over that of its own copy."""
        return _ratio([[block.a / block.control for block in blocks] for blocks in self.rounds])

    @property
    def verdict(self) -> str:
        """On A against B: a difference is seen where the whole interval lies further from 1 than any of the
        control's, in which there is none."""
        ratio, reach = self.ratio, _reach(self.control)
        if log(ratio.high) < -reach:
            return "faster"
        return "slower" if log(ratio.low) > reach else "no difference seen"

    @property
    def resolution(self) -> float:
        """The share by which A must differ from B for these rounds to show it."""
        ratio = self.ratio
        return exp(max(log(ratio.high / ratio.ratio), log(ratio.ratio / ratio.low)) + _reach(self.control)) - 1


def _ratio(rounds: list[list[float]]) -> Ratio:
    medians = [statistics.median(blocks) for blocks in rounds]
    interval = median_interval(medians)
    assert interval is not None, "a comparison has rounds enough for an interval"
    return Ratio(statistics.median(medians), *interval)


def _reach(ratio: Ratio) -> float:
    """The logarithm of the farthest that an interval goes from 1."""
    return max(log(ratio.high), -log(ratio.low), 0.0)


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
    if budget_s <= 0:
        raise UbenchError(f"budget_s must be positive, got {budget_s}")
    if fail_above is not None and fail_above < 0:
        raise UbenchError(f"fail_above must not be negative, got {fail_above}")
    if base.mode != "inference":
        raise UbenchError(f"a comparison's mode must be inference, got {base.mode!r}")
    protocols = a.protocol(base), b.protocol(base)
    clock, rng = clock or clock_for(*protocols), random.Random(seed)
    with thread_count(base.threads):
        fresh = _placements(a, b, protocols, num_classes, rng, seed)
        start, others = clock.now(), clock.others()
        rounds = take(fresh, budget_s=budget_s, rng=rng, clock=clock)
        neighbours = (clock.others() - others) / max(clock.now() - start, 1e-9)
    comparison = Comparison(tuple(rounds), (protocols[0].batch, protocols[1].batch))
    document = {
        "schema_version": SCHEMA_VERSION,
        "verdict": comparison.verdict,
        **comparison.ratio.to_dict(),
        "control": comparison.control.to_dict(),
        "resolution": comparison.resolution,
        "a": _described(a, protocols[0], num_classes, [block.a for blocks in rounds for block in blocks]),
        "b": _described(b, protocols[1], num_classes, [block.b for blocks in rounds for block in blocks]),
        "rounds": len(rounds),
        "pairs": sum(len(blocks) for blocks in rounds),
        "clock": clock.name,
        "seed": seed,
        "warnings": _warnings(comparison, protocols, clock, neighbours),
    }
    if fail_above is None:
        return document
    return document | {"fail_above": fail_above, "failed": exceeds(document, fail_above)}


def _placements(
    a: Subject, b: Subject, protocols: tuple[Protocol, Protocol], num_classes: int, rng: random.Random, seed: int
) -> Callable[[], Arms]:
    """Gives the three arms anew, each in a place of its own, taken in random order."""
    a_ready = make_ready(a, protocols[0], num_classes, seed)
    b_ready = make_ready(b, protocols[1], num_classes, seed)
    control_ready = make_ready(a, protocols[0], num_classes, seed) if protocols[0].compile else a_ready
    makers = (a_ready, protocols[0]), (b_ready, protocols[1]), (control_ready, protocols[0])
    switch = protocols[0].threads != protocols[1].threads

    def fresh() -> Arms:
        order = rng.sample(range(len(makers)), len(makers))
        arms = {i: _arm(makers[i][0](), makers[i][1].threads if switch else None) for i in order}
        return Arms(arms[0], arms[1], arms[2])

    return fresh


def _arm(run: Run, threads: int | None) -> Arm:
    """`threads` are to be set before each sample, and a run then starts them; None leaves them as they are."""
    if threads is None:
        return Arm(run, lambda: None)

    def turn() -> None:
        torch.set_num_threads(threads)
        run()

    return Arm(run, turn)


def take(fresh: Callable[[], Arms], *, budget_s: float, rng: random.Random, clock: Clock) -> list[tuple[Block, ...]]:
    """As many rounds as were planned, or as fit into the budget should the machine get slower: at least six."""
    start = clock.now()
    plan = _plan(fresh(), budget_s, clock)
    rounds: list[tuple[Block, ...]] = []
    while len(rounds) < plan.rounds and (len(rounds) < LEAST_ROUNDS or clock.now() < start + budget_s):
        arms = fresh()
        _block(arms, plan.runs, rng, clock)  # the first at a new place finds its caches cold
        rounds.append(tuple(_block(arms, plan.runs, rng, clock) for _ in range(plan.blocks)))
    return rounds


def _plan(arms: Arms, budget_s: float, clock: Clock) -> Plan:
    """What fits into the budget by the wall time of a second run, the first being a start from cold."""
    walls = []
    for arm in arms:
        arm.turn()
        arm.run()
        before = clock.now()
        clock.time(arm.run, 1)
        walls.append(max(clock.now() - before, 1e-9))
    of_a = (walls[0] + walls[2]) / 2
    runs = tuple(ceil(SAMPLE_S / wall) for wall in (of_a, walls[1], of_a))
    block_s = sum(n * wall for n, wall in zip(runs, walls, strict=True))
    rounds = min(ROUNDS, max(LEAST_ROUNDS, int(budget_s / (2 * block_s))))
    return Plan(rounds, max(1, int(budget_s / (rounds * block_s)) - 1), (runs[0], runs[1], runs[2]))


def _block(arms: Arms, runs: tuple[int, int, int], rng: random.Random, clock: Clock) -> Block:
    seconds = [0.0] * len(arms)
    for i in rng.sample(range(len(arms)), len(arms)):
        arms[i].turn()
        seconds[i] = clock.time(arms[i].run, runs[i]) / runs[i]
    if min(seconds) <= 0:
        raise UbenchError(f"a sample must take time on the clock, got {min(seconds)} s by {clock.name} time")
    return Block(*seconds)


def clock_for(a: Protocol, b: Protocol) -> Clock:
    """Events on a GPU; processor time where both have one CPU thread, which a neighbour hardly moves; else wall time.

    With more threads processor time would count those that wait for each other as working.
    """
    watch = stopwatch(a.device)
    if a.device.startswith("cuda"):
        return Clock("events", lambda run, n: _events_s(run, n, a.device), watch.now, watch.others, watch.cores)
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


def _events_s(run: Run, n: int, device: str) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(n):
            run()
        end.record()
        torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def _described(subject: Subject, protocol: Protocol, num_classes: int, seconds: list[float]) -> dict[str, Any]:
    return {
        "subject": subject.text,
        "variant": subject.variant,
        "spec_id": subject.spec.id,
        "spec": subject.spec.to_dict(),
        "checkpoint": str(subject.checkpoint) if subject.checkpoint else None,
        "num_classes": num_classes,
        "protocol": protocol.to_dict(),
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
        found.append(f"other processes kept {neighbours:.1f} of {clock.cores} cores busy, and this one wants its own")
    return found


def exceeds(document: Mapping[str, Any], limit: float) -> bool:
    """Whether A is slower than B by more than the share `limit`, with the whole interval above it."""
    return document["verdict"] == "slower" and document["ci95"][0] > 1 + limit


def parse_percent(text: str) -> float:
    """`5%` -> 0.05. Raises UbenchError for anything but a percentage that is not negative."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value < float("inf"):
        raise UbenchError(f"a limit must be a percentage such as 5%, got {text!r}")
    return value


def comparison_text(document: Mapping[str, Any]) -> str:
    """A comparison for a person: the verdict, both times, the control, and what there is to warn of."""
    a, b, control = document["a"], document["b"], document["control"]
    shown = f"({document['clock']} time, {document['pairs']} pairs in {document['rounds']} rounds)"
    lines = [
        _sentence(document),
        *(f"  {name}  {_milliseconds(of):>12}  {of['subject']}" for name, of in (("A", a), ("B", b))),
        f"  A/B {_interval(document)} {shown}",
        f"  A/A {_interval(control)} the control; a difference of {document['resolution']:.1%} would have been seen",
        *(f"  warning: {sentence}" for sentence in document["warnings"]),
    ]
    if "failed" in document:
        outcome = "failed" if document["failed"] else "passed"
        lines.append(f"  {outcome}: A may be slower than B by {document['fail_above']:.1%} at most")
    return "\n".join(lines)


def _sentence(document: Mapping[str, Any]) -> str:
    if document["verdict"] == "no difference seen":
        return "no difference seen between A and B"
    return f"A is {document['verdict']} than B: it takes {document['ratio']:.3f} times as long"


def _milliseconds(of: Mapping[str, Any]) -> str:
    return f"{of['median_ms']:.3f} ms"


def _interval(found: Mapping[str, Any]) -> str:
    return f"{found['ratio']:.4f} (95 % interval {found['ci95'][0]:.4f} to {found['ci95'][1]:.4f})"
