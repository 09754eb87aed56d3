"""From what the command line asks for to a plan, and from a plan to a training that is tested."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from uniformer_bench.cost import cost
from uniformer_bench.data import load_clips
from uniformer_bench.data.clips import Clips
from uniformer_bench.data.videos import CACHE_LIMIT_GB, MAX_BAD, Watch
from uniformer_bench.errors import UbenchError
from uniformer_bench.picks import pick_trial
from uniformer_bench.recipe import Recipe
from uniformer_bench.runs import clip_of, load_records
from uniformer_bench.spec import ArchSpec
from uniformer_bench.training.loop import finish, train
from uniformer_bench.training.plan import FROM_SCRATCH_LR, PAPER, SPLIT_SEED, Plan, with_settings
from uniformer_bench.training.saved import FILE, Saved, read_saved
from uniformer_bench.training.testing import ONE_VIEW, Accuracies, Views, accuracies
from uniformer_bench.training.world import World, joined_world
from uniformer_bench.variants import find_variant

SCHEMA_VERSION = 1

Told = Callable[[str], None]


class Loading(NamedTuple):
    """How clips are loaded: their cache and its limit, the share that may be left out, and who is told how it goes."""

    cache: Path | None = None
    cache_limit_gb: float = CACHE_LIMIT_GB
    max_bad: float = MAX_BAD
    watch: Watch | None = None


LOADING = Loading()


class Subject(NamedTuple):
    """An architecture to train, the clip it is for, and the recipe that suits it."""

    spec: ArchSpec
    frames: int
    size: tuple[int, int]
    recipe: Recipe


def subject_of(
    *, variant: str | None, spec: Path | None, run: Path | None, trial: int | None, limits: Mapping[str, float]
) -> Subject:
    """The one of the three that is given.

    A pick of a run keeps the run's rate, batch, weight decay and mirroring, which the search has tried; else they are
    the paper's, at a rate for training from nothing. Raises UbenchError where none or several are given.
    """
    if sum(given is not None for given in (variant, spec, run)) != 1:
        raise UbenchError("one of --variant, --spec and --run must be given")
    if run is None and (trial is not None or limits):
        raise UbenchError("--trial and limits choose from a run: name it with --run")
    if run is not None:
        found = load_records(run)
        record = pick_trial(found, trial, limits)
        return Subject(ArchSpec.from_dict(record["spec"]), *clip_of(found.info, record), _recipe_of(found.info))
    scratch = replace(PAPER, lr=FROM_SCRATCH_LR)
    if variant is not None:
        row = find_variant(variant)
        return Subject(row.spec, row.frames, (row.size, row.size), scratch)
    return Subject(ArchSpec.load(str(spec)), 16, (224, 224), scratch)


def _recipe_of(info: Mapping[str, Any]) -> Recipe:
    kept = {key: info["recipe"][key] for key in ("lr", "batch", "weight_decay", "flip") if key in info["recipe"]}
    return replace(PAPER, **kept)


def make_plan(
    subject: Subject,
    *,
    data: str,
    frames: int | None,
    size: int | None,
    init: Path | None,
    settings: Mapping[str, Any],
    precision: str,
    seed: int,
    data_options: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a subject under `settings` (keys of a recipe and of a plan). Weights to start from bring the
    paper's rate, which is for them."""
    base = subject.recipe
    if init is not None:
        base = replace(base, lr=PAPER.lr * base.batch / PAPER.batch)
    recipe, own = with_settings(base, settings)
    return Plan(
        spec=subject.spec,
        data=data,
        frames=frames or subject.frames,
        size=(size, size) if size else subject.size,
        recipe=recipe,
        precision=precision,
        seed=seed,
        init=str(init) if init else None,
        data_options=data_options or {},
        **own,
    )


def plan_document(plan: Plan, classes: int = 400) -> dict[str, Any]:
    """What a training would be, without data or model: for --dry-run."""
    total = cost(plan.spec, frames=plan.frames, size=plan.size, num_classes=classes)
    return {"schema_version": SCHEMA_VERSION, "plan": plan.to_dict(), "params": total.params, "macs": total.macs}


def run_training(
    plan: Plan,
    out: Path,
    *,
    device: str,
    views: Views = ONE_VIEW,
    loading: Loading = LOADING,
    save_every: int | None = None,
    told: Told = lambda sentence: None,
) -> dict[str, Any] | None:
    """Trains and tests in this process, or in all that torchrun has started; the document of the verb, None in all
    processes but the first."""
    with joined_world(device) as world:
        say = told if world.first else lambda sentence: None
        clips = _load_first_then_others(plan, loading, world)
        saved = train(plan, clips, out, world=world, save_every=save_every, told=lambda r: say(row_text(r)), noted=say)
        if not world.first:
            return None
        if saved.results is None:
            tested = accuracies_of(saved, data=plan.data, views=views, device=world.device, loading=loading)
            results = tested.to_dict() | {"split": "test", "views": str(views)}
            saved = finish(saved, out, results)
        return document_of(saved, out)


def _load_first_then_others(plan: Plan, loading: Loading, world: World) -> Clips:
    """The clips, decoded by the first process and read from its cache by the others."""
    if not world.first:
        dist.barrier()
    clips = _clips(plan, plan.data, 1, loading)
    if world.first and world.size > 1:
        dist.barrier()
    return clips


def _clips(plan: Plan, data: str, moments: int, loading: Loading) -> Clips:
    """The clips of `data` for so many moments; lists and their root are those of the plan's own data."""
    own: Mapping[str, Any] = plan.data_options if data == plan.data else {"stride": plan.stride}
    options: dict[str, Any] = {
        key: Path(value) if key in ("root", "validation") and value else value for key, value in own.items()
    }
    return load_clips(data, plan.frames * moments, plan.read_size, SPLIT_SEED, **loading._asdict(), **options)


def accuracies_of(
    saved: Saved, *, data: str, views: Views, device: str, loading: Loading, split: str = "test"
) -> Accuracies:
    """Tests a training's weights on a split of `data`, the clips of which are dealt as they were for the training.

    Raises UbenchError where the classes are not those it was trained on.
    """
    plan = saved.plan
    clips = _clips(plan, data, views.temporal, loading)
    if clips.classes != saved.classes:
        other = sorted(set(clips.classes) ^ set(saved.classes))
        raise UbenchError(f"the classes must be the {len(saved.classes)} it was trained on, got others: {other[:4]}")
    chosen = {"train": clips.train, "validation": clips.validation, "test": clips.test}[split]
    at: dict[str, Any] = {"size": plan.size, "views": views, "dense": plan.stride > 0}
    return accuracies(saved.build(), chosen, saved.classes, **at, device=device)


def run_test(
    checkpoint: Path, *, data: str | None, views: Views, split: str, device: str, loading: Loading
) -> dict[str, Any]:
    """The document of `ubench test`; `data` None means the clips it was trained on."""
    saved = read_saved(checkpoint)
    source = data or saved.plan.data
    tested = accuracies_of(saved, data=source, views=views, device=device, loading=loading, split=split)
    about = {"schema_version": SCHEMA_VERSION, "checkpoint": str(checkpoint), "spec_id": saved.plan.spec.id}
    return about | {"data": source, "split": split, "views": str(views)} | tested.to_dict()


def document_of(saved: Saved, out: Path) -> dict[str, Any]:
    """The document of `ubench train`."""
    about = {"schema_version": SCHEMA_VERSION, "out": str(out), "checkpoint": str(out / FILE)}
    state = {"spec_id": saved.plan.spec.id, "step": saved.step, "steps": saved.steps, "log": saved.log}
    return about | state | {"plan": saved.plan.to_dict(), "test": saved.results}


def row_text(row: Mapping[str, Any]) -> str:
    """A row of the log for a person."""
    accuracy = row["validation_accuracy"]
    shown = "" if accuracy is None else f"  validation {100 * accuracy:.1f} %"
    return f"epoch {row['epoch']:g}  step {row['step']}  loss {row['loss']:.3f}{shown}  {row['seconds']:.1f} s"


def results_text(results: Mapping[str, Any]) -> str:
    """The test's figures for a person, the whole and by class."""
    names = (("top1", "top-1"), ("top5", "top-5"), ("mean_class", "mean of classes"))
    lines = [f"{results['clips']} clips of the {results['split']} split, {results['views']} views"]
    lines += [f"{label:16}{_percent(results[key])}" for key, label in names]
    lines += [f"  {name:30}{_percent(row)}" for name, row in results["by_class"].items()]
    return "\n".join(lines)


def _percent(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    counted = f", {row['correct']} of {row['total']}" if "total" in row else ""
    return f"{100 * row['value']:5.1f} %  ({100 * low:.1f} to {100 * high:.1f}{counted})"
