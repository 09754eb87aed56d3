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
import heapq
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from samplers import CONTESTANTS, SPACE, question, replayed, true_scales, worth
from surrogate import Surrogate, fit
from table import read_table

from uniformer_bench.search.driver import Before, Means, Search
from uniformer_bench.search.evaluate import Result, Task
from uniformer_bench.search.finalists import Finalists
from uniformer_bench.search.study import Study

SIZES = ((2, 200), (10, 200), (100, 500), (1000, 2000))  # workers, and trials: at least two for each worker
DEFAULT = CONTESTANTS[-1]
COLUMNS = {"workers": 8, "trials": 8, "hours": 8, "busy": 10, "driver": 10, "ms/trial": 10, "front": 10, "of two": 10}


class Fleet:
    """Workers that answer by the surrogate, on a clock that the driver's own work moves too. Does as LocalExecutor."""

    def __init__(self, surrogate: Surrogate, workers: int, times: float) -> None:
        self.now = self.worked_s = self.driver_s = 0.0
        self._surrogate, self._workers, self._times = surrogate, workers, times
        self._at_work: list[tuple[float, int, int, Result]] = []
        self._order, self._mark = itertools.count(), time.process_time()

    @property
    def free(self) -> int:
        return self._workers - len(self._at_work)

    def submit(self, number: int, task: Task) -> None:
        """Begins a trial, whose end is known at once and told in its time."""
        self._charge()
        result = replayed(self._surrogate, task)
        took_s = self._times * sum(result.seconds.values())
        self.worked_s += took_s
        heapq.heappush(self._at_work, (self.now + took_s, next(self._order), number, result))
        self._mark = time.process_time()

    def finished(self, wait_s: float) -> list[tuple[int, Result]]:
        """All trials that have ended while the driver was busy, or the one that ends next."""
        self._charge()
        self.now = max(self.now, self._at_work[0][0])
        ended = []
        while self._at_work and self._at_work[0][0] <= self.now:
            ended.append(heapq.heappop(self._at_work))
        return [(number, result) for _, _, number, result in ended]

    def stop(self) -> list[int]:
        return [number for _, _, number, _ in self._at_work]

    def _charge(self) -> None:
        now = time.process_time()
        self.now, self.driver_s, self._mark = self.now + now - self._mark, self.driver_s + now - self._mark, now


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
    with tempfile.TemporaryDirectory() as folder:
        study = Study(f"sqlite:///{folder}/study.db", "fleet", SPACE.objectives, DEFAULT.sampler, seed)
        study.enqueue(SPACE.baseline_picks())
        search = Search(
            question(SPACE, DEFAULT.sampler, seed),
            Means(("cpu",) * workers, 1, Path(folder), Path(folder), trials, None, None),
            study,
            Before(0.0, {}, Finalists([], None)),
            clock=lambda: fleet.now,
        )
        search._loop(fleet, lambda now: None)
    true = worth(search.records, fleet.now, surrogate, true_scales(surrogate)).true
    busy, driver = fleet.worked_s / (workers * fleet.now), fleet.driver_s / fleet.now
    return Simulated(workers, trials, fleet.now / 3600, busy, driver, 1000 * fleet.driver_s / trials, true)


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
    print(
        f"{'workers':>8}{'trials':>8}{'hours':>8}{'busy':>10}{'driver':>10}{'ms/trial':>10}{'front':>10}{'of two':>10}"
    )
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
