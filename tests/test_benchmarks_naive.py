"""What the comparison with a stock script says of made-up trials."""

import json
import sys
from pathlib import Path

import pytest

from uniformer_bench.search.pareto import Scale

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import naive

OBJECTIVES = ("accuracy", "macs")
SCALES = {"accuracy": Scale(worst=0.0, best=1.0, log=False), "macs": Scale(worst=10.0, best=0.0, log=False)}


def row(at_s, accuracy, macs, baseline=None):
    metrics = {"accuracy": accuracy, "macs": macs}
    return {"state": "complete", "finished_s": at_s, "metrics": metrics, "baseline": baseline}


def test_the_hypervolume_grows_by_what_has_ended():
    """Boxes of 0.5 x 0.5, then one of 0.8 x 0.2 of which 0.5 x 0.2 was there."""
    rows = [row(20.0, 0.8, 8.0), row(10.0, 0.5, 5.0)]
    volumes = [naive.volume_at(rows, at, OBJECTIVES, SCALES) for at in (5.0, 10.0, 20.0)]
    assert volumes == pytest.approx([0.0, 0.25, 0.31])
    assert naive.reached_s(rows, 0.25, OBJECTIVES, SCALES) == 10.0
    assert naive.reached_s(rows, 0.30, OBJECTIVES, SCALES) == 20.0
    assert naive.reached_s(rows, 0.32, OBJECTIVES, SCALES) is None


def test_a_search_is_read_as_it_went_not_by_its_finalists_means():
    """trials.json has the mean of the finalists' other trainings, which nobody had while it searched."""
    run = Path(__file__).parents[1] / "results" / "2026-11-23_tiny_cpu_fp32"
    finalists = {row["trial"]: row for row in json.loads((run / "run.json").read_text())["finalists"]}
    records = json.loads((run / "trials.json").read_text())
    ended = [record for record in records if record["state"] == "complete"]
    rows = naive.read_search(run, naive.load_space("tiny"), 16)
    own = {record["number"]: row["metrics"]["accuracy"] for record, row in zip(ended, rows, strict=True)}
    assert {n: own[n] for n in finalists} == {n: row["accuracy_in_search"] for n, row in finalists.items()}
    assert any(record["metrics"]["accuracy"] != own[record["number"]] for record in ended)


def test_the_last_line_is_a_share_of_the_loops_time_or_says_never():
    baselines = [row(1.0, 0.3, 100.0, "paper pattern"), row(2.0, 0.2, 200.0, "all global")]
    search = [*baselines, row(10.0, 0.8, 90.0)]
    loop = [row(30.0, 0.7, 95.0), row(40.0, 0.75, 95.0), row(50.0, 0.1, 400.0)]
    *_, last = naive.lines(loop, search, "macs", 5)
    assert last == "what the loop had after 40 s the search had after 10 s: 0.25 of the time"
    *_, last = naive.lines([row(60.0, 0.9, 50.0)], search, "macs", 5)
    assert last == "the search never had what the loop had after 60 s"
