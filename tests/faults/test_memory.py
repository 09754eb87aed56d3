"""What a trial took is given back: a worker after twenty trials is no larger than after five."""

import random

import psutil

from tests.faults.searches import SPACE, wait_for
from uniformer_bench.data.digits import CLASSES
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.search.evaluate import Task, evaluate
from uniformer_bench.search.executors import LocalExecutor
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
    executor = LocalExecutor(1, None, trial_and_size)
    data = {"source": "builtin", "frames": 4, "size": (16, 16), "seed": 0, "cache": tmp_path}
    protocol = Protocol(device="cpu", frames=4, size=(16, 16), threads=1)
    for number in range(LATE):
        spec = space.candidate(random_pick(rng)).spec
        task = Task(spec, spec, len(CLASSES), protocol, ("accuracy", "memory"), {}, space.recipe, data, 0, tmp_path, 1)
        executor.submit(number, task)
        wait_for(lambda: ends.extend(executor.finished(0.5)) or executor.free, "a trial's end")
    executor.stop()
    assert {found[0] for _, found in ends} == {"complete"}, ends
    sizes = [size for _, (_, size) in ends]
    print([round(size / 1e6) for size in sizes], "MB")
    assert sizes[-1] - max(sizes[:EARLY]) < MOST_GROWTH
