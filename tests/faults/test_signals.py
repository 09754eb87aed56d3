"""A signal stops a search in order, a second one at once, wherever it was started from."""

import os
import re
import signal
import time

import pytest

from tests.faults.searches import (
    SOAK,
    alive,
    ended,
    folder,
    start,
    stored,
    told_of,
    trials_of,
    wait_for,
    wait_for_study,
    workers_of,
)

__all__ = ["folder"]
LATEST_S = 5.0 if SOAK else 30.0  # to stop in order; beside other tests a machine may be slow


def under_way(folder, run, **how):
    """A search of which two trials have finished, and the number of its driver's process."""
    search = start(folder, "--trials=500", f"--run={run}", faults={"quick": 0.3}, **how)
    wait_for_study(folder, run)
    wait_for(lambda: len(stored(folder, run)) >= 2, "two trials")
    drivers = [p.pid for p in workers_of(search) if "injected" in " ".join(p.cmdline()) and "bash" not in p.name()]
    return search, drivers[0] if drivers else search.pid


def check_stopped(folder, run, document):
    assert document["trials"]["interrupted"] >= 1
    assert document["trials"]["total"] == document["trials"]["complete"] >= 2
    assert not [t for t in told_of(folder, run) if t.state.name == "RUNNING"]
    assert {r["number"]: r["state"] for r in trials_of(folder, run)} == {
        number: record["state"] for number, record in stored(folder, run).items()
    }
    assert f"interrupted ({document['trials']['interrupted']})" in (folder / "reports" / f"{run}.html").read_text()


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGINT, "CMD & wait $!"),  # a shell has such a process ignore it
        (signal.SIGTERM, "nohup CMD"),
    ],
)
def test_a_first_signal_stops_in_order(folder, number, how):
    run = re.sub(r"\W", "", f"{number.name}{how}")
    search, driver = under_way(folder, run, shell=how)
    begun = time.monotonic()
    os.kill(driver, number)
    document, said = ended(search, 128 + number)
    print(f"{number.name} to `{how}`: {time.monotonic() - begun:.1f} s\n{said}")
    assert time.monotonic() - begun < LATEST_S
    check_stopped(folder, run, document)
    assert "stopping, the report is written; once more ends it at once" in said
    assert said.splitlines()[-1] == f"stopped by {number.name}; the same command goes on from here"
    wait_for(lambda: not workers_of(search), "the workers' end")


def test_a_terminals_interrupt_reaches_workers_that_still_import_and_leaves_no_traceback(folder):
    search = start(folder, "--trials=500", "--run=early", faults={"quick": 0.3})
    wait_for(lambda: any("spawn_main" in " ".join(p.cmdline()) for p in workers_of(search)), "a worker's birth")
    os.killpg(search.pid, signal.SIGINT)
    document, said = ended(search, 130)
    assert document["trials"]["total"] == 0
    assert "Traceback" not in said
    wait_for(lambda: not workers_of(search), "the workers' end")


def test_a_second_signal_ends_it_at_once(folder):
    search, driver = under_way(folder, "twice")
    worker = next(p for p in workers_of(search) if "spawn_main" in " ".join(p.cmdline()))
    worker.suspend()  # so that the stop in order takes its time
    os.kill(driver, signal.SIGINT)
    wait_for(lambda: "stopping" in search.stderr.readline(), "the first stop")
    os.kill(driver, signal.SIGTERM)
    assert search.wait(10) == -signal.SIGTERM
    worker.resume() if alive(worker) else None
    with search:
        search.communicate()
    wait_for(lambda: not workers_of(search), "the end of the workers", 10)
    document, _ = ended(start(folder, "--trials=4", "--run=twice", faults={"quick": 0.0}))  # and nothing is lost
    assert document["trials"]["total"] >= 4
