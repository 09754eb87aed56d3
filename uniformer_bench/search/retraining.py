"""Finalists trained again: the same short run from other seeds, on all workers, and the one look at the test split.

A training is a pure function of its task, as a trial is. What the time left does not suffice for is left out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from uniformer_bench.measure.accuracy import accuracy
from uniformer_bench.measure.memory import is_out_of_memory
from uniformer_bench.model import build
from uniformer_bench.recipe import Recipe
from uniformer_bench.search.donors import Start, begin
from uniformer_bench.search.evaluate import Result, clips_of, turns_of
from uniformer_bench.search.executors import POLL_S, Crew, LocalExecutor
from uniformer_bench.search.turns import device_turns
from uniformer_bench.space import Clip
from uniformer_bench.spec import ArchSpec
from uniformer_bench.train import input_of, short_run

STOPPED, SPENT = "the search was stopped", "the budget was spent"


class Place(NamedTuple):
    """Where a worker works, and the folder of that device's locks."""

    device: str
    turns: Path


def places_of(devices: Iterable[str], turns: Path) -> tuple[Place, ...]:
    """The places of workers on these devices, with the folder of each device's locks in `turns`."""
    return tuple(Place(device, device_turns(turns, device)) for device in devices)


class Lesson(NamedTuple):
    """What all trainings of a search share; it travels to a worker."""

    num_classes: int
    recipe: Recipe
    data: Mapping[str, Any]  # arguments of load_clips
    precision: str
    implementation: str
    threads: int
    test: bool = True  # whether the test split is looked at
    start: Start | None = None  # the weights to inherit from


class Training(NamedTuple):
    """One architecture from one seed, and the seconds that its training took in the search."""

    trial: int
    spec: ArchSpec
    seed: int
    expected_s: float
    clip: Clip | None = None  # where it has its own


class Scores(NamedTuple):
    """Accuracy on both splits (`test` None where it was not looked at), or the reason why there is none."""

    validation: float | None = None
    test: float | None = None
    reason: str | None = None


class Retrained(NamedTuple):
    """The scores by (trial, seed), and why some that were asked for are missing."""

    scores: dict[tuple[int, int], Scores]
    reason: str | None


def train_again(task: tuple[Training, Lesson, Place]) -> Scores:
    """The whole short run, then the splits. Raises only for what is nobody's state, such as a lost file."""
    training, lesson, place = task
    clips, turns = clips_of(**lesson.data), turns_of(place.turns)
    torch.set_num_threads(lesson.threads)
    try:
        with turns.working():
            torch.manual_seed(training.seed)
            model = build(training.spec, lesson.num_classes, lesson.implementation)
            begin(model, lesson.start)
            outcome = short_run(
                model, clips.train, lesson.recipe,
                device=place.device, precision=lesson.precision, seed=training.seed, clip=training.clip,
                at_step=turns.offer,
            )  # fmt: skip
            if outcome.diverged:
                return Scores(reason=f"diverged: {outcome.diverged}")
            how: dict[str, Any] = {"to_input": input_of(training.clip), "device": place.device}
            validation, test = (
                accuracy(model, split, **how, at_batch=turns.offer).value if looked_at else None
                for split, looked_at in ((clips.validation, True), (clips.test, lesson.test))
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Scores(reason="oom: memory must suffice for training")
    return Scores(validation, test)


def retrained(
    asked: Sequence[Training],
    lesson: Lesson,
    places: Sequence[Place],
    crew: Crew,
    *,
    timeout_s: float | None,
    left_s: Callable[[], float],
    poll: Callable[[], bool],
    keep: Callable[[int, Scores], None] = lambda trial, scores: None,
) -> Retrained:
    """Trains by a crew of one a place. `poll` is called twice a second, and stops it by a False; `keep` is
    told of each training of a trial as it ends.

    Seeds one after the other, so that where time is short every finalist has as many; in a seed the longest first, so
    that no worker idles long at the end. One that would not end in the time left is not begun, and one that has not
    ended when it is up is cut short.
    """
    waiting = sorted(asked, key=lambda training: (training.seed, -training.expected_s))
    running: dict[tuple[int, int], Place] = {}
    scores: dict[tuple[int, int], Scores] = {}
    executor = LocalExecutor(crew, timeout_s, train_again)
    try:
        while poll():
            while executor.free and (training := _next(waiting, left_s())) is not None:
                waiting.remove(training)
                key, place = (training.trial, training.seed), _free_place(places, list(running.values()))
                running[key] = place
                executor.submit(key, (training, lesson, place))
            if not running or left_s() <= 0:
                return Retrained(scores, SPENT if waiting or running else None)
            for key, found in executor.finished(POLL_S):
                running.pop(key)
                scores[key] = Scores(reason=f"{found.state}: {found.reason}") if isinstance(found, Result) else found
                keep(key[0], scores[key])
    finally:
        executor.stop()
    return Retrained(scores, STOPPED)


def _next(waiting: Sequence[Training], left_s: float) -> Training | None:
    return next((training for training in waiting if 0 < left_s >= training.expected_s), None)


def _free_place(places: Sequence[Place], taken: Sequence[Place]) -> Place:
    free = Counter(places) - Counter(taken)
    return next(iter(free))
