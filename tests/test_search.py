"""The search: counted trials, resumed and refused runs, limits, and the files it leaves."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

from tests.videos import write_video
from uniformer_bench.data import digits
from uniformer_bench.errors import NothingFeasibleError, UbenchError
from uniformer_bench.metrics import broken_limit, near_miss
from uniformer_bench.search import session
from uniformer_bench.search.display import line
from uniformer_bench.search.driver import Progress
from uniformer_bench.search.feasible import check_feasible
from uniformer_bench.search.finalists import Finalists
from uniformer_bench.search.study import COUNTED, UNCOUNTED, sampler_of
from uniformer_bench.space_file import parse_space

SPACE = """# a space for tests
name: test
input: {frames: 4, size: 16}
spec: {head_dim: 8, stem: {kernel: [1, 2, 2], stride: [2, 2, 2]}}
stages:
  - {mixer: [local, global], depth: {low: 1, high: 2}, width: 8, kernel: [[1, 3, 3], 3]}
  - {mixer: [local, split], depth: 1, width: [8, 16], dpe_kernel: [null, 3]}
recipe: {epochs: 0.1, batch: 32}
baselines: [{name: paper pattern, pattern: LS}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the space lies and the clips are cached, for all tests of this file."""
    path = tmp_path_factory.mktemp("search")
    (path / "space.yaml").write_text(SPACE)
    return path


def ubench(folder, *options, code=0):
    """Runs a search in a process of its own; gives its document and what it said on stderr."""
    done = subprocess.run(command(folder, *options), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else None, done.stderr


def command(folder, *options):
    where = {"--results": folder / "results", "--reports": folder / "reports", "--cache": folder / "cache"}
    if "--space" not in options:
        where["--space"] = folder / "space.yaml"
    paths = [str(word) for pair in where.items() for word in pair]
    return [
        sys.executable,
        "-c",
        "from uniformer_bench.cli import main; main()",
        "search",
        "--json",
        "--device",
        "cpu",
        *paths,
        *options,
    ]


def records_of(document):
    return json.loads((Path(document["run"]) / "trials.json").read_text())


def test_a_search_counts_resumes_and_repeats_nothing(folder):
    first, _ = ubench(folder, "--trials", "4")
    assert first["trials"]["total"] == first["trials"]["complete"] == 4
    assert set(first["trials"]) == {"total", *COUNTED, *UNCOUNTED}
    assert Path(first["report"]).read_text().startswith("<!doctype html")
    assert first["front"][0]["accuracy"] == max(row["accuracy"] for row in first["front"])
    assert {"trial", "spec_id", "accuracy", "latency_ms", "macs", "params", "memory_bytes"} <= set(first["front"][0])
    info = Path(first["run"]) / "run.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fidelity": {"tau": 0.5}}))
    again, _ = ubench(folder, "--trials", "4")
    assert json.loads(info.read_text())["fidelity"] == {"tau": 0.5}
    assert again["run"] == first["run"]
    assert again["front"] == first["front"]
    more, said = ubench(folder, "--trials", "6", "--workers", "1")
    assert more["run"] == first["run"]
    assert more["trials"]["total"] == 6
    assert "Traceback" not in said
    records = records_of(more)
    counted = [r["spec_id"] for r in records if r["state"] in COUNTED]
    assert len(counted) == len(set(counted)) == 6
    assert records[0]["baseline"] == "paper pattern"
    assert records[0]["pattern"] == "LS"


def test_the_files_of_a_run_tell_the_same(folder):
    document, _ = ubench(folder, "--trials", "4")
    run = Path(document["run"])
    rows = list(csv.DictReader((run / "trials.csv").read_text().splitlines()))
    records = records_of(document)
    assert [int(row["number"]) for row in rows] == [r["number"] for r in records]
    assert [float(row["accuracy"]) for row in rows if row["state"] == "complete"] == [
        r["metrics"]["accuracy"] for r in records if r["state"] == "complete"
    ]
    info = json.loads((run / "run.json").read_text())
    assert info["space_text"] == SPACE
    assert info["hypervolume"]["value"] == pytest.approx(document["hypervolume"])
    assert json.loads((run / "front.json").read_text()) == document["front"]
    study = optuna.load_study(study_name=run.name, storage=f"sqlite:///{run / 'study.db'}")
    told = {trial.number: trial.state.name for trial in study.trials}
    for record in records:  # FAIL, which samplers ignore, only for what teaches nothing
        assert told[record["number"]] == {"complete": "COMPLETE", "repeated": "FAIL"}.get(record["state"], "PRUNED")
    assert str(folder) not in json.dumps(info["environment"])


def test_the_front_and_the_baselines_get_the_full_protocol_once(folder):
    document, _ = ubench(folder, "--trials", "4")
    info = json.loads((Path(document["run"]) / "run.json").read_text())
    assert info["finalists_reason"] is None
    by_trial = {row["trial"]: row for row in info["finalists"]}
    baselines = {r["number"] for r in records_of(document) if r["baseline"]}
    assert baselines <= set(by_trial)
    shown = {r["number"]: r for r in records_of(document)}
    for number, row in by_trial.items():
        assert row["latency_ms"]["n"] >= 6
        assert len(row["stages"]) == len(shown[number]["stages"]) == 2
        assert len(row["accuracy"]["by_seed"]) == 3
        assert shown[number]["metrics"]["accuracy"] == row["accuracy"]["mean"]
        assert row["accuracy"]["mean"] == pytest.approx(sum(row["accuracy"]["by_seed"][seed] for seed in "12") / 2)
        assert row["test_accuracy"]["by_seed"].keys() == {"1", "2"}
        assert shown[number]["metrics"]["latency"] == row["latency_ms"]["median"]
        assert shown[number]["intervals"]["latency"] == row["latency_ms"]["ci95"]
        assert shown[number]["metrics"]["throughput"] == pytest.approx(1000 / row["latency_ms"]["median"])
    assert {row["trial"] for row in document["front"]} <= set(by_trial) == {n for n in shown if shown[n]["finalist"]}
    study = optuna.load_study(study_name=Path(document["run"]).name, storage=f"sqlite:///{document['run']}/study.db")
    for number, row in by_trial.items():  # what the search went by stays with it
        assert study.trials[number].values == [row["accuracy_in_search"], row["latency_ms_in_search"]]
    ubench(folder, "--trials", "4")
    assert json.loads((Path(document["run"]) / "run.json").read_text())["finalists"] == info["finalists"]


def test_halving_stops_two_of_three_and_goes_on_after_a_stop(folder):
    (folder / "halving.yaml").write_text(SPACE + "halving: {rungs: [0.4]}\n")
    words = ["--space", str(folder / "halving.yaml"), "--run", "halved", "--workers", "1", "--finalist-seeds", "0"]
    process = subprocess.Popen(
        command(folder, "--trials", "12", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run, deadline = folder / "results" / "halved", time.monotonic() + 200
    while time.monotonic() < deadline and len(list((run / "checkpoints").glob("*.pt"))) < 3:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    before = records_of(json.loads(out))
    assert list((run / "checkpoints").glob("*.pt"))  # what had paused still waits
    for name in ("999.pt", ".3.pt.torn"):  # as of workers that a driver's death ended
        (run / "checkpoints" / name).touch()
    document, _ = ubench(folder, "--trials", "12", *words)
    records = records_of(document)
    ended = {r["number"]: r for r in records if r["state"] in COUNTED}
    assert {r["number"] for r in before if r["state"] in COUNTED} <= set(ended)
    assert len(ended) == len({r["spec_id"] for r in ended.values()}) == document["trials"]["total"] == 12
    states = [r["state"] for r in ended.values()]
    climbed = [r for r in ended.values() if not r["baseline"]]
    assert states.count("pruned") == sum(r["state"] == "pruned" for r in climbed)
    assert 2 <= states.count("complete") <= 12 // 3  # the baseline, which passes, counts among those that went on
    for record in climbed:
        assert [rung["share"] for rung in record["rungs"]] == [0.4]
        assert ("accuracy" in record["metrics"]) == (record["state"] == "complete")
        assert record["metrics"]["latency"] > 0
    stopped = next(r for r in climbed if r["state"] == "pruned")
    assert stopped["reason"].startswith("stopped at 40% of the short run")
    assert not list((run / "checkpoints").glob("*"))
    study = optuna.load_study(study_name="halved", storage=f"sqlite:///{run / 'study.db'}")
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))


def test_another_question_in_a_named_run_is_refused_with_the_difference(folder):
    ubench(folder, "--trials", "1", "--run", "mine", "--finalist-seeds", "0")
    assert (folder / "results" / "mine" / "run.json").exists()
    _, said = ubench(folder, "--trials", "1", "--run", "mine", "--objectives", "accuracy,macs", code=1)
    assert "a run can only be resumed with the same question" in said
    assert 'objectives was ["accuracy", "latency"], now ["accuracy", "macs"]' in said
    assert said.count("\n") == 1


def test_a_comment_in_a_space_is_no_other_question(folder, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE + "# another word on it\n")
    named = ("--trials", "1", "--run", "commented", "--finalist-seeds", "0")
    ubench(folder, *named)
    document, _ = ubench(folder, *named, "--space", str(tmp_path / "space.yaml"))
    assert document["trials"]["total"] == 1
    (tmp_path / "space.yaml").write_text(SPACE.replace("epochs: 0.1", "epochs: 0.2"))
    _, said = ubench(folder, *named, "--space", str(tmp_path / "space.yaml"), code=1)
    assert "space was {" in said


def test_closed_form_limits_refuse_before_training_and_are_not_counted(folder):
    words = ("--trials", "3", "--max-params-m", "0.005", "--run", "limited", "--finalist-seeds", "0")
    document, _ = ubench(folder, *words)
    records = records_of(document)
    assert document["trials"]["total"] == 3
    assert document["trials"]["refused"] == sum(r["state"] == "refused" for r in records) > 0
    for record in records:
        assert (record["state"] == "refused") == (record["metrics"]["params"] > 5000)
        assert record["state"] != "refused" or "max_params_m must be at most 0.005" in record["reason"]
        assert record["state"] != "refused" or record["seconds"] == {}


def test_a_measured_limit_ends_a_trial_before_it_trains(folder):
    document, _ = ubench(folder, "--trials", "2", "--max-latency-ms", "0.0001", "--run", "slow", code=3)
    assert document["trials"] | {"total": 2, "infeasible": 2, "complete": 0} == document["trials"]
    assert document["front"] == []
    for record in records_of(document):
        assert "max_latency_ms must be at most 0.0001 ms" in record["reason"]
        assert "train" not in record["seconds"]


def test_energy_is_refused_before_any_training_where_nobody_counts_it(folder):
    (folder / "energy.yaml").write_text(SPACE + "measure: [accuracy, energy]\nobjectives: [accuracy, energy]\n")
    words = ("--space", str(folder / "energy.yaml"), "--device", "cpu", "--run", "energy", "--trials", "2")
    _, error = ubench(folder, *words, code=1)
    assert error.startswith("ubench: energy must be measured on a GPU that counts it, got cpu: no energy counter")
    assert not (folder / "results" / "energy").exists()


def test_a_small_space_is_exhausted(folder):
    (folder / "three.yaml").write_text(
        SPACE.replace("width: [8, 16], dpe_kernel: [null, 3]", "width: 8").replace(
            "depth: {low: 1, high: 2}, width: 8, kernel: [[1, 3, 3], 3]", "depth: 1, width: 8"
        )
    )
    words = ("--space", str(folder / "three.yaml"), "--trials", "50", "--finalist-seeds", "0")
    document, _ = ubench(folder, *words)
    assert document["trials"]["total"] == 4  # two mixers by two


def test_an_infeasible_space_says_so_before_any_training(folder):
    _, said = ubench(folder, "--max-params-m", "0.0001", code=3)
    assert "some architecture must meet" in said
    assert "the least max_params_m found is" in said
    assert said.count("\n") == 1


def test_an_interrupt_marks_queues_again_and_reports(folder):
    words = ("--run", "stopped", "--finalist-seeds", "0")
    options = command(folder, "--trials", "500", *words)
    process = subprocess.Popen(options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = folder / "results" / "stopped"
    deadline = time.monotonic() + 120
    while (
        time.monotonic() < deadline
        and len(json.loads((run / "trials.json").read_text() if (run / "trials.json").exists() else "[]")) < 2
    ):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    document = json.loads(out)
    states = [r["state"] for r in records_of(document)]
    assert states.count("interrupted") == document["trials"]["interrupted"] >= 1
    study = optuna.load_study(study_name="stopped", storage=f"sqlite:///{run / 'study.db'}")
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    resumed, _ = ubench(folder, "--trials", str(document["trials"]["total"] + 1), *words)
    assert resumed["trials"]["total"] == document["trials"]["total"] + 1
    cut = {json.dumps(r["params"], sort_keys=True) for r in records_of(document) if r["state"] == "interrupted"}
    later = [r for r in records_of(resumed) if r["state"] in COUNTED]
    assert cut & {json.dumps(r["params"], sort_keys=True) for r in later}


def test_a_folder_of_videos_is_searched(folder):
    rng = np.random.default_rng(0)
    names = ("moves left", "moves right")
    labels = np.repeat([digits.CLASSES.index(name) for name in names], 6)
    clips = digits.draw(labels, digits._image_splits(rng)["train"], 8, (32, 32), rng)
    for i, clip in enumerate(clips):
        (folder / "videos" / names[i // 6]).mkdir(parents=True, exist_ok=True)
        write_video(folder / "videos" / names[i // 6] / f"{i}.mp4", clip)
    document, _ = ubench(folder, "--trials", "4", "--data", str(folder / "videos"), "--finalist-seeds", "0")
    assert document["trials"]["complete"] == 4
    info = json.loads((Path(document["run"]) / "run.json").read_text())
    assert info["data"]["classes"] == list(names)
    assert info["data"]["counts"] == {"train": 8, "validation": 2, "test": 2}
    assert str(folder) not in json.dumps(info["data"])


def test_limits_are_in_their_own_units():
    assert broken_limit({"params": 2_000_000}, {"max_params_m": 2}) is None
    assert (
        broken_limit({"params": 2_000_001, "macs": 1}, {"max_params_m": 2})
        == "max_params_m must be at most 2 M parameters, got 2"
    )
    assert broken_limit({"macs": 1}, {"max_latency_ms": 1}) is None


def test_where_nothing_keeps_the_limits_the_closest_is_named():
    """Trial 4 is 1.5 times over one limit, 7 twice over the other, 9 1.2 times over one and 3 times over the other."""
    limits = {"max_latency_ms": 2, "max_memory_mb": 10}
    broken = {4: {"latency": 3.0}, 7: {"latency": 1.0, "memory": 2e7}, 9: {"latency": 2.4, "memory": 3e7}}
    said = "nothing kept the limits yet; trial 4 came closest: max_latency_ms must be at most 2 ms, got 3"
    rows = [(n, "infeasible", metrics) for n, metrics in broken.items()]
    assert near_miss(rows, limits) == said
    assert near_miss([*rows, (10, "pruned", {"latency": 1.0})], limits) is None
    assert near_miss([(11, "refused", {"latency": 3.0})], limits) is None
    records = [{"number": n, "state": "infeasible", "metrics": metrics} for n, metrics in broken.items()]
    shown = Progress(records, 1, 0, 60, 1.0, None)
    assert line(shown, ("accuracy", "latency"), limits) == f"3/60 trials, front of 0, 3 infeasible ({said}), 1 s gone"
    paused = shown._replace(paused=1)
    assert line(paused, ("accuracy",), limits) == "3/60 trials, front of 0, 3 infeasible, 1 paused, 1 s gone"


def test_feasibility_is_checked_by_samples():
    space = parse_space(SPACE + "constraints: {max_gmacs: 0.0000001}", "here")
    with pytest.raises(NothingFeasibleError, match=r"the least max_gmacs found is .* GMACs"):
        check_feasible(space, 2, 0)


def test_samplers_have_names():
    assert {type(sampler_of(name, 0)).__name__ for name in ("tpe", "nsga2", "gp", "random", "model")} == {
        "TPESampler",
        "NSGAIISampler",
        "GPSampler",
        "RandomSampler",
    }
    with pytest.raises(UbenchError, match="sampler must be one of model, tpe, nsga2, gp, random, got 'x'"):
        sampler_of("x", 0)


def test_an_unwritable_folder_is_named(folder):
    if os.geteuid() == 0:
        blocked = folder / "file"
        blocked.write_text("")
        _, said = ubench(folder, "--results", str(blocked / "below"), code=1)
    else:
        blocked = folder / "closed"
        blocked.mkdir(mode=0o500)
        _, said = ubench(folder, "--results", str(blocked), code=1)
    assert "the run's folder must be writable" in said


def test_a_page_that_cannot_be_drawn_ends_a_search_only_at_its_end(tmp_path, monkeypatch, capsys):
    def broken(run, reports):
        raise OverflowError("math range error")

    monkeypatch.setattr(session, "write_report", broken)
    page = session._Page(tmp_path, tmp_path, {"objectives": ["accuracy", "macs"], "constraints": {}}, {})
    none = Finalists([], "the search has not ended")
    now = SimpleNamespace(
        records=[], finalists=none, elapsed_s=1.0, donor=None, hypervolume=lambda: {"value": None}
    )  # fmt: skip
    page.refresh(now)
    said = "the page is not written again before the end: OverflowError: math range error\n"
    assert capsys.readouterr().err == said
    assert json.loads((tmp_path / "run.json").read_text())["elapsed_s"] == 1.0
    with pytest.raises(OverflowError):
        page.write(now)


def test_trials_start_from_a_donor_that_is_trained_once(folder):
    """It is in the run's folder, on record and in the name; a resume has it, and other weights take its place."""
    space = folder / "donor.yaml"
    space.write_text(SPACE + "donor: {pattern: LS, times: 2}\nobjectives: [accuracy, macs]\nmeasure: [accuracy]\n")
    asked = ("--space", str(space), "--finalist-seeds", "0")
    document, said = ubench(folder, "--trials", "3", *asked)
    run = Path(document["run"])
    info, file = json.loads((run / "run.json").read_text()), run / "donor.pt"
    assert (info["donor"]["pattern"], info["donor"]["epochs"]) == ("LS", pytest.approx(0.2))
    assert any("started from the weights of the one donor" in note for note in info["notes"])
    assert "training the donor" in said
    written = file.stat().st_mtime_ns
    more, _ = ubench(folder, "--trials", "4", *asked)
    assert (more["run"], more["trials"]["total"]) == (document["run"], 4)
    assert file.stat().st_mtime_ns == written
    assert json.loads((run / "run.json").read_text())["donor"] == info["donor"]
    named, _ = ubench(folder, "--trials", "2", *asked, "--init", str(file))
    assert named["run"] != document["run"]
    assert not (Path(named["run"]) / "donor.pt").exists()
    other = json.loads((Path(named["run"]) / "run.json").read_text())
    assert "donor" not in other | other["identity"]
