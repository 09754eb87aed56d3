"""Where the time of a search went, and how much of it no machine of this kind can spare.

    python benchmarks/phases.py results/2026-11-23_tiny_cpu_fp32       seconds

Worker seconds by phase out of the run's files, of the search and of its end. Beside the training stands what its
arithmetic would take at the rate of this machine's fastest matrix product on one thread, which a worker has: three
times the forward pass's MACs for every clip that was trained on, the closed form's. Run it where the run was made.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.measure.roofline import ceilings
from uniformer_bench.recipe import Recipe
from uniformer_bench.report.info import phases, read_trials
from uniformer_bench.runs import Record, Run, load_records

BACKWARD = 3  # times the forward pass: once for it, once each for the gradients of weights and of inputs


class Phase(NamedTuple):
    """Worker seconds of a phase, and the least that its work would take; None where nobody knows."""

    name: str
    seconds: float
    least_s: float | None = None


def trained_share(record: Record) -> float:
    """How much of its short run a trial was trained."""
    return 1.0 if record["state"] == "complete" else max((rung["share"] for rung in record["rungs"]), default=0.0)


def training_flops(run: Run) -> float:
    """FLOPs of all short runs of the search. Raises UbenchError where other clips are trained on than are measured."""
    if any(run.info["input"][key] != run.info["data"][key] for key in ("frames", "size")):
        raise UbenchError("a run must train on the clips that it measures, got others: its MACs are of those")
    recipe = Recipe.from_dict(run.info["recipe"])
    clips = recipe.steps(run.info["data"]["counts"]["train"]) * recipe.batch
    return sum(2 * BACKWARD * clips * trained_share(r) * r["metrics"].get("macs", 0) for r in run.trials)


def phases_of(run: Run, workers: int, flops_per_s: float) -> list[Phase]:
    """All worker seconds from the start of the search to its end."""
    ended_s = max(record["finished_s"] for record in run.trials)
    known = dict(phases(read_trials(run.trials)))
    found = [
        Phase(name, s, training_flops(run) / flops_per_s if name == "train" else None) for name, s in known.items()
    ]
    donor_s = workers * run.info.get("donor", {}).get("seconds", 0.0)  # on the cores of all
    waited_s = workers * ended_s - sum(known.values()) - donor_s
    final_s = workers * (run.info["elapsed_s"] - ended_s)
    return [Phase("donor", donor_s), *found, Phase("wait or start", waited_s), Phase("finalists", final_s)]


def table(found: Sequence[Phase]) -> str:
    """The phases, the longest first."""
    total = sum(phase.seconds for phase in found)
    lines = [f"{'phase':16}{'worker s':>10}{'share':>8}{'least s':>10}"]
    for phase in sorted(found, key=lambda phase: -phase.seconds):
        least = "" if phase.least_s is None else f"{phase.least_s:.0f}"
        lines.append(f"{phase.name:16}{phase.seconds:>10.0f}{100 * phase.seconds / total:>6.0f} %{least:>10}")
    return "\n".join(lines)


def verdict(found: Sequence[Phase], info: dict[str, Any]) -> str:
    """What is left to win."""
    total = sum(phase.seconds for phase in found)
    sentences = [
        f"{phase.name}: at the matrix product's rate it would take {phase.least_s / phase.seconds:.0%} of its time, "
        f"and the search {(phase.seconds - phase.least_s) / total:.0%} less"
        for phase in found
        if phase.least_s is not None and phase.seconds
    ]
    driver = info.get("driver_cpu_s")
    sentences += [f"the driver took {driver:.0f} s of processor time, {driver / total:.1%}"] if driver else []
    return "\n".join(sentences)


def main(folder: Path, workers: int) -> None:
    run = load_records(folder)
    with thread_count(1):
        measured = ceilings(Protocol(device="cpu", frames=8, size=32, precision=run.info["protocol"]["precision"]))
    found = phases_of(run, workers, measured.flops_per_s)
    rate = f"{measured.flops_per_s / 1e9:.0f} GFLOP/s on one thread"
    print(f"{folder.name}: {run.info['elapsed_s']:.0f} s, {workers} workers; {rate}")
    print(table(found))
    print(verdict(found, run.info))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, default=2, help="that the search had, one thread each")
    arguments = parser.parse_args()
    main(arguments.run, arguments.workers)
