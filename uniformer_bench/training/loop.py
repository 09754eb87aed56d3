"""The full training: the paper's recipe over as many epochs and processes as asked, resumable to the bit.

The same call goes on where a killed one was last saved, and returns at once what is finished. BatchNorm's running
statistics are those of the first process, as in the paper's code.
"""

import csv
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from uniformer_bench.data.clips import Clips
from uniformer_bench.data.reading import ahead
from uniformer_bench.errors import UbenchError
from uniformer_bench.files import write_whole
from uniformer_bench.model.uniformer import build
from uniformer_bench.train import batches
from uniformer_bench.training.plan import Plan
from uniformer_bench.training.saved import FILE, Saved, read_saved, write_saved
from uniformer_bench.training.steps import Learner, make_learner, restore, share_of, take_step
from uniformer_bench.training.testing import accuracies
from uniformer_bench.training.world import World

LOG = "log.csv"
COLUMNS = ("step", "epoch", "lr", "loss", "validation_accuracy", "seconds")

Row = dict[str, Any]


class _Progress(NamedTuple):
    """Where a training is: rows of the log, the losses' sum since the last row, steps done."""

    log: list[Row]
    losses: Tensor
    done: int


def train(
    plan: Plan,
    clips: Clips,
    out: Path,
    *,
    world: World,
    save_every: int | None = None,
    told: Callable[[Row], None] = lambda row: None,
    noted: Callable[[str], None] = lambda sentence: None,
) -> Saved:
    """Trains, or goes on with, what is in `out`, and returns it; `out` then holds its checkpoint and log.csv.

    Both are written after every epoch and every `save_every` steps. `told` gets each row of the log, `noted` what to
    know of the weights it starts from. Raises UbenchError where `out` holds another training, the batch cannot be
    dealt to the processes or the loss is lost.
    """
    _check_batch(plan, clips, world)
    before = _before(plan, clips, out)
    if before is not None and before.training is None:
        return before
    learner, notes = make_learner(plan, len(clips.classes), world)
    steps, each = plan.recipe.steps(len(clips.train.labels)), _steps_in_epoch(plan, clips)
    progress = _Progress([], torch.zeros((), device=world.device), 0)
    if before is not None and before.training is not None:
        restore(learner, before.model, before.training)
        losses = torch.tensor(before.training["losses"], device=world.device)
        progress = _Progress(list(before.log), losses, before.step)
    else:
        for sentence in notes:
            noted(sentence)
    start = time.perf_counter()
    order = itertools.islice(_order(plan, clips, steps), progress.done, None)
    for share in ahead(lambda index: share_of(clips.train, index, world), order):
        loss = take_step(plan, learner, share, (progress.done, steps), world)
        progress = progress._replace(losses=progress.losses + loss, done=progress.done + 1)
        ends = progress.done % each == 0 or progress.done == steps
        if ends:
            row = _row(plan, learner, clips, progress, each, world) | {"seconds": time.perf_counter() - start}
            told(row)
            progress, start = _Progress([*progress.log, row], progress.losses * 0, progress.done), time.perf_counter()
        if world.first and (ends or (save_every and progress.done % save_every == 0)):
            _save(out, plan, learner, clips, progress, steps)
    return _saved(plan, learner, clips, progress, steps)


def finish(saved: Saved, out: Path, results: dict[str, Any]) -> Saved:
    """Writes a training that is over with its final results, and without what only going on would need."""
    over = saved._replace(results=results, training=None)
    write_saved(out / FILE, over)
    return over


def log_text(log: list[Row]) -> str:
    """log.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    return text.getvalue()


def _check_batch(plan: Plan, clips: Clips, world: World) -> None:
    if plan.recipe.batch % world.size:
        raise UbenchError(f"batch must be a multiple of the {world.size} processes, got {plan.recipe.batch}")
    if plan.recipe.batch > len(clips.train.labels):
        got = f"{plan.recipe.batch} of {len(clips.train.labels)}"
        raise UbenchError(f"batch must be at most the number of training clips, got {got}")


def _steps_in_epoch(plan: Plan, clips: Clips) -> int:
    return max(1, len(clips.train.labels) // plan.recipe.batch)


def _before(plan: Plan, clips: Clips, out: Path) -> Saved | None:
    """The training in `out`. Raises UbenchError where it is another one, with the difference."""
    if not (out / FILE).exists():
        return None
    before = read_saved(out / FILE)
    old = before.plan.to_dict() | {"data hash": before.data.get("hash"), "classes": list(before.classes)}
    new = plan.to_dict() | {"data hash": clips.card.get("hash"), "classes": list(clips.classes)}
    changed = [f"{key} was {old[key]}, now {new[key]}" for key in new if old[key] != new[key]]
    if changed:
        raise UbenchError(f"a training goes on only as it began, got {'; '.join(changed)} in {out}; name another --out")
    return before


def _order(plan: Plan, clips: Clips, steps: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(plan.seed)
    return batches(len(clips.train.labels), plan.recipe.batch, steps, generator)


def _row(plan: Plan, learner: Learner, clips: Clips, progress: _Progress, each: int, world: World) -> Row:
    """A row of the log after `progress.done` steps: the loss on this process's share, the accuracy from the first."""
    since = progress.done - (progress.log[-1]["step"] if progress.log else 0)
    loss = progress.losses.item() / since
    if not math.isfinite(loss):
        raise UbenchError(f"the loss must stay finite, got {loss} by step {progress.done}: lower the rate, or use bf16")
    lr = learner.optimisers.groups()[0]["lr"]
    row: Row = {"step": progress.done, "epoch": round(progress.done / each, 3), "lr": lr, "loss": loss}
    return row | {"validation_accuracy": _validate(plan, learner, clips, world) if world.first else None}


def _validate(plan: Plan, learner: Learner, clips: Clips, world: World) -> float:
    judged = build(plan.spec, len(clips.classes))
    judged.load_state_dict(learner.weights())
    found = accuracies(judged, clips.validation, clips.classes, size=plan.size, device=world.device)
    return found.top1.value


def _save(out: Path, plan: Plan, learner: Learner, clips: Clips, progress: _Progress, steps: int) -> None:
    write_saved(out / FILE, _saved(plan, learner, clips, progress, steps))
    write_whole(out / LOG, log_text(progress.log))


def _saved(plan: Plan, learner: Learner, clips: Clips, progress: _Progress, steps: int) -> Saved:
    training = learner.state() | {"losses": progress.losses.item()}
    weights = dict(learner.weights())
    return Saved(weights, plan, clips.classes, clips.card, progress.done, steps, progress.log, training=training)
