"""A run measured again: its document, its file, and what a page makes of several devices."""

import json

import plotly.graph_objects as go
import pytest
import torch

from tests.make_run import make_run, save_run
from tests.test_cli import ubench
from tests.test_report_page import data_of
from uniformer_bench import remeasure as module
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.remeasure import default_label, members_of, protocol_like, remeasure, save
from uniformer_bench.report.devices import devices
from uniformer_bench.report.elsewhere import device_figure, own_name, terms
from uniformer_bench.report.info import Trial, read_trials
from uniformer_bench.report.page import render
from uniformer_bench.report.redact import redacted
from uniformer_bench.runs import Run, load_records

RUN = make_run(4)
CPU = Protocol(device="cpu", frames=8, size=32)


def test_the_protocol_is_the_runs_but_for_what_is_asked():
    info = {
        "protocol": {"device": "cuda", "precision": "bf16", "batch": 8, "frames": 16, "size": [32, 48], "warmup": 5}
    }
    found = protocol_like(info, "cpu", 2, {"precision": None, "compile": True, "batch": 1})
    wanted = {"frames": 16, "size": (32, 48), "precision": "bf16", "batch": 1, "compile": True, "threads": 2}
    assert found == Protocol(device="cpu", **wanted)
    with pytest.raises(UbenchError, match="must record its protocol's frames and size"):
        protocol_like({}, "cpu", 1, {})


def test_the_front_and_the_complete_baselines_are_measured():
    spec = RUN.trials[0]["spec"]
    rows = [
        {"number": 3, "state": "complete", "baseline": None, "front": True, "spec": spec},
        {"number": 2, "state": "complete", "baseline": None, "front": False, "spec": spec},
        {"number": 1, "state": "oom", "baseline": "all global", "front": False, "spec": spec},
        {"number": 0, "state": "complete", "baseline": "all local", "front": False, "spec": spec},
        {"number": 4, "state": "complete", "baseline": None, "front": True, "spec": None},
    ]
    assert [row["number"] for row in members_of(rows)] == [0, 3]


def test_a_label_says_the_device_and_what_differs():
    machine = {"cpu": "Cortex-A78", "gpu": "Orin"}
    assert default_label(machine, CPU, {}) == "Cortex-A78"
    assert default_label({"cpu": None}, CPU, {"precision": "bf16", "batch": 8}) == "cpu, fp32, batch 1"
    gpu = Protocol(device="cuda", frames=8, size=32, compile=True)
    assert default_label(machine, gpu, {}) == "Orin, compiled"
    assert default_label(machine, gpu, {"compile": True}) == "Orin"


def test_every_member_has_a_latency_and_a_memory_or_a_reason(monkeypatch):
    build, seen = module.build, []

    def small(spec, *rest):
        seen.append(spec)
        if len(seen) <= 2:  # both builds of the first
            raise torch.OutOfMemoryError("CUDA out of memory")
        return build(spec, *rest)

    monkeypatch.setattr(module, "build", small)
    document = remeasure(RUN, CPU, label="x", budget_s=0.2)
    first, *others = document["rows"]
    few = "the device has too little memory"
    assert (first["latency_ms"], first["memory_bytes"], first["reason"]) == (
        None,
        None,
        f"latency: {few}; memory: {few}",
    )
    assert [row["trial"] for row in document["rows"]] == [row["number"] for row in members_of(RUN.trials)]
    assert all(row["latency_ms"]["n"] >= 6 and row["memory_bytes"] > 0 and row["reason"] is None for row in others)
    assert all(row["latency_ms_in_run"] == RUN.trials[row["trial"]]["metrics"]["latency"] for row in others)
    assert document["protocol"] == CPU.to_dict()


def test_another_error_is_not_swallowed(monkeypatch):
    monkeypatch.setattr(module, "build", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        remeasure(RUN, CPU)


def test_a_run_without_classes_or_a_front_is_refused():
    with pytest.raises(UbenchError, match="must name its classes"):
        remeasure(Run({}, RUN.trials), CPU)
    with pytest.raises(UbenchError, match="must have a front or baselines"):
        remeasure(Run(RUN.info, []), CPU)


def test_devices_stand_side_by_side_in_the_runs_folder(tmp_path):
    folder = save_run(RUN, tmp_path / "run")
    before = (folder / "run.json").read_bytes()
    rows = [{"trial": 0}]
    assert save({"label": "Jetson (15 W)", "rows": []}, folder).name == "jetson-15-w.json"
    save({"label": "Jetson (15 W)", "rows": rows}, folder)
    save({"label": "A/../b", "rows": rows}, folder)
    assert [document["label"] for document in load_records(folder).remeasured] == ["A/../b", "Jetson (15 W)"]
    assert load_records(folder).remeasured[1]["rows"] == rows
    assert (folder / "run.json").read_bytes() == before
    with pytest.raises(UbenchError, match=r"must hold a letter or a digit, got '\.\.'"):
        save({"label": "..", "rows": []}, folder)
    for text, match in (("[]", "a mapping with a list of rows"), ('{"rows": [], "schema_version": 9}', "got 9")):
        (folder / "remeasured" / "c.json").write_text(text)
        with pytest.raises(UbenchError, match=match):
            load_records(folder)


def _trial(number, accuracy, latency, *, baseline=None):
    values = {"accuracy": accuracy, "latency": latency}
    ends = {"latency": (latency * 0.9, latency * 1.1)}
    return Trial(number, baseline=baseline, front=baseline is None, values=values, intervals=ends)


def _row(number, latency, spread=1.1):
    return {"trial": number, "latency_ms": {"median": latency, "ci95": [latency / spread, latency * spread]}}


# on the run's device 1 < 2 < 3 ms; there 3 is the fastest of all and the most accurate, so only it is on the front
TRIALS = (_trial(1, 0.5, 1.0), _trial(2, 0.6, 2.0), _trial(3, 0.7, 3.0), _trial(4, 0.4, 4.0, baseline="paper pattern"))
THERE = {
    "label": "Orin",
    "protocol": {"device": "cuda", "precision": "fp16", "batch": 2},
    "rows": [
        _row(1, 8.0), _row(2, 8.1), _row(3, 4.0), {"trial": 4, "reason": "too little memory"}, {"trial": 99},
    ],
}  # fmt: skip


def test_ranks_ratios_and_the_front_there():
    (device,) = devices([THERE], TRIALS, {"protocol": {"batch": 1}}, "accuracy")
    assert [(p.trial.number, p.rank_before, p.rank) for p in device.placed] == [
        (3, 3, 1), (1, 1, 2), (2, 2, 3), (4, None, None),
    ]  # fmt: skip
    assert [p.ratio for p in device.placed] == pytest.approx([4 / 2 / 3, 8 / 2 / 1, 8.1 / 2 / 2, None])
    low, high = device.placed[0].ratio_interval
    assert (low * high) ** 0.5 == pytest.approx(device.placed[0].ratio)
    # 1 and 2 overlap there; of the pairs 1-3 and 2-3, which both tell apart, both swap
    assert (device.pairs, device.swapped) == (2, 2)
    assert device.front == (3,)
    assert [trial.number for trial in device.fallen] == [1, 2]
    assert device.pick == 3
    assert device.placed[3].reason == "too little memory"


def test_a_device_that_measured_nothing_of_this_run_is_left_out():
    assert devices([{"rows": [_row(99, 1.0)]}, {"rows": [{}]}], TRIALS, {}, "accuracy") == ()
    (device,) = devices([{"rows": [{"trial": 1, "reason": "no"}]}], TRIALS, {}, "accuracy")
    assert (device.label, device.front, device.pick, device.sentence) == ("another device", (), None, "")


def test_the_figure_has_the_front_there_and_what_left_it():
    (device,) = devices([THERE], TRIALS, {}, "accuracy")
    figure = device_figure(device)
    assert {trace["meta"]: trace["customdata"] for trace in figure["data"][1:]} == {"dominated": [1, 2], "front": [3]}
    assert (figure["data"][0]["x"], figure["data"][0]["y"]) == ([4.0], [70.0])
    go.Figure(figure)


def test_words_for_devices():
    assert terms({"device": "cpu", "precision": "fp32", "batch": 8, "threads": 1}) == "cpu fp32, batch 8, 1 thread"
    assert terms({"device": "cuda", "precision": "bf16", "threads": 8, "compile": True}) == "cuda bf16, compiled"
    machine = {"environment": {"cpu": "EPYC", "gpu": "H100"}}
    assert own_name(machine | {"protocol": {"device": "cuda:0"}}) == "H100"
    assert own_name(machine | {"protocol": {"device": "cpu"}}) == "EPYC"
    assert own_name({}) == "the run’s own"


def test_the_page_shows_the_devices_and_keeps_hostile_names_text():
    run = make_run(30)
    numbers = [trial.number for trial in read_trials(run.trials) if trial.front]
    rows = [_row(n, 5.0) | {"notes": ["<i>"]} for n in numbers] + [{"trial": 0, "reason": "<b>no"}]
    run = run._replace(remeasured=({"label": "<img src=x>", "rows": rows},))
    text = render(run)
    assert '<section id="devices"' in text
    assert 'href="#devices"' in text
    assert "&lt;img src=x&gt;" in text
    assert "<img src=x>" not in text
    assert "<b>no" not in text
    assert f"{len(numbers)} warnings of measuring" in text
    assert "plot-device-0" in data_of(text)["figures"]
    assert '<section id="devices"' not in render(make_run(30))
    named = run._replace(remeasured=({"label": "box", "environment": {"host": "box9"}, "rows": rows},))
    assert redacted(named).remeasured[0]["environment"] == {}


def test_the_verb_writes_the_file_and_the_page(tmp_path):
    folder = save_run(RUN, tmp_path / "run")
    words = ("remeasure", "run", "--device", "cpu", "--threads", 1, "--budget", "0.2s", "--name", "[b]Laptop")
    done = ubench(*words, "--json", "--reports", "pages", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["file"], document["report"]) == ("run/remeasured/b-laptop.json", "pages/run.html")
    (kept,) = load_records(folder).remeasured
    assert kept == {key: value for key, value in document.items() if key not in ("file", "report")}
    done = ubench(*words, "--batch", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[b]Laptop" in done.stdout
    assert "paper pattern" in done.stdout
    assert load_records(folder).remeasured[0]["protocol"]["batch"] == 2
