"""What a stock Optuna script finds in the time of a search: both run for real, compared over wall-clock.

    python benchmarks/naive.py DIR --trials 200             two processes on one SQLite study; may be stopped
    python benchmarks/naive.py DIR --compare RUN            afterwards, alone on the machine: 0.5 s an architecture

The loop: Optuna's multi-objective TPE as it comes, the reference operators, every trial trained in full by the same
space, recipe and clips, its latency timed as one would, ten passes after three, beside whatever the other process does.
The space's limits are not asked of it.
A row is written when a trial ends. RUN is a finished run of `ubench search` on the same machine.

Compared is what both handed out by a time: the hypervolume of accuracy as their one training gave it, against latency
measured again by one protocol for all (fast operators, alone), and against MACs. Its axes are the baselines' of RUN.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from table import append, latency, read_lines

from uniformer_bench.data import load_clips
from uniformer_bench.data.clips import Clips
from uniformer_bench.measure.accuracy import accuracy
from uniformer_bench.measure.protocol import Protocol, default_threads
from uniformer_bench.model import build, clips_like
from uniformer_bench.runs import load_records
from uniformer_bench.search.axes import hypervolume_of, scales_of
from uniformer_bench.search.feasible import closed_form_metrics, cost_of
from uniformer_bench.search.pareto import Scale
from uniformer_bench.search.run_files import as_searched
from uniformer_bench.search.study import optuna_pick
from uniformer_bench.space import Candidate, Space, stored_pick
from uniformer_bench.space_file import load_space
from uniformer_bench.train import ShortRun, to_input

PROCESSES = 2
ROWS, LATENCIES = "naive.jsonl", "latency.jsonl"
COSTS = ("latency", "macs")
PARTS = 10  # times at which the two are compared
Row = Mapping[str, Any]


# ---------------------------------------------------------------- the loop


def loop(folder: Path, trials: int, seed: int, begun: float) -> None:
    """One process of the loop, of so many trials."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = load_space("tiny")
    clips = load_clips("builtin", space.data.frames, space.data.size, 0, None)
    study = optuna.load_study(
        study_name="naive", storage=f"sqlite:///{folder}/study.db", sampler=optuna.samplers.TPESampler(seed=seed)
    )

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        candidate = space.candidate(optuna_pick(trial))
        found = evaluated(candidate, space, clips)
        row = {"params": trial.params, "finished_s": time.time() - begun, **found}
        with (folder / ROWS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        return found["accuracy"], found["latency"]

    study.optimize(objective, n_trials=trials)


def evaluated(candidate: Candidate, space: Space, clips: Clips) -> dict[str, float]:
    """Accuracy of a full short run on the reference operators, and a latency in milliseconds."""
    model = build(candidate.trained, len(clips.classes), "reference")
    run = ShortRun(model, clips.train, space.recipe, device="cpu", seed=0)
    run.advance(run.steps)
    right = 0.0 if run.diverged else accuracy(model, clips.validation, to_input=to_input, device="cpu").value
    return {"accuracy": right, "latency": plain_latency_ms(model, candidate, space)}


def plain_latency_ms(model: torch.nn.Module, candidate: Candidate, space: Space) -> float:
    """The median of ten passes after three."""
    at, times = space.input, list[float]()
    clips = clips_like(candidate.trained, at.batch, at.frames, at.size)
    with torch.no_grad():
        for _ in range(13):
            begun = time.perf_counter()
            model.eval()(clips)
            times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[3:])


def run_loop(folder: Path, trials: int, seed: int) -> None:
    """Both processes, from a new study to the end."""
    folder.mkdir(parents=True)  # refuses to mix two loops: their clocks differ
    storage, begun = f"sqlite:///{folder}/study.db", time.time()
    optuna.create_study(study_name="naive", storage=storage, directions=["maximize", "minimize"])
    context = multiprocessing.get_context("spawn")
    each = trials // PROCESSES
    workers = [context.Process(target=loop, args=(folder, each, seed + i, begun)) for i in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


# ---------------------------------------------------------------- the comparison


def read_loop(folder: Path, space: Space, classes: int) -> list[Row]:
    """The loop's trials, as records of a search have them."""
    rows = read_lines(folder / ROWS)
    return [_row(space, classes, row["params"], row["finished_s"], row["accuracy"], None) for row in rows]


def read_search(run: Path, space: Space, classes: int) -> list[Row]:
    """What a search trained to its end, as the search itself saw it."""
    found = load_records(run)
    trials = as_searched(found.trials, found.info.get("finalists", []))  # not the means over the finalists' seeds
    ended = [r for r in trials if r["state"] == "complete"]
    return [_row(space, classes, r["params"], r["finished_s"], r["metrics"]["accuracy"], r["baseline"]) for r in ended]


def _row(
    space: Space, classes: int, params: Mapping[str, Any], at_s: float, right: float, baseline: str | None
) -> dict[str, Any]:
    candidate = space.candidate(stored_pick(params))
    macs = closed_form_metrics(cost_of(candidate, space, classes))["macs"]
    metrics = {"accuracy": right, "macs": macs}
    return {
        "state": "complete", "candidate": candidate, "finished_s": at_s, "metrics": metrics, "baseline": baseline
    }  # fmt: skip


def with_latency(rows: Sequence[Row], folder: Path, space: Space, classes: int) -> list[Row]:
    """The rows with the latency of their architectures, measured where it has not been before."""
    path, threads, at = folder / LATENCIES, default_threads(), space.input
    torch.set_num_threads(threads)
    protocol = Protocol(device="cpu", frames=at.frames, size=at.size, batch=at.batch, threads=threads)
    specs = {row["candidate"].spec.id: row["candidate"] for row in rows}
    append(path, [(key, 0) for key in specs], lambda key, seed: latency(specs[key], protocol, classes, seed))
    timed = {line["index"]: line["latency_ms"] for line in read_lines(path)}
    return [{**r, "metrics": r["metrics"] | {"latency": timed[r["candidate"].spec.id]}} for r in rows]


def volume_at(rows: Sequence[Row], at_s: float, objectives: Sequence[str], scales: Mapping[str, Scale]) -> float:
    """The hypervolume of what had ended by then."""
    return hypervolume_of([row for row in rows if row["finished_s"] <= at_s], objectives, scales)


def reached_s(
    rows: Sequence[Row], level: float, objectives: Sequence[str], scales: Mapping[str, Scale]
) -> float | None:
    """When the hypervolume first was this much; None if never."""
    times = sorted(row["finished_s"] for row in rows)
    return next((at for at in times if volume_at(rows, at, objectives, scales) >= level), None)


def overtaken(
    loop_rows: Sequence[Row], search_rows: Sequence[Row], objectives: Sequence[str], scales: Mapping[str, Scale]
) -> tuple[float, float | None]:
    """When the loop first had what it ended with, and when the search had as much; None if never."""
    last = volume_at(loop_rows, math.inf, objectives, scales)
    first, there = (reached_s(rows, last, objectives, scales) for rows in (loop_rows, search_rows))
    assert first is not None, "the loop reaches its own end"
    return first, there


def lines(loop_rows: Sequence[Row], search_rows: Sequence[Row], cost: str, classes: int) -> list[str]:
    """The hypervolume of both over time, and when one had what the other ended with."""
    objectives = ("accuracy", cost)
    scales = scales_of([row for row in search_rows if row["baseline"]], objectives, classes)
    ends = [max(row["finished_s"] for row in rows) for rows in (loop_rows, search_rows)]
    out = [f"\naccuracy and {cost}", f"{'seconds':>8}{'loop':>9}{'search':>9}"]
    for part in range(1, PARTS + 1):
        at = max(ends) * part / PARTS
        found = [volume_at(rows, at, objectives, scales) for rows in (loop_rows, search_rows)]
        out.append(f"{at:8.0f}{found[0]:9.4f}{found[1]:9.4f}")
    first, there = overtaken(loop_rows, search_rows, objectives, scales)
    if there is None:
        return [*out, f"the search never had what the loop had after {ends[0]:.0f} s"]
    return [
        *out,
        f"what the loop had after {first:.0f} s the search had after {there:.0f} s: {there / first:.2f} of the time",
    ]


def compare(folder: Path, run: Path) -> None:
    """Prints the comparison over both costs."""
    space = load_space("tiny")
    classes = len(load_clips("builtin", space.data.frames, space.data.size, 0, None).classes)
    both = [read_loop(folder, space, classes), read_search(run, space, classes)]
    looped, searched = (with_latency(rows, folder, space, classes) for rows in both)
    print(f"{len(looped)} trials of the loop; of the search, {len(searched)} trained to the end")
    for cost in COSTS:
        print("\n".join(lines(looped, searched, cost, classes)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", type=Path, metavar="RUN", help="a run of `ubench search` to compare with")
    given = parser.parse_args()
    if given.compare:
        compare(given.folder, given.compare)
    else:
        run_loop(given.folder, given.trials, given.seed)
