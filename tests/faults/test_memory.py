"""What a trial took is given back: a worker after twenty trials is no larger than after five."""

import random

import psutil

from tests.faults.searches import SPACE, wait_for
from uniformer_bench.data.digits import CLASSES
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.search.evaluate import Task, evaluate
from uniformer_bench.search.executors import Crew, LocalExecutor
from uniformer_bench.space import random_pick
from uniformer_bench.space_file import parse_space

EARLY, LATE = 5, 20
MOST_GROWTH = 16 << 20  # bytes: what an allocator keeps for itself; a model and its clips are more, fifteen times over


def trial_and_size(task):
    """A trial, and what the worker's memory comes to after it."""
    found = evaluate(task)
    return found.state, psutil.Process().memory_full_info().uss


def test_a_worker_does_not_grow_from_trial_to_trial(tmp_path):
    space, rng, ends = parse_space(SPACE, "here"), random.Random(0), []
    data = {"source": "builtin", "frames": 4, "size": (16, 16), "seed": 0, "cache": tmp_path}
    protocol = Protocol(device="cpu", frames=4, size=(16, 16), threads=1)
    with Crew(1) as crew:
        executor = LocalExecutor(crew, None, trial_and_size)
        for number in range(LATE):
            spec = space.candidate(random_pick(rng)).spec
            measure = ("accuracy", "memory")
            task = Task(spec, spec, len(CLASSES), protocol, measure, {}, space.recipe, data, 0, tmp_path, 1)
            executor.submit(number, task)
            wait_for(lambda: ends.extend(executor.finished(0.5)) or executor.free, "a trial's end")
    assert {found[0] for _, found in ends} == {"complete"}, ends
    sizes = [size for _, (_, size) in ends]
    print([round(size / 1e6) for size in sizes], "MB")
    assert sizes[-1] - max(sizes[:EARLY]) < MOST_GROWTH
