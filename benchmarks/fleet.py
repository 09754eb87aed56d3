"""How far one driver reaches: the search's own, asked and told by a simulated fleet of workers.

    python benchmarks/fleet.py results/2026-11-23_tiny_table/table.csv --times 100      about 10 minutes on one core

Driver, sampler, study and rungs are those of `ubench search`, and what they take of processor time is charged to the
clock as it is taken, one call after the other. Workers are replayed: they answer by the surrogate of the tiny space
(benchmarks/surrogate.py, made of real runs) and take the seconds that it says, or --times as many, as of a space whose
trials take longer. Nothing else is modelled: no network, no disk that waits, no worker that dies.

Shown by size of the fleet: how much of it was busy, how much of the time the driver was, what it took for a trial, and
the hypervolume of the front at what its members are truly worth, beside that of two workers after as many trials:
what is lost by deciding before the others have answered.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from samplers import CONTESTANTS, Replay, searching, true_scales, worth
from surrogate import Surrogate, fit
from table import read_table

from uniformer_bench.search.evaluate import Result, Task

SIZES = ((2, 200), (10, 200), (100, 500), (1000, 2000))  # workers, and trials: at least two for each worker
DEFAULT = CONTESTANTS[-1]
COLUMNS = {"workers": 8, "trials": 8, "hours": 8, "busy": 10, "driver": 10, "ms/trial": 10, "front": 10, "of two": 10}


class Fleet:
    """Replayed workers, on whose clock the driver's own work goes too. Does as LocalExecutor."""

    def __init__(self, surrogate: Surrogate, workers: int, times: float) -> None:
        self.replay, self.driver_s, self._mark = Replay(surrogate, workers, times), 0.0, time.process_time()

    @property
    def free(self) -> int:
        return self.replay.free

    def submit(self, number: int, task: Task) -> None:
        """Begins a trial; to find out what it comes to costs the driver nothing."""
        self._charge()
        self.replay.submit(number, task)
        self._mark = time.process_time()

    def finished(self, wait_s: float) -> list[tuple[int, Result]]:
        """All trials that have ended while the driver was busy, or the one that ends next."""
        self._charge()
        return self.replay.finished(wait_s)

    def stop(self) -> list[int]:
        return self.replay.stop()

    def _charge(self) -> None:
        now = time.process_time()
        took_s, self._mark = now - self._mark, now
        self.driver_s += took_s
        self.replay.now += took_s


class Simulated(NamedTuple):
    """What a search of so many trials came to."""

    workers: int
    trials: int
    hours: float
    busy: float  # share of the workers' time
    driver: float  # share of the time in which the driver computed
    driver_ms: float  # for a trial
    true: float  # hypervolume


def simulated(surrogate: Surrogate, workers: int, trials: int, times: float, seed: int) -> Simulated:
    """A whole search, without its finalists."""
    fleet = Fleet(surrogate, workers, times)
    replay = fleet.replay
    with searching(DEFAULT, seed, clock=lambda: replay.now, workers=workers, trials=trials) as search:
        search._loop(fleet, lambda now: None)
    true = worth(search.records, replay.now, surrogate, true_scales(surrogate)).true
    busy, driver = replay.worked_s / (workers * replay.now), fleet.driver_s / replay.now
    return Simulated(workers, trials, replay.now / 3600, busy, driver, 1000 * fleet.driver_s / trials, true)


def line(rows: Sequence[Simulated], beside: Sequence[float]) -> str:
    """The means over seeds of one size of the fleet."""
    mean = {name: statistics.mean(getattr(row, name) for row in rows) for name in Simulated._fields}
    return (
        f"{mean['workers']:8.0f}{mean['trials']:8.0f}{mean['hours']:8.2f}{100 * mean['busy']:8.0f} %"
        f"{100 * mean['driver']:8.0f} %{mean['driver_ms']:10.0f}{mean['true']:10.4f}{statistics.mean(beside):10.4f}"
    )


def main(table: Path, times: float, seeds: int) -> None:
    torch.set_num_threads(1)
    surrogate = fit(read_table(table))
    print(f"{times:g} times the seconds of a trial of the tiny space, {seeds} seeds")
    print("".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
    two: dict[int, list[float]] = {}
    for workers, trials in SIZES:
        if trials not in two:
            two[trials] = [simulated(surrogate, 2, trials, times, seed).true for seed in range(seeds)]
        rows = [simulated(surrogate, workers, trials, times, seed) for seed in range(seeds)]
        print(line(rows, two[trials]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--times", type=float, default=1.0, help="how many times as long a trial takes")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.table, arguments.times, arguments.seeds)
