"""One measurement at a time: across processes, as workers are."""

import multiprocessing
import time

from uniformer_bench.search.turns import Turns


def _work(folder, events, steps):
    turns = Turns(folder)
    with turns.working():
        for _ in range(steps):
            turns.offer()
            events.put(("step", time.monotonic()))
            time.sleep(0.005)
    turns.close()


def _measure(folder, events):
    turns = Turns(folder)
    with turns.working(), turns.alone():
        events.put(("begin", time.monotonic()))
        time.sleep(0.2)
        events.put(("end", time.monotonic()))
    turns.close()


def test_nobody_steps_while_another_measures(tmp_path):
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    jobs = [context.Process(target=_work, args=(tmp_path, events, 200)) for _ in range(2)]
    jobs += [context.Process(target=_measure, args=(tmp_path, events)) for _ in range(2)]
    for job in jobs:
        job.start()
    found = [events.get(timeout=60) for _ in range(2 * 200 + 4)]
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    found.sort(key=lambda event: event[1])
    names = [name for name, _ in found]
    begins = [i for i, name in enumerate(names) if name == "begin"]
    assert len(begins) == 2
    assert all(names[i + 1] == "end" for i in begins)


def test_a_measurement_that_raises_gives_the_device_back(tmp_path):
    turns = Turns(tmp_path)
    try:
        with turns.working(), turns.alone():
            raise RuntimeError
    except RuntimeError:
        pass
    other = Turns(tmp_path)
    with other.working(), other.alone():
        entered = True
    assert entered
    turns.close()
    other.close()
