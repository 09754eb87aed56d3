"""A trial that has begun, and what a worker is given to take it further; likewise the donor."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from uniformer_bench.search.donating import Donation
from uniformer_bench.search.evaluate import LATENCY_BUDGET_S, Task, trained_spec
from uniformer_bench.search.question import Means, Question
from uniformer_bench.search.records import Record
from uniformer_bench.search.turns import device_turns
from uniformer_bench.space import Candidate

BASELINE_S = 1.5  # for a baseline's latency: it fixes the hypervolume's axes, at a time when workers still start
DONOR_SHARE = 0.2  # of a budget, at most, goes to the donor


class Flight(NamedTuple):
    """A trial that has begun: where it runs or ran, and its record up to its last pause."""

    trial: optuna.Trial
    candidate: Candidate
    device: str
    record: Record | None = None

    @property
    def rungs(self) -> list[dict[str, Any]]:
        """What is known at each rung that it reached."""
        return self.record["rungs"] if self.record else []

    @property
    def is_baseline(self) -> bool:
        return bool(self.trial.user_attrs.get("baseline"))


def checkpoint_of(number: int, means: Means) -> Path:
    """Where a trial lies while it is paused."""
    return means.checkpoints / f"{number}.pt"


def task_of(flight: Flight, question: Question, means: Means) -> Task:
    """What a worker needs to know to take the trial to its next rung, or to its end."""
    space = question.space
    frames, size = space.clip_of(flight.candidate)
    return Task(
        spec=flight.candidate.spec,
        trained=trained_spec(flight.candidate.trained, space.recipe),
        num_classes=len(question.clips.classes),
        protocol=replace(question.protocol, device=flight.device, frames=frames, size=size),
        measure=space.measure,
        constraints=dict(space.constraints),
        recipe=space.recipe,
        data=question.data,
        seed=question.seed,
        turns=device_turns(means.turns, flight.device),
        training_threads=means.training_threads,
        rungs=space.halving.rungs,
        until=_until(flight, question),
        paused=checkpoint_of(flight.trial.number, means),
        resumed=flight.record is not None,
        latency_budget_s=BASELINE_S if flight.is_baseline else LATENCY_BUDGET_S,
        start=question.start,
        clip=flight.candidate.clip,
    )


def _until(flight: Flight, question: Question) -> float:
    """The share of the short run at which it pauses next: a baseline and what is not ranked by it never."""
    if flight.is_baseline or "accuracy" not in question.space.objectives:
        return 1.0
    return next(iter(question.space.halving.rungs[len(flight.rungs) :]), 1.0)


def donation_of(file: Path, question: Question, means: Means) -> Donation:
    """How the space's donor is trained, for `file`: as a trial is, `times` as long, on the first device."""
    space, device = question.space, means.devices[0]
    assert space.donor is not None, "a donor's file was named for a space without one"
    return Donation(
        spec=trained_spec(space.donor_spec(), space.recipe),
        recipe=replace(space.recipe, epochs=space.donor.times * space.recipe.epochs),
        data=question.data,
        at=space.data,
        precision=question.protocol.precision,
        implementation=question.protocol.implementation,
        seed=question.seed,
        device=device,
        threads=question.protocol.threads,
        turns=device_turns(means.turns, device),
        file=file,
        most_s=None if means.deadline_s is None else DONOR_SHARE * means.deadline_s,
    )
