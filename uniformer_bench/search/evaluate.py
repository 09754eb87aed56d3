"""One trial, from a spec to its numbers: a pure function of its task, run in a worker process.

Each phase spends nothing on what the one before can refuse: built, then measured, then the short run and its
accuracy. What goes wrong is a state with a reason, never an exception that is lost.
"""

import copy
import functools
import gc
import time
from collections.abc import Collection, Iterable, Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from uniformer_bench.data import load_clips
from uniformer_bench.data.clips import Clips
from uniformer_bench.errors import UbenchError
from uniformer_bench.export.graphs import onnx_runner
from uniformer_bench.measure.accuracy import accuracy
from uniformer_bench.measure.energy import LEAST_WINDOW_S, measure_energy, open_meter
from uniformer_bench.measure.latency import Run, measure_latency
from uniformer_bench.measure.memory import is_out_of_memory, peak_memory
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.metrics import broken_limit
from uniformer_bench.model import build, clips_like
from uniformer_bench.model.checkpoints import read_pickled, write_pickled
from uniformer_bench.model.compiled import compile_model
from uniformer_bench.model.inference import for_inference
from uniformer_bench.model.uniformer import UniFormer
from uniformer_bench.recipe import Recipe
from uniformer_bench.search.donors import Start, begin
from uniformer_bench.search.turns import Turns
from uniformer_bench.space import Clip
from uniformer_bench.spec import ArchSpec
from uniformer_bench.train import ShortRun, input_of

LATENCY_BUDGET_S = 0.3
ENERGY_WINDOW_S = LEAST_WINDOW_S


class Task(NamedTuple):
    """All that a trial depends on; it travels to a worker, or to another machine."""

    spec: ArchSpec
    trained: ArchSpec
    num_classes: int
    protocol: Protocol
    measure: tuple[str, ...]
    constraints: dict[str, float]
    recipe: Recipe
    data: dict[str, Any]  # arguments of load_clips
    seed: int
    turns: Path  # folder of the device's locks
    training_threads: int
    rungs: tuple[float, ...] = ()  # shares of the short run at which it is looked at
    until: float = 1.0  # the share at which it pauses
    paused: Path | None = None  # where it lies while it pauses
    resumed: bool = False  # it has been measured, and goes on from there
    latency_budget_s: float = LATENCY_BUDGET_S
    start: Start | None = None  # the weights that the short run inherits from
    clip: Clip | None = None  # what it is trained on, made of the data's clips, where that is its own


class Result(NamedTuple):
    """What a trial came to: `state` complete, paused, infeasible, diverged or oom, with the reason where not complete.

    `rungs` are those it has passed: share of the run, epochs, training loss (of the last tenth), and the seconds of
    training since the last. `adapted` has the `micro_batch`, how many clips it trained on at once, where the
    recipe's batch did not fit.
    """

    state: str
    reason: str | None
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    seconds: dict[str, float]
    warnings: list[str]
    rungs: MutableSequence[dict[str, float]]
    adapted: dict[str, int]


def without_numbers(state: str, reason: str | None) -> Result:
    """A result of which nothing is known but how it ended."""
    return Result(state, reason, {}, {}, {}, [], [], {})


@functools.cache
def clips_of(**data: Any) -> Clips:
    """The clips of these arguments of load_clips, loaded once a process."""
    return load_clips(**data)


@functools.cache
def turns_of(folder: Path) -> Turns:
    """The locks in a folder, opened once a process."""
    return Turns(folder)


class _EndTrialError(Exception):
    """The trial ends here, in this state and for this reason."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state, self.reason = state, reason


def evaluate(task: Task) -> Result:
    """Measures and trains. Raises only for what is nobody's state, such as a lost file."""
    turns = turns_of(task.turns)
    found = without_numbers("complete", None)
    with turns.working():
        try:
            _evaluate(task, turns, found)
        except _EndTrialError as stop:
            return found._replace(state=stop.state, reason=stop.reason)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            found = found._replace(state="oom", reason=f"memory must suffice, got {_first_line(error)}")
    if found.state == "oom":  # only here: while the error lives, its frames hold what did fit
        gc.collect()
        torch.cuda.empty_cache()
    return found


def _evaluate(task: Task, turns: Turns, found: Result) -> None:
    with _timed(found, "build"):
        torch.manual_seed(task.seed)
        model = build(task.spec, task.num_classes, task.protocol.implementation)
    if not task.resumed:
        _measure(task, model, turns, found)
    if "accuracy" in task.measure:
        if task.trained != task.spec:
            model = build(task.trained, task.num_classes, task.protocol.implementation)
        begin(model, task.start)
        _learn(task, model, turns, found)


def _measure(task: Task, model: UniFormer, turns: Turns, found: Result) -> None:
    """The cheapest first: inference memory takes a tenth of the time of a latency, training memory twice as long."""
    trained = "training_memory" in task.measure
    if "memory" in task.measure and not trained:
        _memory(task, model, found)
    if "latency" in task.measure:
        _latency(task, model, turns, found)
    if "energy" in task.measure:
        with turns.alone(), _timed(found, "energy"):
            _energy(task, model, found)
    if trained:
        _memory(task, model, found)


@contextmanager
def _timed(found: Result, phase: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        found.seconds[phase] = found.seconds.get(phase, 0.0) + time.perf_counter() - start


def _check(task: Task, found: Result, metric: str) -> None:
    """Ends the trial where a limit on this metric is broken."""
    reason = broken_limit({key: value for key, value in found.metrics.items() if key == metric}, task.constraints)
    if reason:
        raise _EndTrialError("infeasible", reason)


def check_measurable(measure: Collection[str], devices: Iterable[str]) -> None:
    """Raises UbenchError where energy is to be measured on a device that does not count it."""
    for device in dict.fromkeys(devices) if "energy" in measure else ():
        meter = open_meter(device)
        if isinstance(meter, str):
            raise UbenchError(f"energy must be measured on a GPU that counts it, got {device}: {meter}")


def _latency(task: Task, model: UniFormer, turns: Turns, found: Result) -> None:
    """What takes long, compiling and translating, is done while others go on; only the repeats are taken alone."""
    protocol = task.protocol
    with thread_count(protocol.threads):
        with _timed(found, "compile" if protocol.compile or protocol.onnx else "latency"):
            run, notes = latency_run(model, task.spec, protocol)
        with turns.alone(), _timed(found, "latency"):
            latency = measure_latency(run, protocol, budget_s=task.latency_budget_s)
    found.metrics["latency"] = latency.median
    found.metrics["throughput"] = 1000 * protocol.batch / latency.median
    if latency.ci95 is not None:
        found.intervals["latency"] = latency.ci95
    found.warnings.extend((*notes, *latency.warnings))
    _check(task, found, "latency")


class LatencyRun(NamedTuple):
    """A forward pass, and a sentence where the protocol wants it compiled and it cannot be."""

    run: Run
    notes: tuple[str, ...]


def latency_run(model: UniFormer, spec: ArchSpec, protocol: Protocol) -> LatencyRun:
    """A forward pass of a copy of `model` as the protocol has it: training needs the fp32 weights.

    A compiled one holds for the number of threads at the time.
    """
    clips = clips_like(spec, protocol.batch, protocol.frames, protocol.size)
    clips = clips.to(protocol.device, protocol.dtype())
    if protocol.onnx:
        run = onnx_runner(model, protocol)
        return LatencyRun(lambda: run(clips), ())
    subject = for_inference(copy.deepcopy(model).to(protocol.device, protocol.dtype()).eval())
    forward, notes = compile_model(subject, clips) if protocol.compile else (subject, ())
    return LatencyRun(lambda: forward(clips), notes)


def _energy(task: Task, model: UniFormer, found: Result) -> None:
    run, _ = latency_run(model, task.spec, task.protocol)  # its notes were given with the latency
    energy = measure_energy(run, task.protocol, window_s=ENERGY_WINDOW_S)
    if energy.joules_per_clip is None:
        raise UbenchError(f"energy must be counted on {task.protocol.device}, got none: {energy.reason}")
    found.metrics["energy"] = energy.joules_per_clip
    found.warnings.extend(energy.warnings)


def _memory(task: Task, model: UniFormer, found: Result) -> None:
    clips = clips_like(task.spec, task.protocol.batch, task.protocol.frames, task.protocol.size)
    trained = "training_memory" in task.measure
    with _timed(found, "memory"):
        memory = peak_memory(model, clips, task.protocol, training=trained, training_batch=task.recipe.batch)
    pairs = (("memory", memory.inference_peak_bytes), ("training_memory", memory.training_peak_bytes))
    found.metrics.update({key: peak for key, peak in pairs if peak is not None})
    _check(task, found, "memory")


def _learn(task: Task, model: UniFormer, turns: Turns, found: Result) -> None:
    clips = clips_of(**task.data)
    torch.set_num_threads(task.training_threads)
    with _timed(found, "train"):
        run = _advanced(task, model, clips, turns, found)
    if run.diverged:
        raise _EndTrialError("diverged", run.diverged)
    if task.until < 1:
        raise _EndTrialError("paused", f"paused at {task.until:.0%} of the short run")
    with _timed(found, "accuracy"):
        result = accuracy(
            model, clips.validation, to_input=input_of(task.clip), device=task.protocol.device, at_batch=turns.offer
        )
    found.metrics["accuracy"] = result.value
    found.intervals["accuracy"] = result.ci95


def _advanced(task: Task, model: UniFormer, clips: Clips, turns: Turns, found: Result) -> ShortRun:
    """The short run, trained up to where it pauses or ends; the rungs on the way are noted."""
    device, precision = task.protocol.device, task.protocol.precision
    run = ShortRun(model, clips.train, task.recipe, device=device, precision=precision, seed=task.seed, clip=task.clip)
    if task.resumed and task.paused is not None and task.paused.exists():  # else it starts again, and comes to the same
        state = read_pickled(task.paused)
        assert isinstance(state, dict), "a pause writes the state as a mapping"
        run.restore(state)
    for share in sorted({*(share for share in task.rungs if share < task.until), task.until}):
        step = max(1, round(share * run.steps))
        if run.step < step:
            before_s = run.seconds
            run.advance(step, turns.offer)
            _note_micro_batch(run, found)
            if share in task.rungs and not run.diverged:
                seen = {"share": share, "epochs": share * task.recipe.epochs, "loss": run.recent_loss()}
                found.rungs.append(seen | {"seconds": run.seconds - before_s})
    if task.until < 1 and task.paused is not None:
        write_pickled(task.paused, run.state())
    return run


def _note_micro_batch(run: ShortRun, found: Result) -> None:
    micro, whole = run.micro_batch, run.recipe.batch
    if micro == found.adapted.get("micro_batch", whole):
        return
    found.adapted["micro_batch"] = micro
    found.warnings.append(
        f"memory did not hold the batch of {whole}: it trained on {micro} at a time with gradients accumulated, so "
        f"that BatchNorm saw {micro} clips at a time"
    )


def trained_spec(spec: ArchSpec, recipe: Recipe) -> ArchSpec:
    """The spec as the short run trains it: under the recipe's stochastic depth, where it names one."""
    return spec if recipe.drop_path is None else replace(spec, drop_path=recipe.drop_path)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
