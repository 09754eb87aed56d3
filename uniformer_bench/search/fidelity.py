"""Whether a run's short trainings rank as longer ones do: a sample of its trials trained longer, and what agrees.

Nothing but the number of epochs differs: clips, seed and recipe are the run's. Where a search trained a donor, the
longer runs are from nothing, as a pick's training in full is. The test split is not looked at.
Finished trainings are kept in the run's fidelity.json, so that what was stopped goes on from there.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from uniformer_bench.data import load_clips
from uniformer_bench.data.clips import Clips, Split
from uniformer_bench.errors import UbenchError
from uniformer_bench.files import finite, read_text, to_json, write_whole
from uniformer_bench.measure.protocol import check_precision, default_threads, resolve_device, worker_devices
from uniformer_bench.model import build
from uniformer_bench.recipe import Recipe
from uniformer_bench.report import write_report
from uniformer_bench.report.fidelity import correlations
from uniformer_bench.runs import Run, load_records
from uniformer_bench.search.agreement import agreement, equal_cost_bands, stratified, top_share
from uniformer_bench.search.donors import Start, begin, donor_of
from uniformer_bench.search.evaluate import trained_spec
from uniformer_bench.search.executors import Crew
from uniformer_bench.search.proxies import PROXIES
from uniformer_bench.search.retraining import Lesson, Place, Scores, Training, places_of, retrained
from uniformer_bench.search.run_files import as_searched
from uniformer_bench.search.session import only_driver
from uniformer_bench.search.turns import turns_folder
from uniformer_bench.space import Candidate, Space, stored_pick
from uniformer_bench.space_file import parse_space
from uniformer_bench.train import input_of

SCHEMA_VERSION = 1
BANDS, TOP = 3, 0.25

Record = Mapping[str, Any]


class Options(NamedTuple):
    """What a person asks; see `ubench fidelity --help` for each."""

    run: Path
    sample: int
    times: float
    workers: int | None
    seed: int
    device: str
    data: str | None
    cache: Path | None
    reports: Path
    data_options: Mapping[str, Any] = MappingProxyType({})  # more arguments of load_clips


class Point(NamedTuple):
    """A trial of the sample: its record, its accuracy after the longer run (None with a reason), its proxies."""

    record: Record
    long: float | None
    reason: str | None
    proxies: Mapping[str, float | None]


class _Terms(NamedTuple):
    space: Space
    short: Recipe
    long: Recipe
    seed: int
    lesson: Lesson
    places: tuple[Place, ...]


def run_fidelity(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains the sample longer, writes the card into run.json and the page anew; gives what --json prints.

    `say` is told of each training as it ends. Raises UbenchError before any training where something is wrong.
    """
    load_records(options.run)  # says where it is no run, before a lock is made in it
    with only_driver(options.run):
        run = load_records(options.run)
        terms, clips = _terms(run, options)
        records = learnt(as_searched(run.trials, run.info.get("finalists", [])))
        sample = sample_of(records, options.sample, options.seed)
        proxies = [_proxies(record, clips.train, terms) for record in sample]
        longer = _longer(sample, terms, options.run, say)
        found = [
            Point(record, longer[record["number"]].validation, longer[record["number"]].reason, values)
            for record, values in zip(sample, proxies, strict=True)
        ]
        card = card_of(found, seed=options.seed) | {
            "longer": options.times, "short_epochs": terms.short.epochs, "long_epochs": terms.long.epochs,
            "sample_seed": options.seed, "drawn": _drawn(len(sample), len(records)),
        }  # fmt: skip
        write_whole(options.run / "run.json", to_json({**run.info, "fidelity": card}))
        page = write_report(options.run, options.reports)
    return {"schema_version": SCHEMA_VERSION, "run": str(options.run), "report": str(page), "fidelity": card}


def learnt(records: Sequence[Record]) -> list[Record]:
    """The complete trials with an accuracy. Raises UbenchError where none is."""
    found = [r for r in records if r["state"] == "complete" and r["metrics"].get("accuracy") is not None]
    if not found:
        raise UbenchError("a run's fidelity needs complete trials with an accuracy, got none")
    return found


def sample_of(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """So many of these trials, over the range of MACs."""
    return [records[i] for i in stratified([record["metrics"]["macs"] for record in records], size, seed)]


def _drawn(size: int, of: int) -> str:
    """How the sample was drawn, for a person."""
    return f"all {of} complete trials" if size == of else f"{size} of {of} complete trials, evenly over log MACs"


def card_of(found: Sequence[Point], *, seed: int) -> dict[str, Any]:
    """What agrees with the longer run's accuracy, as report.fidelity reads it; `seed` is the bootstrap's."""
    kept = [point for point in found if point.long is not None]
    long = [point.long for point in kept]
    short, macs, params = ([p.record["metrics"][key] for p in kept] for key in ("accuracy", "macs", "params"))
    top = top_share(short, TOP)
    men: dict[str, list[Any]] = {"parameters": params, "MACs": macs}
    men |= {name: [point.proxies.get(name) for point in kept] for name, _ in PROXIES}
    card = agreement(short, long, seed=seed) | {
        f"inside {BANDS} bands of equal MACs": agreement(short, long, seed=seed, bands=equal_cost_bands(macs, BANDS)),
        "top quarter by short accuracy": agreement([short[i] for i in top], [long[i] for i in top], seed=seed),
        "rungs": _rungs(kept, seed),
        "straw men": {name: agreement(values, long, seed=seed) for name, values in men.items()},
        "points": [{"trial": p.record["number"], "short": p.record["metrics"]["accuracy"], "long": p.long}
                   for p in kept],
    }  # fmt: skip
    return card | {"warnings": [*_lost(found), *_doubts(card)]}


def _rungs(kept: Sequence[Point], seed: int) -> list[dict[str, Any]]:
    """The agreement of the loss at each rung (less is better), over the trials that have it."""
    losses = [{rung["epochs"]: rung["loss"] for rung in point.record.get("rungs") or []} for point in kept]
    long = [point.long for point in kept]
    return [
        {"name": f"loss after {epochs:.3g} epochs"}
        | agreement([-own[epochs] if epochs in own else None for own in losses], long, seed=seed)
        for epochs in sorted({epochs for own in losses for epochs in own})
    ]


def _lost(found: Sequence[Point]) -> list[str]:
    lost = [point for point in found if point.long is None]
    named = "; ".join(f"trial {point.record['number']}: {point.reason}" for point in lost[:3])
    return [f"{len(lost)} of {len(found)} longer runs came to no accuracy and are left out ({named})"] if lost else []


def _doubts(card: Mapping[str, Any]) -> list[str]:
    """A sentence for each agreement that may be none, and for each of the short run's that is unknown."""
    doubts = [
        f"{each.of}: the 95 % interval of tau, {each.low:.2f} to {each.high:.2f}, holds 0: no evidence that it ranks "
        f"as the longer run does"
        for each in correlations(card)
        if each.low is not None and each.high is not None and each.low <= 0 <= each.high
    ]
    named = [("overall", card), *((key, value) for key, value in card.items() if isinstance(value, Mapping))]
    return doubts + [
        f"{name}: tau {'is unknown' if value['tau'] is None else 'has no interval'}, {value['n']} trials: "
        f"{value['reason']}"
        for name, value in named
        if "reason" in value
    ]


def _terms(run: Run, options: Options) -> tuple[_Terms, Clips]:
    info = run.info
    space = parse_space(info["space_text"], str(options.run / "run.json"))
    short = Recipe.from_dict(info["recipe"])
    device = resolve_device(options.device)
    check_precision(device, info["protocol"]["precision"])
    data = _data(info, options)
    clips = load_clips(**data)
    if clips.card["hash"] != info["data"]["hash"]:
        raise UbenchError(
            f"a run's fidelity must be taken on its own clips, got hash {clips.card['hash']} for {data['source']}, "
            f"and the run has {info['data']['hash']}: other files or options, or clips of another version"
        )
    places = places_of(worker_devices(device, options.workers), turns_folder())
    long = replace(short, epochs=short.epochs * options.times)
    protocol = info["protocol"]
    lesson = Lesson(
        len(clips.classes), long, data, protocol["precision"], protocol["implementation"],
        max(1, default_threads() // len(places)), test=False, start=_start(info),
    )  # fmt: skip
    return _Terms(space, short, long, info["seed"], lesson, places), clips


def _start(info: Mapping[str, Any]) -> Start | None:
    """The weights that a person named for the run's trainings. Raises UbenchError where they are no longer there."""
    if "init" not in info:
        return None
    start = Start(Path(info["init"]["path"]), info["init"]["sha256"])
    donor_of(start)
    return start


def _data(info: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The arguments of load_clips for the run's clips. Raises UbenchError where nobody says where they lie."""
    card = info["data"]
    builtin = card.get("kind") == "builtin"
    if not builtin and options.data is None:
        raise UbenchError(f"--data must name the run's clips, {card.get('name')!r}, got none")
    source = "builtin" if builtin else str(Path(str(options.data)).resolve())
    found = {"source": source, "frames": card["frames"], "size": tuple(card["size"]), "seed": card["seed"]}
    return found | {"cache": options.cache} | ({} if builtin else dict(options.data_options))


def _candidate(record: Record, terms: _Terms) -> Candidate:
    """The architecture as the search trained it, which a space may train at another scale than it measures."""
    found = terms.space.candidate(stored_pick(record["params"]))
    return found._replace(trained=trained_spec(found.trained, terms.short))


def _proxies(record: Record, split: Split, terms: _Terms) -> dict[str, float | None]:
    """The proxies from the run's own initialisation, on one batch of training clips drawn by the run's seed."""
    device, lesson = terms.places[0].device, terms.lesson
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(terms.seed))
    index = order[: terms.short.batch].numpy()
    candidate = _candidate(record, terms)
    clips = input_of(candidate.clip)(torch.from_numpy(split.clips[index]).to(device))
    labels = torch.from_numpy(split.labels[index]).to(device)
    torch.manual_seed(terms.seed)
    model = build(candidate.trained, lesson.num_classes, lesson.implementation)
    begin(model, lesson.start)
    model.to(device)
    return {name: finite(proxy(model, clips, labels)) for name, proxy in PROXIES}


def _longer(sample: Sequence[Record], terms: _Terms, run: Path, say: Callable[[str], None]) -> dict[int, Scores]:
    """The scores of the longer runs by trial: those that are kept in the run's folder, and the others trained now."""
    kept = _Kept(run / "fidelity.json", terms.long.epochs)
    times = terms.long.epochs / terms.short.epochs
    asked = [
        Training(r["number"], each.trained, terms.seed, times * r["seconds"].get("train", 0.0), each.clip)
        for r, each in ((record, _candidate(record, terms)) for record in sample)
        if r["number"] not in kept.scores()
    ]

    def keep(trial: int, scores: Scores) -> None:
        kept.add(trial, scores)
        came_to = f"{scores.validation:.1%}" if scores.validation is not None else scores.reason
        say(f"trial {trial}: {came_to} after {terms.long.epochs:.3g} epochs")

    fresh: Mapping[tuple[int, int], Scores] = {}
    if asked:
        with Crew(len(terms.places)) as crew:
            fresh = retrained(
                asked, terms.lesson, terms.places, crew,
                timeout_s=None, left_s=lambda: math.inf, poll=lambda: True, keep=keep,
            ).scores  # fmt: skip
    return kept.scores() | {trial: scores for (trial, _), scores in fresh.items()}


class _Kept:
    """The finished longer runs in a file, written whole after each; those of other lengths lie beside them.

    A run that failed may fail for want of memory alone: it is not kept, and tried again.
    """

    def __init__(self, path: Path, epochs: float) -> None:
        self._path, self._epochs = path, epochs
        self._rows: list[dict[str, Any]] = json.loads(read_text(path))["trainings"] if path.exists() else []

    def scores(self) -> dict[int, Scores]:
        return {row["trial"]: Scores(row["accuracy"]) for row in self._rows if row["epochs"] == self._epochs}

    def add(self, trial: int, scores: Scores) -> None:
        if scores.validation is None:
            return
        self._rows.append({"trial": trial, "epochs": self._epochs, "accuracy": scores.validation})
        write_whole(self._path, to_json({"schema_version": SCHEMA_VERSION, "trainings": self._rows}))
