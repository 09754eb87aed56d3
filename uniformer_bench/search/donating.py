"""The donor of a search: one large architecture, trained before the trials, of whose weights each inherits what it can.

It is trained as a trial is, in a worker process, on all cores where there is no GPU, and pauses on the way, so that
what was stopped goes on from there. What comes of it is a file as `ubench train` writes them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from uniformer_bench.data.clips import Clips
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.accuracy import accuracy
from uniformer_bench.model import build
from uniformer_bench.model.checkpoints import read_pickled, write_pickled
from uniformer_bench.recipe import Recipe
from uniformer_bench.search.evaluate import Result, clips_of, turns_of
from uniformer_bench.search.executors import Crew, only
from uniformer_bench.space import Input
from uniformer_bench.spec import ArchSpec
from uniformer_bench.train import ShortRun, to_input
from uniformer_bench.training.plan import Plan
from uniformer_bench.training.saved import Saved, read_saved, write_saved

PARTS = 20  # after each of which it lies where it could go on
PROBED = 3  # steps that tell how long a step takes, after a first


class Donation(NamedTuple):
    """All that a donor depends on; it travels to a worker. `most_s` is what a budget leaves for it."""

    spec: ArchSpec
    recipe: Recipe
    data: Mapping[str, Any]  # arguments of load_clips
    at: Input
    precision: str
    implementation: str
    seed: int
    device: str
    threads: int
    turns: Path  # the folder of that device's locks
    file: Path
    most_s: float | None = None

    @property
    def paused(self) -> Path:
        """Where it lies while it is not finished."""
        return self.file.with_suffix(".part")


def donated(donation: Donation, crew: Crew, poll: Callable[[], bool]) -> bool:
    """Has the file written, unless it is there; False where `poll`, called twice a second, stopped it by a False.

    Raises UbenchError where nothing came of the training.
    """
    if donation.file.exists():
        return True
    found = only(train_donor, donation, crew, poll)
    if isinstance(found, Result):
        raise UbenchError(f"a space's donor must be trained before its trials, got {found.reason}")
    return found is not None


def facts_of(file: Path) -> dict[str, Any]:
    """What a finished donor is, for run.json: pattern, parameters, epochs, seconds of training, validation accuracy."""
    saved = read_saved(file)
    found = {"file": file.name, "pattern": saved.plan.spec.pattern, "spec_id": saved.plan.spec.id}
    params = sum(weights.numel() for weights in saved.build().parameters())
    last = saved.log[-1]
    took = {"epochs": last["epoch"], "seconds": last["seconds"], "accuracy": last["validation_accuracy"]}
    return found | {"params": params, **took}


def train_donor(donation: Donation) -> Path:
    """The training, in its worker; gives the file. Raises UbenchError where it diverges."""
    clips, turns = clips_of(**donation.data), turns_of(donation.turns)
    torch.set_num_threads(donation.threads)
    with turns.working():
        run = _begun(donation, clips, turns.offer)
        for part in range(1, PARTS + 1):
            run.advance(max(run.step, round(run.steps * part / PARTS)), turns.offer)
            if run.diverged:
                raise UbenchError(f"diverged: {run.diverged}")
            write_pickled(donation.paused, run.state() | {"epochs": run.recipe.epochs})
        found = accuracy(run.model, clips.validation, to_input=to_input, device=donation.device, at_batch=turns.offer)
    write_saved(donation.file, _saved(donation, run, clips, found.value))
    donation.paused.unlink()
    return donation.file


def _begun(donation: Donation, clips: Clips, at_step: Callable[[], None]) -> ShortRun:
    """The training where it was paused, or at its start."""
    held = read_pickled(donation.paused) if donation.paused.exists() else None
    if isinstance(held, dict):
        run = _run(donation, replace(donation.recipe, epochs=held["epochs"]), clips)
        run.restore(held)
        return run
    return _run(donation, _within(donation, clips, at_step), clips)


def _run(donation: Donation, recipe: Recipe, clips: Clips) -> ShortRun:
    torch.manual_seed(donation.seed)
    model = build(donation.spec, len(clips.classes), donation.implementation)
    return ShortRun(
        model, clips.train, recipe, device=donation.device, precision=donation.precision, seed=donation.seed
    )


def _within(donation: Donation, clips: Clips, at_step: Callable[[], None]) -> Recipe:
    """The recipe, over fewer epochs where a few steps of it say that the time left for it would not do."""
    recipe = donation.recipe
    if donation.most_s is None:
        return recipe
    probe = _run(donation, recipe, clips)
    probe.advance(1, at_step)
    start = time.perf_counter()
    probe.advance(1 + PROBED, at_step)
    step_s = (time.perf_counter() - start) / PROBED
    epochs = donation.most_s / step_s * recipe.batch / len(clips.train.labels)
    return replace(recipe, epochs=min(recipe.epochs, epochs))


def _saved(donation: Donation, run: ShortRun, clips: Clips, accuracy: float) -> Saved:
    """The file of a full training, whose log has one row: the schedule has come to its end."""
    at, weights = donation.at, {name: value.cpu() for name, value in run.model.state_dict().items()}
    plan = Plan(
        spec=donation.spec, data=str(donation.data["source"]), frames=at.frames, size=at.size, recipe=run.recipe,
        mixup=0.0, cutmix=0.0, ema=0.0, precision=donation.precision, seed=donation.seed,
    )  # fmt: skip
    row = {"step": run.step, "epoch": run.recipe.epochs, "lr": 0.0, "loss": run.recent_loss()}
    row |= {"validation_accuracy": accuracy, "seconds": run.seconds}
    return Saved(weights, plan, clips.classes, clips.card, run.step, run.steps, log=[row])
