"""A table of the tiny space: architectures drawn at random, each trained once in full, and their latency.

    python benchmarks/table.py DIR --shard 0/2 &    about 15 s of CPU a row; may be stopped and started again
    python benchmarks/table.py DIR --shard 1/2
    python benchmarks/table.py DIR --latency        afterwards, alone on the machine: 0.5 s an architecture
    python benchmarks/table.py DIR --join           DIR/table.csv, a line a training, all of the above in it

Trained as a search trains (ShortRun, one thread), so that `rung_loss` is what halving would compare. Every architecture
is trained with seed 0; then the first `--again` with the other seeds. Losses are mean training losses: `curve` has them
for each fortieth of the run. Times of training and of the accuracy are of the processor, and know no neighbours.
"""

import argparse
import csv
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from uniformer_bench.cost import Cost
from uniformer_bench.data import load_clips
from uniformer_bench.data.clips import Clips
from uniformer_bench.files import finite, write_whole
from uniformer_bench.measure.accuracy import accuracy
from uniformer_bench.measure.latency import measure_latency
from uniformer_bench.measure.protocol import Protocol, default_threads
from uniformer_bench.metrics import broken_limit
from uniformer_bench.model import build
from uniformer_bench.recipe import Recipe
from uniformer_bench.search.evaluate import LATENCY_BUDGET_S, latency_run
from uniformer_bench.search.feasible import closed_form_metrics, cost_of
from uniformer_bench.search.proposals.candidates import suggestion
from uniformer_bench.space import Candidate, Space, random_pick, stored_pick
from uniformer_bench.space_file import load_space
from uniformer_bench.train import ShortRun, to_input

RUNGS = (0.125, 0.25, 0.5)  # shares of the run at which it is looked at
CURVE = 40  # parts of the run
DIGITS = 5  # of a loss in table.csv


class Drawn(NamedTuple):
    """An architecture, the picks that made it by label, and its cost."""

    candidate: Candidate
    picks: dict[str, Any]
    cost: Cost


def draw(space: Space, classes: int, count: int) -> list[Drawn]:
    """The first so many different architectures that closed forms do not refuse: always the same ones."""
    rng, found = random.Random(1), dict[str, Drawn]()
    while len(found) < count:
        drawn = _draw(space, classes, rng)
        if broken_limit(closed_form_metrics(drawn.cost), space.constraints) is None:
            found.setdefault(drawn.candidate.spec.id, drawn)
    return list(found.values())


def _draw(space: Space, classes: int, rng: random.Random) -> Drawn:
    found = suggestion(space, random_pick(rng))
    assert found is not None, "in this space all values go together"
    return Drawn(found.candidate, found.params, cost_of(found.candidate, space, classes))


def candidate_of(space: Space, picks: Mapping[str, Any]) -> Candidate:
    """The architecture that these picks, by label, make."""
    return space.candidate(stored_pick(picks))


# ---------------------------------------------------------------- a row


def train(candidate: Candidate, clips: Clips, recipe: Recipe, seed: int) -> dict[str, Any]:
    """One full short run and its accuracy on the validation split, None where it diverged."""
    torch.manual_seed(seed)
    model = build(candidate.trained, len(clips.classes))
    run = ShortRun(model, clips.train, recipe, device="cpu", seed=seed)
    begun, rung_loss = time.process_time(), dict[str, float | None]()
    for share in RUNGS:
        run.advance(max(1, round(share * run.steps)))
        rung_loss[str(share)] = finite(run.recent_loss())
    run.advance(run.steps)
    trained = time.process_time()
    right = None if run.diverged else accuracy(model, clips.validation, to_input=to_input, device="cpu").value
    seconds = {"train_cpu_s": trained - begun, "accuracy_cpu_s": time.process_time() - trained}
    return {
        "accuracy": right,
        "diverged": run.diverged,
        "rung_loss": rung_loss,
        "curve": curve([*run.losses[: run.step].tolist(), *[math.nan] * (run.steps - run.step)]),
        **seconds,
    }


def curve(losses: Sequence[float]) -> list[float | None]:
    """The mean of each fortieth of the steps; None from where the loss was not finite."""
    bounds = [round(i * len(losses) / CURVE) for i in range(CURVE + 1)]
    parts = [losses[start:end] for start, end in itertools.pairwise(bounds)]
    return [finite(sum(part) / len(part)) for part in parts if part]


def latency(candidate: Candidate, protocol: Protocol, classes: int, seed: int) -> dict[str, Any]:
    """The latency as a trial of a search has it."""
    torch.manual_seed(seed)
    run, _ = latency_run(build(candidate.spec, classes, protocol.implementation), candidate.spec, protocol)
    found = measure_latency(run, protocol, budget_s=LATENCY_BUDGET_S)
    return {"latency_ms": found.median, "latency_ci95": found.ci95, "warnings": found.warnings}


# ---------------------------------------------------------------- files


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file with one as JSON a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Every row of the shards, in the order of the architectures; of a row that stands twice the later."""
    rows = [row for path in sorted(folder.glob(f"{kind}_*.jsonl")) for row in read_lines(path)]
    found = {(row["seed"], row["index"]): row for row in rows}
    return [found[key] for key in sorted(found)]


def join(folder: Path) -> list[dict[str, Any]]:
    """A row a training, with the latency that was measured as often; None where there is none."""
    timed = {(row["seed"], row["index"]): row for row in read_rows(folder, "latency")}
    return [
        row | {"latency_ms": timed.get((row["seed"], row["index"]), {}).get("latency_ms")}
        for row in read_rows(folder, "table")
    ]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file: a column a pick (empty where inactive), the curve as one cell of numbers between blanks."""
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    lines = [columns, *([row.get(key, "") for key in columns] for row in flat)]
    write_whole(path, "".join(",".join(map(str, line)) + "\n" for line in lines))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("index", "seed", "spec_id", "pattern", "params", "macs", "accuracy", "latency_ms")
    picks = {f"pick_{name}": label for name, label in row["picks"].items()}
    rungs = {f"loss_{share}": _short(loss) for share, loss in row["rung_loss"].items()}
    seconds = {key: _short(row[key]) for key in ("train_cpu_s", "accuracy_cpu_s")}
    told = {key: "" if row[key] is None else row[key] for key in kept}
    diverged = {"diverged": (row["diverged"] or "").replace(",", ";")}
    return told | rungs | seconds | diverged | {"curve": " ".join(map(_short, row["curve"]))} | picks


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.{DIGITS}g}"


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of `join`, from what `write_table` wrote."""
    with path.open(newline="") as file:
        return [_unflat(line) for line in csv.DictReader(file)]


def _unflat(line: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {key: int(line[key]) for key in ("index", "seed", "params", "macs")}
    row |= {"spec_id": line["spec_id"], "pattern": line["pattern"], "diverged": line["diverged"] or None}
    row |= {key: _number(line[key]) for key in ("accuracy", "latency_ms", "train_cpu_s", "accuracy_cpu_s")}
    row["rung_loss"] = {str(share): _number(line[f"loss_{share}"]) for share in RUNGS}
    row["curve"] = [_number(value) for value in line["curve"].split()]
    picks = {key.removeprefix("pick_"): label for key, label in line.items() if key.startswith("pick_") and label}
    row["picks"] = {name: int(v) if name.endswith(("depth", "width")) else v for name, v in picks.items()}
    return row


def _number(text: str) -> float | None:
    return None if text in ("", "-") else float(text)


# ---------------------------------------------------------------- the work


def append(path: Path, jobs: Sequence[tuple[Any, int]], work: Callable[[Any, int], Mapping[str, Any]]) -> None:
    """A line a job of (index, seed), but those that stand there."""
    known = {(row["index"], row["seed"]) for row in (read_lines(path) if path.exists() else [])}
    for index, seed in jobs:
        if (index, seed) not in known:
            row = {"index": index, "seed": seed, **work(index, seed)}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def jobs_of(architectures: int, seeds: int, again: int, shard: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """(index, seed): all with seed 0, then the first ones with the others."""
    for seed in range(seeds):
        for index in range(architectures if seed == 0 else min(again, architectures)):
            if index % shard[1] == shard[0]:
                yield index, seed


def main(folder: Path, jobs: Sequence[tuple[int, int]], shard: int, timed: bool) -> None:
    space = load_space("tiny")
    clips = load_clips("builtin", space.data.frames, space.data.size, 0, None)
    classes, threads = len(clips.classes), default_threads() if timed else 1
    torch.set_num_threads(threads)
    drawn = draw(space, classes, 1 + max(index for index, _ in jobs))
    at = space.input
    protocol = Protocol(device="cpu", frames=at.frames, size=at.size, batch=at.batch, threads=threads)

    def time_it(index: int, seed: int) -> dict[str, Any]:
        candidate = drawn[index].candidate
        return {"spec_id": candidate.spec.id, **latency(candidate, protocol, classes, seed)}

    def train_it(index: int, seed: int) -> dict[str, Any]:
        candidate, picks, cost = drawn[index]
        row = {"spec_id": candidate.spec.id, "pattern": candidate.spec.pattern, "picks": picks}
        row |= {"params": cost.params, "macs": cost.macs}
        return row | train(candidate, clips, space.recipe, seed)

    folder.mkdir(parents=True, exist_ok=True)
    append(folder / f"{'latency' if timed else 'table'}_{shard}.jsonl", jobs, time_it if timed else train_it)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--architectures", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3, help="of the first --again architectures")
    parser.add_argument("--again", type=int, default=40, help="how many are trained with every seed")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th architecture, from the i-th")
    parser.add_argument("--latency", action="store_true", help="measure in place of training")
    parser.add_argument("--join", action="store_true", help="write table.csv of what there is")
    given = parser.parse_args()
    if given.join:
        write_table(given.folder / "table.csv", join(given.folder))
    else:
        part, parts = map(int, given.shard.split("/"))
        main(
            given.folder,
            list(jobs_of(given.architectures, given.seeds, given.again, (part, parts))),
            part,
            given.latency,
        )
