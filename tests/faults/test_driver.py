"""Drivers that are killed at any moment: in the end the study holds what was asked, nothing lost, nothing twice."""

import random
import time

import pytest

from tests.faults.searches import (
    SOAK,
    SPACE,
    check_whole,
    ended,
    folder,
    killed,
    start,
    stored,
    trials_of,
    wait_for,
    wait_for_study,
    workers_of,
)

__all__ = ["folder"]
KILLS, TRIAL_S = (20, 2.5) if SOAK else (4, 0.5)
TRIALS = 30


def test_killed_at_random_moments_a_run_ends_with_every_trial_once(folder):
    """The moments lie evenly at random in what a start takes: opening the study, starting workers, searching."""
    rng, kills, before = random.Random(6), 0, {}
    for _ in range(KILLS):
        search = start(folder, f"--trials={TRIALS}", "--run=killed", faults={"quick": TRIAL_S})
        wait_for((folder / "results" / "killed").exists, "the run's folder")
        kills += killed(search, rng.uniform(0.0, 9.0))
        wait_for(lambda search=search: not workers_of(search), "the end of the workers", 10)
        now = stored(folder, "killed")
        assert now | before == now  # what had finished stays as it was
        print(f"{kills} kills, {len(now)} trials finished")
        before = now
    assert kills >= KILLS // 2
    document, said = ended(start(folder, f"--trials={TRIALS}", "--run=killed", faults={"quick": 0.0}))
    assert document["trials"]["total"] == TRIALS, said
    check_whole(folder, "killed", TRIALS)


def test_a_second_driver_is_refused_while_the_first_lives_and_no_longer(folder):
    first = start(folder, "--trials=500", "--run=one", faults={"quick": 0.3})
    wait_for_study(folder, "one")
    begun = time.time()
    _, said = ended(start(folder, "--trials=500", "--run=one"), code=1)
    assert said == f"ubench: a run has one driver at a time, and another is at work in {folder / 'results' / 'one'}\n"
    assert first.poll() is None
    assert killed(first, 0)
    document, _ = ended(start(folder, "--trials=2", "--run=one", faults={"quick": 0.0}))
    assert document["trials"]["total"] >= 2
    assert (folder / "results" / "one" / "trials.json").stat().st_mtime > begun


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("width: [8, 16, 24, 32], kernel", "width: [8, 16], kernel", "space was "),
        ("objectives: [accuracy, macs]", "objectives: [accuracy, params]", 'objectives was ["accuracy", "macs"], now'),
        ("epochs: 0.1", "epochs: 0.2", '"epochs": 0.2'),
    ],
)
def test_a_changed_question_is_refused_with_the_difference(folder, old, new, difference):
    if not (folder / "results" / "asked").exists():
        ended(start(folder, "--trials=1", "--run=asked", faults={"quick": 0.0}))
    (folder / "changed.yaml").write_text(SPACE.replace(old, new))
    changed = start(folder, "--trials=2", "--run=asked", f"--space={folder / 'changed.yaml'}")
    _, said = ended(changed, code=1)
    assert said.startswith("ubench: a run can only be resumed with the same question, got ")
    assert difference in said
    assert said.count("\n") == 1


def test_what_kills_its_driver_is_queued_again_twice_and_then_given_up(folder):
    ended(start(folder, "--trials=1", "--run=harmless", "--workers=1", faults={"quick": 0.0}))
    deadly = {"quick": 0.2, trials_of(folder, "harmless")[0]["spec_id"]: "driver"}
    options = ("--trials=6", "--run=deadly", "--workers=1", "--sampler=random")
    for _ in range(3):
        search = start(folder, *options, faults=deadly)
        with search:
            search.communicate()
        assert search.returncode == -9
    ended(start(folder, *options, faults=deadly))
    check_whole(folder, "deadly", 6)
    lost = [r for r in stored(folder, "deadly").values() if r["state"] == "crashed"]
    reason = "the search's driver died 3 times while this ran, so it is not tried again"
    assert [(r["baseline"], r["reason"]) for r in lost] == [("paper pattern", reason)]
