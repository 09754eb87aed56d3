"""The comparison of naive.py over more seeds, replayed: nobody trains, accuracies and seconds are the surrogate's.

    python benchmarks/naive_replay.py TABLE NAIVE RUN --seeds 5      about 10 minutes on one core

TABLE is what the surrogate of the tiny space is fitted to (benchmarks/surrogate.py), NAIVE the folder of a loop that
ran for real and RUN a search that did: they say how many times the surrogate's seconds each takes, on one machine and
day, the reference operators of the loop included; what RUN's donor took goes before the search's first trial. The loop
is Optuna's multi-objective TPE as it comes, two trials at a time, each trained in full; the search is `ubench search`
as benchmarks/samplers.py replays it. Both hold as many.

Compared is what both would hand out by a time: as they saw it themselves, and at what its members are truly worth.
"""

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from naive import PROCESSES, ROWS, overtaken, volume_at
from samplers import CONTESTANTS, LOOK_S, SPACE, search, stock_loop, true_metrics, true_scales
from surrogate import Surrogate, fit
from table import read_lines, read_table

from uniformer_bench.runs import load_records
from uniformer_bench.search.pareto import Scale
from uniformer_bench.search.study import COUNTED
from uniformer_bench.space import stored_pick
from uniformer_bench.spec import ArchSpec

DEFAULT = CONTESTANTS[-1]
Row = Mapping[str, Any]


def loop_times(surrogate: Surrogate, folder: Path) -> float:
    """How many times the surrogate's seconds of a training the real loop took."""
    rows = read_lines(folder / ROWS)
    specs = [SPACE.candidate(stored_pick(row["params"])).trained for row in rows]
    took_s = PROCESSES * max(row["finished_s"] for row in rows)
    return took_s / sum(surrogate.means(spec).seconds(1.0) for spec in specs)


def search_times(surrogate: Surrogate, run: Path) -> float:
    """The same of a search's trials that trained to their end."""
    ended = [record for record in load_records(run).trials if record["state"] == "complete"]
    took_s = sum(record["seconds"]["train"] + record["seconds"]["accuracy"] for record in ended)
    return took_s / sum(surrogate.means(ArchSpec.from_dict(record["spec"])).seconds(1.0) for record in ended)


def donor_s(run: Path) -> float:
    """What the run trained before its first trial, in seconds."""
    donor = load_records(run).info.get("donor")
    return donor["seconds"] if donor else 0.0


def searched(surrogate: Surrogate, trials: int, seed: int, times: float, begun_s: float) -> list[Row]:
    """What the search's first so many trials came to, those that trained to their end, begun at that second."""
    enough_s = 2.0 * trials * (LOOK_S + 2)  # of its own clock
    records = search(DEFAULT, surrogate, seed, enough_s)
    counted = [record for record in records if record["state"] in COUNTED][:trials]
    ended = [record for record in counted if record["state"] == "complete"]
    return [{**record, "finished_s": begun_s + times * record["finished_s"]} for record in ended]


def truly(rows: Sequence[Row], surrogate: Surrogate) -> list[Row]:
    """The rows at what their architectures are worth on average."""
    return [{**row, "metrics": true_metrics(surrogate, row["spec"])} for row in rows]


def share(loop: Sequence[Row], found: Sequence[Row], scales: Mapping[str, Scale]) -> float:
    """The share of the loop's time after which the search had what the loop ended with; endless where it never had."""
    first, there = overtaken(loop, found, SPACE.objectives, scales)
    return math.inf if there is None else there / first


def main(table: Path, folder: Path, run: Path, seeds: int, trials: int) -> None:
    torch.set_num_threads(1)
    surrogate = fit(read_table(table))
    scales, slow, quick = true_scales(surrogate), loop_times(surrogate, folder), search_times(surrogate, run)
    before_s = donor_s(run)
    factors = f"the loop takes {slow:.2f} times the surrogate's seconds, the search {quick:.2f} times"
    factors += f" after {before_s:.0f} s of its donor"
    print(f"{factors}; {trials} trials each")
    shares: dict[str, list[float]] = {"as seen": [], "truly": []}
    for seed in range(seeds):
        loop = stock_loop(surrogate, seed, trials=trials, times=slow, look_s=0.0)
        found = searched(surrogate, trials, seed, quick, before_s)
        pairs = {"as seen": (loop, found), "truly": (truly(loop, surrogate), truly(found, surrogate))}
        for name, (one, other) in pairs.items():
            ends = [volume_at(rows, math.inf, SPACE.objectives, scales) for rows in (one, other)]
            shares[name].append(share(one, other, scales))
            at = f"in {shares[name][-1]:.3f} of the time"
            print(f"seed {seed}, {name:8} loop {ends[0]:.4f}, search {ends[1]:.4f}, {at}", flush=True)
    for name, parts in shares.items():
        middle, low, high = statistics.median(parts), min(parts), max(parts)
        print(f"{name}: median {middle:.3f} of the loop's time, from {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("naive", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=200)
    arguments = parser.parse_args()
    main(arguments.table, arguments.naive, arguments.run, arguments.seeds, arguments.trials)
