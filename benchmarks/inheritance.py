"""What a search gains from weights to start from: accuracy and Kendall's tau of short runs with and without them.

    ubench train --spec SPEC --data builtin --out DONOR          an architecture wider and deeper than the space's
    python benchmarks/inheritance.py RUN DONOR/checkpoint.pt     about 7 minutes on 2 cores; or a run's own donor.pt

RUN is a search whose `ubench fidelity` has trained a sample longer, from nothing: that is what the short runs are to
predict. Each architecture of the sample is trained from a seed that the search did not use, from nothing and from the
weights, for the whole of the short run and for half of its steps, each under a schedule that ends with it. Intervals
are over architectures, of differences paired by architecture; those of tau by bootstrap.
"""

import argparse
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from samplers import interval

from uniformer_bench.data import load_clips
from uniformer_bench.errors import UbenchError
from uniformer_bench.files import to_json, write_whole
from uniformer_bench.measure.protocol import worker_devices
from uniformer_bench.recipe import Recipe
from uniformer_bench.runs import Run, load_records
from uniformer_bench.search.agreement import agreement
from uniformer_bench.search.donors import Start, start_from
from uniformer_bench.search.evaluate import trained_spec
from uniformer_bench.search.executors import Crew
from uniformer_bench.search.retraining import Lesson, Training, places_of, retrained
from uniformer_bench.search.turns import turns_folder
from uniformer_bench.space import stored_pick
from uniformer_bench.space_file import parse_space


class Arm(NamedTuple):
    """A way to train: the share of the short run's steps, and what it starts from."""

    name: str
    share: float
    inherits: bool


WHOLE = Arm("from nothing", 1.0, False)
ARMS = (WHOLE, Arm("from nothing, half", 0.5, False), Arm("inherited, half", 0.5, True), Arm("inherited", 1.0, True))


def trained(run: Run, arm: Arm, start: Start) -> dict[int, float]:
    """Accuracy on the validation split by trial, of the trials that the run's card has."""
    info, space = run.info, parse_space(run.info["space_text"], "the run")
    recipe = Recipe.from_dict(info["recipe"])
    data = {"source": "builtin", "frames": space.data.frames, "size": space.data.size, "seed": 0, "cache": None}
    lesson = Lesson(
        len(load_clips(**data).classes), replace(recipe, epochs=recipe.epochs * arm.share), data,
        info["protocol"]["precision"], "fast", 1, test=False, start=start if arm.inherits else None,
    )  # fmt: skip
    wanted = {point["trial"] for point in info["fidelity"]["points"]}
    sample = {r["number"]: space.candidate(stored_pick(r["params"])) for r in run.trials if r["number"] in wanted}
    seed = info["seed"] + 1
    asked = [
        Training(number, trained_spec(each.trained, recipe), seed, 0.0, each.clip) for number, each in sample.items()
    ]
    places = places_of(worker_devices("cpu", None), turns_folder())
    with Crew(len(places)) as crew:
        found = retrained(asked, lesson, places, crew, timeout_s=None, left_s=lambda: math.inf, poll=lambda: True)
    return {trial: each.validation for (trial, _), each in found.scores.items() if each.validation is not None}


def lines(rows: dict[str, dict[int, float]], longer: dict[int, float]) -> list[str]:
    """By arm: mean accuracy, what it has more than the whole run from nothing, and how it ranks the longer runs."""
    trials = sorted(set(longer).intersection(*rows.values()))
    out = [
        f"{len(trials)} architectures",
        f"{'':20}{'accuracy':>9}{'more than from nothing':>25}   tau with the longer",
    ]
    whole = rows[WHOLE.name]
    for name, found in rows.items():
        more, half = interval([found[trial] - whole[trial] for trial in trials])
        beside = "" if found is whole else f"{100 * more:+.1f} ± {100 * half:.1f} points"
        card = agreement([found[trial] for trial in trials], [longer[trial] for trial in trials], seed=0)
        mean = statistics.mean(found[trial] for trial in trials)
        out.append(f"{name:20}{100 * mean:8.1f} %{beside:>24}   {_tau(card)}")
    return out


def _tau(card: dict[str, Any]) -> str:
    low, high = card["ci95"] or (math.nan, math.nan)
    return f"{card['tau']:+.2f} ({low:+.2f} to {high:+.2f})"


def main(folder: Path, weights: Path, out: Path | None) -> None:
    run, start = load_records(folder), start_from(weights)
    if "fidelity" not in run.info:
        raise UbenchError(f"{folder} must have longer runs to compare with, got none: ubench fidelity {folder}")
    longer = {point["trial"]: point["long"] for point in run.info["fidelity"]["points"]}
    rows: dict[str, dict[int, float]] = {}
    for arm in ARMS:
        rows[arm.name] = trained(run, arm, start)
        print(f"{arm.name}: {len(rows[arm.name])} trained", flush=True)
    if out:
        write_whole(out, to_json({"longer": longer, **rows}))
    print("\n".join(lines(rows, longer)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, help="JSON of every accuracy")
    arguments = parser.parse_args()
    main(arguments.run, arguments.weights, arguments.out)
