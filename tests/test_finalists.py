"""How a search ends: who the finalists are, their contest, their trainings, and what an earlier end has done."""

import math
from dataclasses import replace

import pytest

from uniformer_bench.data import load_clips
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.search import finalists
from uniformer_bench.search.contest import Contest, Entrant, Times, measured
from uniformer_bench.search.executors import Crew
from uniformer_bench.search.finalists import Clock, Finalists, Terms, ended, reserve_s
from uniformer_bench.search.retraining import Lesson, Place, Scores, Training, retrained, train_again
from uniformer_bench.search.run_files import MOST, as_searched, challengers_of, decided, finalists_of, remeasured
from uniformer_bench.space import Clip, stored_pick
from uniformer_bench.space_file import parse_space
from uniformer_bench.variants import variant

SPACE = """
name: test
input: {frames: 4, size: 16}
spec: {head_dim: 8, stem: {kernel: [1, 2, 2], stride: [2, 2, 2]}}
stages:
  - {mixer: [local, global], depth: {low: 1, high: 2}, width: 8, kernel: [[1, 3, 3], 3]}
  - {mixer: [local, split], depth: 1, width: [8, 16], dpe_kernel: [null, 3]}
objectives: [accuracy, latency]
recipe: {epochs: 0.05, batch: 32}
"""
PARAMS = (
    {"stage1.mixer": "local", "stage1.depth": 2, "stage1.kernel": "1x3x3", "stage2.mixer": "split"}
    | {"stage2.width": "16", "stage2.dpe_kernel": "none"},
    {"stage1.mixer": "global", "stage1.depth": 1, "stage2.mixer": "local", "stage2.width": "8"}
    | {"stage2.dpe_kernel": "3"},
)  # fmt: skip


@pytest.fixture
def contest(tmp_path):
    protocol = Protocol(device="cpu", frames=8, size=32)
    entrants = tuple(Entrant(variant("micro"), Clip(frames, (32, 32))) for frames in (8, 4))
    return Contest(entrants, 2, protocol, tmp_path / "turns", budget_s=0.2, seed=0)


@pytest.fixture(scope="module")
def crew():
    with Crew(1) as one:
        yield one


def test_every_architecture_gets_a_latency_and_its_stages(contest, crew):
    found = measured(contest, crew, lambda: True)
    assert [times.latency_ms["n"] >= 6 for times in found] == [True, True]
    assert all(times.latency_ms["stopped"] in ("target", "budget") for times in found)
    assert [len(times.stages_ms) for times in found] == 2 * [len(variant("micro").stages)]
    assert all(ms > 0 for times in found for ms in times.stages_ms)


def test_a_worker_that_fails_and_a_search_that_stops_are_reasons(contest, crew):
    broken = contest._replace(protocol=Protocol(device="cuda:63", frames=8, size=32))
    assert str(measured(broken, crew, lambda: True)).startswith("the finalists' worker crashed: ")
    assert measured(contest, crew, lambda: False) == "the search was stopped"


def record(number, accuracy, latency, *, baseline=None, state="complete", params=PARAMS[0]):
    space = parse_space(SPACE, "here")
    spec = space.candidate(stored_pick(params)).spec
    metrics = {"accuracy": accuracy, "latency": latency, "throughput": 1000 / latency, "params": 5000}
    row = {"number": number, "baseline": baseline, "state": state, "spec_id": spec.id, "spec": spec.to_dict()}
    ends = {"accuracy": [accuracy - 0.02, accuracy + 0.02], "latency": [0.9 * latency, 1.1 * latency]}
    return row | {"pattern": spec.pattern, "params": params, "metrics": metrics, "intervals": ends,
                  "seconds": {"train": 1.0}}  # fmt: skip


def test_finalists_are_few_and_keep_the_ends():
    keys = ("accuracy", "latency")
    front = [record(i, 0.9 - i / 100, 60 - i) for i in range(50)]
    rest = [record(60, 0.1, 90, baseline="paper pattern"), record(61, 0.1, 90, baseline="gone", state="oom")]
    numbers = [row["number"] for row in finalists_of([*front, *rest], keys)]
    assert len(numbers) == len(set(numbers)) == MOST + 1
    assert (numbers[0], numbers[-2:]) == (0, [49, 60])
    assert [row["number"] for row in finalists_of(front[:3], keys)] == [0, 1, 2]
    assert finalists_of([], keys) == []


def test_the_front_of_the_files_is_the_finalists():
    records = [record(0, 0.80, 2.0), record(1, 0.79, 2.1), record(2, 0.60, 1.0, baseline="all local")]
    again = {"latency_ms": {"median": 4.0, "ci95": [3.9, 4.1]}, "stages": [{"latency_ms": 1}]}
    final = [
        {"trial": 0, "accuracy": {"mean": 0.7, "ci95": [0.68, 0.72]}, **again},
        {"trial": 2, "accuracy": {"mean": 0.6, "ci95": [0.58, 0.62]}, "latency_ms": None},
    ]  # fmt: skip
    marked = decided(records, final, ("accuracy", "latency"), {})
    assert [(row["front"], row["finalist"]) for row in marked] == [(True, True), (False, False), (True, True)]
    assert marked[0]["metrics"] == {"accuracy": 0.7, "latency": 4.0, "throughput": 250.0, "params": 5000}
    assert marked[0]["intervals"] == {"accuracy": [0.68, 0.72], "latency": [3.9, 4.1]}
    assert marked[0]["stages"] == [{"latency_ms": 1}]
    assert marked[2]["metrics"] == records[2]["metrics"]
    more = [*records, record(3, 0.9, 3.0)]  # a later start has found another: there are no finalists of these yet
    assert [(row["front"], row["finalist"]) for row in decided(more, final, ("accuracy", "latency"), {})] == [
        (False, False), (True, False), (True, False), (True, False)]  # fmt: skip
    assert remeasured(records, [], {}) == records


def test_a_finalist_over_a_limit_when_measured_again_is_infeasible():
    keys, limits = ("accuracy", "latency"), {"max_latency_ms": 3}
    records = [record(0, 0.80, 2.0), record(1, 0.70, 1.0), record(2, 0.95, 2.5)]
    slow, fast = ({"latency_ms": {"median": ms, "ci95": [ms, ms]}} for ms in (3.5, 1.1))
    final = [{"trial": 0, "latency_ms": None}, {"trial": 1, **fast}, {"trial": 2, "latency_ms_in_search": 2.5, **slow}]
    marked = decided(records, final, keys, limits)
    assert [row["state"] for row in marked] == ["complete", "complete", "infeasible"]
    assert marked[2]["reason"] == "max_latency_ms must be at most 3 ms, got 3.5, measured again"
    assert [row["front"] for row in marked] == [True, True, False]
    assert [row["front"] for row in decided(records, final, keys, {})] == [True] * 3
    again = as_searched(marked, final)
    assert [(row["state"], row.get("reason")) for row in again] == [("complete", None)] * 3
    assert again[2]["metrics"]["latency"] == 2.5


def test_a_budget_keeps_what_the_finalists_are_likely_to_take():
    rows = [record(0, 0.8, 2.0), record(1, 0.8, 2.0, state="oom") | {"seconds": {"train": 99.0}}]
    assert reserve_s(60, rows, 2, 2) == 15  # a quarter
    assert reserve_s(3600, rows, 2, 2) == 40 + 2 * 16 * 1.0 / 2
    assert reserve_s(3600, [], 2, 2) == 40


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    space, cache = parse_space(SPACE, "here"), tmp_path_factory.mktemp("cache")
    data = {"source": "builtin", "frames": 4, "size": (16, 16), "seed": 0, "cache": cache}
    return Lesson(len(load_clips(**data).classes), space.recipe, data, "fp32", "fast", 1)


def training(trial, seed, expected_s=0.1):
    return Training(trial, parse_space(SPACE, "here").candidate(stored_pick(PARAMS[trial])).trained, seed, expected_s)


def test_trainings_in_workers_come_to_the_same_as_here_and_what_takes_too_long_is_left_out(lesson, crew, tmp_path):
    place, asked = Place("cpu", tmp_path), [training(0, 1), training(1, 1), training(1, 2, expected_s=99)]
    options = {"timeout_s": None, "left_s": lambda: 60.0, "poll": lambda: True}
    scores, reason = retrained(asked, lesson, [place], crew, **options)
    assert reason == "the budget was spent"
    assert set(scores) == {(0, 1), (1, 1)}
    here = train_again((training(1, 1), lesson, place))
    assert scores[1, 1] == here
    assert scores[0, 1] != here
    assert 0 < here.validation < 1
    assert 0 < here.test < 1
    assert retrained(asked, lesson, [place], crew, **options | {"left_s": lambda: 0.0}) == ({}, "the budget was spent")
    assert retrained(asked, lesson, [place], crew, **options | {"poll": lambda: False}) == (
        {},
        "the search was stopped",
    )


def test_a_training_that_diverges_is_a_reason(lesson, tmp_path):
    wild = lesson._replace(recipe=type(lesson.recipe)(epochs=0.05, batch=32, lr=1e30))
    found = train_again((training(0, 1), wild, Place("cpu", tmp_path)))
    assert found == Scores(None, None, found.reason)
    assert found.reason.startswith("diverged: loss must stay finite")


def never():
    raise AssertionError("an end that is there is not measured again")


@pytest.fixture
def terms(lesson, crew, tmp_path):
    return Terms(
        space=parse_space(SPACE, "here"),
        clips=load_clips(**lesson.data),
        data=lesson.data,
        protocol=Protocol(device="cpu", frames=4, size=16),
        seed=7,
        seeds=1,
        places=(Place("cpu", tmp_path),),
        crew=crew,
        training_threads=1,
        timeout_s=None,
    )


def test_a_stopped_end_is_finished_by_the_next_and_then_not_repeated(terms):
    records = [record(0, 0.9, 2.0), record(1, 0.2, 1.0, params=PARAMS[1])]
    stopped = ended(records, Finalists([], None), terms, Clock(lambda: math.inf, lambda: False))
    assert [row["latency_ms"] for row in stopped.rows] == [None, None]
    assert [row["accuracy"]["mean"] for row in stopped.rows] == [0.9, 0.2]  # of the search, until there are others
    assert stopped.reason == (
        "2 of 2 trainings from other seeds were left out: the search was stopped; "
        "latency was not measured again: the search was stopped"
    )
    whole = ended(records, stopped, terms, Clock(lambda: 20.0, lambda: True))
    assert whole.reason is None
    first = whole.rows[0]
    assert first["accuracy"]["by_seed"] == {"7": 0.9, "8": first["accuracy"]["mean"]}  # what chose it does not count
    assert first["test_accuracy"]["by_seed"] == {"8": first["test_accuracy"]["mean"]}
    assert first["accuracy"]["ci95"][1] - first["accuracy"]["ci95"][0] > 0.5  # 0.9 and about a tenth: seeds differ
    assert [stage["name"] for stage in first["stages"]] == ["stage1", "stage2"]
    assert 0 < first["on_front"] <= 1
    assert ended(records, whole, terms, Clock(lambda: 20.0, never)) == whole
    later = ended([*records, record(2, 0.95, 3.0)], whole, terms, Clock(lambda: 0.0, lambda: True))
    assert [len(row["accuracy"]["by_seed"]) for row in later.rows] == [1, 2, 2]  # trainings stay, times do not
    assert {row["latency_ms"] is None for row in later.rows} == {True}


def test_who_stood_behind_a_lucky_one_is_asked_in_its_place(terms):
    """Trial 0 is 0.99 in the search and learns about a tenth; 1 was as slow and had 0.98, 2 had 0.97."""
    records = [record(i, 0.99 - i / 100, 2.0 + i / 100, params=PARAMS[i % 2]) for i in range(5)]
    assert [row["number"] for row in finalists_of(records, ("accuracy", "latency"))] == [0]
    found = ended(records, Finalists([], None), terms, Clock(lambda: math.inf, lambda: True))
    assert [row["trial"] for row in found.rows] == [0, 1, 2], "three rounds"
    assert all(set(row["accuracy"]["by_seed"]) == {"7", "8"} and row["latency_ms"] for row in found.rows)
    marked = decided(records, found.rows, ("accuracy", "latency"), {})
    assert [row["finalist"] for row in marked] == [True, True, True, False, False]
    assert not any(row["front"] for row in marked[3:])
    assert ended(records, found, terms, Clock(lambda: math.inf, never)) == found
    nobody = ended(records, Finalists([], None), terms._replace(seeds=0), Clock(lambda: math.inf, lambda: True))
    assert [row["trial"] for row in nobody.rows] == [0]
    some = [{"trial": 0, "accuracy": {"mean": 0.985, "ci95": [0.9, 1]}, "latency_ms": None}]
    assert challengers_of(records, some, ("accuracy", "latency")) == []
    some[0]["accuracy"]["mean"] = 0.975
    assert challengers_of(records, some, ("accuracy", "latency")) == [records[1]]


def test_what_an_earlier_end_had_asked_stays_where_the_next_is_stopped(terms):
    records = [record(i, 0.99 - i / 100, 2.0 + i / 100, params=PARAMS[i % 2]) for i in range(5)]
    found = ended(records, Finalists([], None), terms, Clock(lambda: math.inf, lambda: True))
    later = ended(records, found, terms._replace(seeds=2), Clock(lambda: math.inf, lambda: False))
    assert [row["trial"] for row in later.rows] == [0, 1, 2]
    assert [row["latency_ms"] for row in later.rows] == [row["latency_ms"] for row in found.rows]
    assert later.reason.startswith("3 of 3 trainings from other seeds were left out")


def test_the_front_that_was_thinned_is_not_asked_after_all():
    keys, front = ("accuracy", "latency"), [record(i, 0.9 - i / 100, 60 - i) for i in range(50)]
    rows = [{"trial": row["number"], "accuracy": {"mean": row["metrics"]["accuracy"], "ci95": [0, 1]}}
            for row in finalists_of(front, keys)]  # fmt: skip
    assert len(rows) == MOST
    assert challengers_of(front, rows, keys) == []
    behind = [record(100 + i, 0.89 - i / 100, 60.5 - i) for i in range(49)]
    worse = [row | {"accuracy": {"mean": 0.01, "ci95": [0, 1]}} for row in rows]
    assert len(challengers_of([*front, *behind], worse, keys)) <= MOST


def test_a_search_that_measures_neither_ends_at_once(terms):
    space = parse_space(SPACE.replace("[accuracy, latency]", "[params, macs]") + "measure: [memory]\n", "here")
    row = record(0, 0.9, 2.0) | {"metrics": {"params": 5, "macs": 7, "memory": 9}, "intervals": {}}
    found = ended([row], Finalists([], None), terms._replace(space=space), Clock(lambda: math.inf, never))
    assert (found.rows[0]["on_front"], found.reason) == (1.0, None)
    assert found.rows[0]["accuracy"] is None
    assert ended([], Finalists([], None), terms, Clock(lambda: math.inf, never)) == ([], "no trial is complete")


def test_who_stood_behind_one_that_breaks_a_limit_joins(terms, monkeypatch):
    """Trial 0 has 2 ms in the search and 3.5 by the full protocol, where 3 are allowed; it had hidden trial 1."""
    limited = terms._replace(space=replace(terms.space, constraints={"max_latency_ms": 3.0}), seeds=0)
    records = [
        record(0, 0.9, 2.0, params=PARAMS[1]),
        record(1, 0.8, 2.1),
        record(2, 0.3, 1.0, params=PARAMS[1]),
    ]
    calls = []

    def timed(contest, crew, poll):
        calls.append(len(contest.entrants))
        ms = [3.5, 1.0, 2.2][: len(contest.entrants)]
        return [Times({"median": m, "ci95": [m, m]}, [m]) for m in ms]

    monkeypatch.setattr(finalists, "measured", timed)
    found = ended(records, Finalists([], None), limited, Clock(lambda: math.inf, lambda: True))
    assert [row["trial"] for row in found.rows] == [0, 2, 1]
    assert calls == [2, 3], "all are timed together"
    assert found.rows[0]["on_front"] == 0.0
    assert [row["on_front"] > 0 for row in found.rows[1:]] == [True, True]
    marked = decided(records, found.rows, ("accuracy", "latency"), {"max_latency_ms": 3.0})
    assert [(row["state"], row["front"]) for row in marked] == [
        ("infeasible", False), ("complete", True), ("complete", True)]  # fmt: skip
    assert ended(records, found, limited, Clock(lambda: math.inf, never)) == found
    hurried = ended(records, Finalists([], None), limited, Clock(lambda: 5.0, lambda: True))
    assert [row["trial"] for row in hurried.rows] == [0, 2], "no time for more"


def test_where_a_limit_leaves_no_finalist_the_others_are_the_front():
    records, keys = [record(0, 0.9, 2.0), record(1, 0.8, 2.1)], ("accuracy", "latency")
    final = [{"trial": 0, "latency_ms": {"median": 3.5, "ci95": [3.4, 3.6]}}]
    marked = decided(records, final, keys, {"max_latency_ms": 3.0})
    assert [(row["front"], row["finalist"]) for row in marked] == [(False, False), (True, False)]
