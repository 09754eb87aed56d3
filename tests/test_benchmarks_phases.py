"""Where a search's time went: every worker second once, and the arithmetic of what was trained."""

import sys
from pathlib import Path

import pytest

from uniformer_bench.errors import UbenchError
from uniformer_bench.runs import Run

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))  # scripts, not a package
import phases

RUNGS = [{"share": 0.25, "epochs": 0.5, "loss": 2.0, "seconds": 3.0}]
TRIALS = [
    {"number": 0, "state": "complete", "rungs": RUNGS, "metrics": {"macs": 1000}, "finished_s": 20.0}
    | {"seconds": {"latency": 2.0, "train": 16.0}},
    {"number": 1, "state": "pruned", "rungs": RUNGS, "metrics": {"macs": 4000}, "finished_s": 30.0}
    | {"seconds": {"latency": 1.0, "train": 4.0}},
    {"number": 2, "state": "infeasible", "rungs": [], "metrics": {"macs": 9000}, "finished_s": 25.0}
    | {"seconds": {"latency": 1.0}},
]  # fmt: skip
CLIP = {"frames": 4, "size": [16, 16]}
INFO = {
    "recipe": {"epochs": 2, "batch": 8},
    "data": {"counts": {"train": 80}} | CLIP,
    "input": CLIP,
    "elapsed_s": 50.0,
    "driver_cpu_s": 5.0,
}


def test_every_worker_second_is_somewhere_once():
    found = phases.phases_of(Run(INFO, TRIALS), 2, 1e4)
    assert {phase.name: phase.seconds for phase in found} == {
        "donor": 0.0, "latency": 4.0, "train": 20.0, "wait or start": 2 * 30 - 24.0, "finalists": 2 * (50 - 30.0)
    }  # fmt: skip
    assert sum(phase.seconds for phase in found) == 2 * INFO["elapsed_s"]


def test_a_donor_takes_all_workers():
    found = phases.phases_of(Run(INFO | {"donor": {"seconds": 7.0}}, TRIALS), 2, 1e4)
    assert (found[0].name, found[0].seconds) == ("donor", 14.0)
    assert sum(phase.seconds for phase in found) == 2 * INFO["elapsed_s"]


def test_a_run_that_trains_on_other_clips_is_refused():
    with pytest.raises(UbenchError, match="must train on the clips that it measures"):
        phases.training_flops(Run(INFO | {"input": CLIP | {"frames": 8}}, TRIALS))


def test_the_least_is_three_passes_over_what_was_trained_on():
    """20 steps of 8 clips, whole and a quarter: 160 x 1000 + 40 x 4000 MACs forward, two FLOPs each, three times."""
    assert phases.training_flops(Run(INFO, TRIALS)) == 3 * 2 * (160 * 1000 + 40 * 4000)
    found = phases.phases_of(Run(INFO, TRIALS), 2, 1e6)
    (least,) = [phase.least_s for phase in found if phase.least_s is not None]
    assert least == pytest.approx(1.92)
    assert phases.verdict(found, INFO).splitlines() == [
        "train: at the matrix product's rate it would take 10% of its time, and the search 18% less",
        "the driver took 5 s of processor time, 5.0%",
    ]
    assert phases.table(found).splitlines()[1:3] == [
        "finalists               40    40 %          ",
        "wait or start           36    36 %          ",
    ]
