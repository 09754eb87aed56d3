"""Runs read back from disk, and trials as a table: columns, empty cells, text that spreadsheets would run."""

import csv
import io
import json

import pytest

from tests.make_run import make_run, save_run
from uniformer_bench import load_run
from uniformer_bench.errors import UbenchError
from uniformer_bench.printing import printable
from uniformer_bench.runs import Run, choice_text, csv_rows, load_records, table, table_columns, write_csv

DONE = {
    "number": 0,
    "state": "complete",
    "reason": None,
    "spec_id": "63cd1be4c0",
    "baseline": "paper pattern",
    "params": {"stage1.mixer": "local", "stage1.kernel": [3, 5, 5]},
    "metrics": {"accuracy": 0.81, "latency": 1.9, "macs": 5, "memory": None, "params": float("nan")},
    "intervals": {"accuracy": [0.78, 0.84]},
    "seconds": {"build": 0.1, "train": 2.0},
    "front": True,
}
LOST = {
    "number": 1,
    "state": "crashed",
    "reason": "worker ended",
    "spec_id": "a",
    "params": {"lr": 0.1},
    "metrics": None,
}


def test_columns_hold_every_parameter_metric_interval_and_phase():
    assert table_columns([DONE, LOST]) == [
        *("number", "state", "reason", "spec_id", "baseline"),
        *("param_stage1.mixer", "param_stage1.kernel", "param_lr"),
        *("accuracy", "latency_ms", "throughput_clips_per_s", "joules_per_clip", "macs", "flops", "params"),
        *("memory_bytes", "training_memory_bytes"),
        *("accuracy_ci_low", "accuracy_ci_high", "latency_ms_ci_low", "latency_ms_ci_high"),
        *("seconds_build", "seconds_train"),
    ]


def test_a_row_holds_what_is_known_and_none_elsewhere():
    first, second = table([DONE, LOST])
    known = {key: value for key, value in first.items() if value is not None}
    assert known == {
        "number": 0,
        "state": "complete",
        "spec_id": "63cd1be4c0",
        "baseline": "paper pattern",
        "param_stage1.mixer": "local",
        "param_stage1.kernel": "3x5x5",
        "accuracy": 0.81,
        "latency_ms": 1.9,
        "macs": 5,
        "accuracy_ci_low": 0.78,
        "accuracy_ci_high": 0.84,
        "seconds_build": 0.1,
        "seconds_train": 2.0,
    }
    assert second["param_lr"] == 0.1
    assert second["accuracy"] is None
    assert list(first) == list(second)


def test_csv_has_empty_cells_for_what_is_missing_and_never_nan():
    rows = list(csv.DictReader(io.StringIO(write_csv([DONE, LOST]))))
    assert rows[0]["accuracy"] == "0.81"
    assert rows[0]["params"] == rows[0]["memory_bytes"] == rows[1]["accuracy"] == ""
    assert "nan" not in write_csv([DONE, LOST]).lower()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_text_that_a_spreadsheet_would_run_is_defused(text):
    record = {**DONE, "reason": text, "params": {"a": text}, "baseline": text}
    (row,) = csv_rows([record])
    assert row["reason"] == row["param_a"] == row["baseline"] == "'" + printable(text)
    assert table([record])[0]["reason"] == text


def test_negative_numbers_stay_numbers():
    (row,) = csv_rows([{**DONE, "params": {"a": -0.5}}])
    assert row["param_a"] == -0.5


def test_choices_are_one_cell_each():
    values = [None, True, 3, 0.5, "x", [1, 5, 5], float("inf")]
    assert [choice_text(value) for value in values] == ["none", "true", 3, 0.5, "x", "1x5x5", None]


def test_a_run_survives_the_disk(tmp_path):
    run = make_run(6)
    assert load_records(save_run(run, tmp_path / "r")) == run


def test_frames_have_the_columns_of_the_csv(tmp_path):
    folder = save_run(make_run(12), tmp_path / "r")
    frames = load_run(folder)
    header = next(csv.reader(io.StringIO((folder / "trials.csv").read_text(encoding="utf-8"))))
    assert list(frames.trials.columns) == header
    assert frames.info["space_name"] == "tiny"
    assert list(frames.front["number"]) == [t["number"] for t in load_records(folder).trials if t["front"]]
    assert 0 < frames.trials["accuracy"].max() <= 1


def test_frames_of_a_run_without_trials(tmp_path):
    frames = load_run(save_run(make_run(0), tmp_path / "r"))
    assert len(frames.trials) == len(frames.front) == 0
    assert "accuracy" in frames.trials.columns


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UbenchError, match=r"a run is a folder with run\.json and trials\.json, got"):
        load_records(tmp_path)


def test_broken_json_is_refused_with_its_file(tmp_path):
    folder = save_run(make_run(0), tmp_path / "r")
    (folder / "trials.json").write_text("[{", encoding="utf-8")
    with pytest.raises(UbenchError, match=r"trials\.json must be JSON: "):
        load_records(folder)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    folder = save_run(make_run(0), tmp_path / "r")
    (folder / "trials.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UbenchError, match="cannot be read: not UTF-8 text"):
        load_records(folder)


@pytest.mark.parametrize("trials", [{}, [1]])
def test_other_shapes_are_refused(tmp_path, trials):
    folder = save_run(make_run(0), tmp_path / "r")
    (folder / "trials.json").write_text(json.dumps(trials), encoding="utf-8")
    with pytest.raises(UbenchError, match="a list of mappings, got others"):
        load_records(folder)


def test_another_schema_version_is_refused(tmp_path):
    run = make_run(0)
    folder = save_run(Run({**run.info, "schema_version": 2}, []), tmp_path / "r")
    with pytest.raises(UbenchError, match="schema_version must be 1, got 2"):
        load_records(folder)
