"""Trials that hang, die, run out of memory or diverge: each is its own end, and the others finish in the same run."""

import csv
import multiprocessing
import os
import signal

from tests.faults.searches import ended, folder, killed, start, trials_of, wait_for, workers_of
from uniformer_bench.search.executors import Crew, LocalExecutor

__all__ = ["folder"]
FAULTS = {"3": "hang", "5": "segfault", "8": "exit", "11": "memory", "14": "nan"}
EXPECTED = {
    "3": ("timeout", "a trial must end within 12 s, and this did not"),
    "5": ("crashed", "the worker was ended by SIGSEGV"),
    "8": ("crashed", "the worker ended with exit code 7"),
    "11": ("oom", "memory must suffice, got "),
    "14": ("diverged", "loss must stay finite, got "),
}


def test_five_faults_end_five_trials_and_the_others_finish(folder):
    search = start(folder, "--trials=20", "--run=five", "--trial-timeout=12", "--sampler=random", faults=FAULTS)
    document, said = ended(search)
    assert "Traceback" not in said
    states = {key: count for key, count in document["trials"].items() if count}
    assert {key: states.get(key) for key in ("total", "complete", "crashed", "timeout", "oom", "diverged")} == {
        "total": 20, "complete": 15, "crashed": 2, "timeout": 1, "oom": 1, "diverged": 1
    }  # fmt: skip
    table = (folder / "results" / "five" / "trials.csv").read_text().splitlines()
    rows = {row["number"]: row for row in csv.DictReader(table)}
    for number, (state, reason) in EXPECTED.items():
        assert rows[number]["state"] == state
        assert rows[number]["reason"].startswith(reason)
    wait_for(lambda: not workers_of(search), "the workers' end")


def test_a_worker_that_the_kernel_kills_is_replaced(folder):
    search = start(folder, "--trials=4", "--run=killed", "--workers=1", faults={"quick": 0.2, "2": "kill"})
    document, _ = ended(search)
    assert (document["trials"]["complete"], document["trials"]["crashed"]) == (3, 1)
    reason = next(r["reason"] for r in trials_of(folder, "killed") if r["state"] == "crashed")
    assert reason == "the worker was ended by SIGKILL, as when the machine runs out of memory"


def test_a_worker_that_dies_before_it_begins_ends_one_trial():
    with Crew(1) as crew:
        executor, ends = LocalExecutor(crew, None, str.upper), []
        for key in ("first", "second"):
            executor.submit(key, key)
            if key == "first":
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGKILL)
            wait_for(lambda: ends.extend(executor.finished(0.2)) or not executor.free == 0, "its end")
    (_, lost), (_, second) = ends
    assert (lost.state, lost.reason) == ("crashed", "the worker ended before it had begun")
    assert second == "SECOND"


def test_workers_end_with_their_driver_whatever_they_are_at(folder):
    search = start(folder, "--trials=4", "--run=orphans", faults={"0": "hang", "1": "hang"})
    wait_for(lambda: len([p for p in workers_of(search) if p.cpu_times().user > 1]) >= 2, "two workers at work")
    assert killed(search, 3)
    wait_for(lambda: not workers_of(search), "the end of the workers", 10)
