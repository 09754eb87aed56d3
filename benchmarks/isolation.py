"""What it costs that a trial runs in a worker process: the same trials evaluated in this process and in a worker.

Pairs in turns, so that what this machine does meanwhile hits both alike; the overhead is the median of the pairs'
differences over the median trial. A worker's start is paid once a search and stated by itself.

    python benchmarks/isolation.py [--trials 20] [--space tiny]
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from uniformer_bench.data import load_clips
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.search.evaluate import Result, Task, evaluate, trained_spec
from uniformer_bench.search.executors import Crew, LocalExecutor
from uniformer_bench.search.feasible import sample_candidates
from uniformer_bench.space import Space
from uniformer_bench.space_file import load_space


def tasks_of(space: Space, trials: int, turns: Path) -> list[Task]:
    data = {"source": "builtin", "frames": space.data.frames, "size": space.data.size, "seed": 0, "cache": None}
    classes = len(load_clips(**data).classes)
    shape = {"batch": space.input.batch, "frames": space.input.frames, "size": space.input.size}
    protocol = Protocol(device="cpu", threads=1, **shape)
    return [
        Task(
            spec=candidate.spec,
            trained=trained_spec(candidate.trained, space.recipe),
            num_classes=classes,
            protocol=protocol,
            measure=space.measure,
            constraints={},
            recipe=space.recipe,
            data=data,
            seed=0,
            turns=turns,
            training_threads=1,
        )
        for candidate in sample_candidates(space, trials, seed=0)
    ]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_worker(executor: LocalExecutor[Task, Result], task: Task) -> Result:
    executor.submit(0, task)
    while not (found := executor.finished(60.0)):
        pass
    return found[0][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--space", default="tiny")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as turns:
        tasks = tasks_of(load_space(given.space), given.trials, Path(turns))
        with Crew(1) as crew:
            executor = LocalExecutor(crew, None, evaluate)
            start_s = seconds(lambda: in_worker(executor, tasks[0]))
            evaluate(tasks[0])  # both have loaded and compiled what they need
            pairs = [pair(executor, task, random.Random(i).random() < 0.5) for i, task in enumerate(tasks)]
    here = statistics.median(a for a, _ in pairs)
    extra = [b - a for a, b in pairs]
    low, middle, high = statistics.quantiles(extra, n=4)
    print(f"a worker's start and its first trial: {start_s:.2f} s; a trial in this process: {here:.3f} s")
    print(
        f"in a worker {middle:+.3f} s (quartiles {low:+.3f} to {high:+.3f}) of {len(pairs)} pairs: {middle / here:+.1%}"
    )


def pair(executor: LocalExecutor[Task, Result], task: Task, worker_first: bool) -> tuple[float, float]:
    """Seconds of the task in this process and in the worker."""
    if worker_first:
        there = seconds(lambda: in_worker(executor, task))
        return seconds(lambda: evaluate(task)), there
    return seconds(lambda: evaluate(task)), seconds(lambda: in_worker(executor, task))


if __name__ == "__main__":
    main()
