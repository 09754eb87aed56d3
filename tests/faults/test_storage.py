"""Storages that are locked, full, read-only, torn or gone: waited for or refused in a line, and nothing is lost."""

import sqlite3
import subprocess
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from tests.faults.searches import SPACE
from tests.faults.servers import fill, postgres_server, small_disk
from uniformer_bench.errors import UbenchError
from uniformer_bench.files import to_json
from uniformer_bench.search import storage as module
from uniformer_bench.search.mending import mend, set_aside
from uniformer_bench.search.storage import has_password, open_storage, place_of
from uniformer_bench.search.study import Study, optuna_pick
from uniformer_bench.space_file import parse_space

SPACE_READ = parse_space(SPACE, "here")


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 1.0)


OPENED = []


def study_at(url):
    OPENED.append(Study(url, "run", ("accuracy", "macs"), "random", 0))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def closed():
    """Closes what a test has opened."""
    yield
    while OPENED:
        OPENED.pop().close()


def finish(study, state="complete", trial=None):
    """Asks for a trial and ends it; gives its record."""
    trial = trial or study.ask()
    candidate = SPACE_READ.candidate(optuna_pick(trial))
    metrics = {"accuracy": 0.5, "macs": 1000 + trial.number, "latency": 2.0, "throughput": 500.0}
    record = {
        "number": trial.number,
        "state": state,
        "spec_id": candidate.spec.id,
        "baseline": trial.user_attrs.get("baseline"),
        "params": dict(trial.params),
        "metrics": metrics if state == "complete" else {},
    }
    if state == "paused":
        study.pause(trial, record)
    elif state == "interrupted":
        study.interrupt(trial, record)
    else:
        study.tell(trial, record, {})
    return record


def later(seconds, action):
    thread = threading.Timer(seconds, action)
    thread.start()
    return thread


def test_a_locked_database_is_waited_out(tmp_path, monkeypatch, capsys):
    study = study_at(f"sqlite:///{tmp_path / 'study.db'}")
    kept = finish(study)
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        thread = later(6.0, lambda: other.execute("ROLLBACK"))  # SQLite itself gives up after 5 s
        new = finish(study)
        thread.join()
    said = capsys.readouterr().err
    assert said.startswith("waiting for the storage: database is locked\nthe storage answers again, after ")
    assert study.records() == [kept, new]


def test_a_lock_that_stays_is_refused_and_what_comes_after_does_not_wait(tmp_path, short_patience):
    study = study_at(f"sqlite:///{tmp_path / 'study.db'}")
    kept = finish(study)
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            with pytest.raises(
                UbenchError, match="a storage must answer within 1 s, got database is locked from sqlite"
            ):
                study.ask()
        other.execute("ROLLBACK")
    assert study_at(f"sqlite:///{tmp_path / 'study.db'}").records() == [kept]


def test_a_full_disk_is_waited_out_or_refused(tmp_path, short_patience, capsys):
    with small_disk(tmp_path):
        study = study_at(f"sqlite:///{tmp_path / 'study.db'}")
        kept, trial = finish(study), study.ask()
        SPACE_READ.candidate(optuna_pick(trial))
        later(0.5, fill(tmp_path).unlink)
        trial.set_user_attr("large", "x" * 100_000)
        assert "waiting for the storage: database or disk is full" in capsys.readouterr().err
        filler = fill(tmp_path)
        with pytest.raises(UbenchError, match=r"within 1 s, got database or disk is full .* is kept, and"):
            trial.set_user_attr("larger", "x" * 300_000)
        filler.unlink()
        study = study_at(f"sqlite:///{tmp_path / 'study.db'}")
        assert study.records() == [kept]
        study.recover({})
        assert finish(study)["params"] == trial.params  # what ran is queued again


def test_a_disk_that_turns_read_only_is_refused_at_once(tmp_path):
    with small_disk(tmp_path):
        study = study_at(f"sqlite:///{tmp_path / 'study.db'}")
        finish(study)
        study.close()  # a disk with an open file stays as it is
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(UbenchError, match="must be whole and writable, got attempt to write a readonly database"):
            study.ask()


@pytest.fixture
def run(tmp_path):
    """A run's folder with a study of records of all kinds, and its trials.json as it was two trials before."""
    tmp_path = tmp_path / "run"
    tmp_path.mkdir()
    study = study_at(f"sqlite:///{tmp_path / 'study.db'}")
    study.enqueue(SPACE_READ.baseline_picks())
    states = ("complete", "interrupted", "complete", "paused", "pruned", *["complete"] * 30)
    records = [finish(study, state) for state in states]
    written = [{**record, "front": True} for record in records[:-2] if record["state"] != "paused"]
    row = {"trial": 0, "latency_ms": {"median": 4.0, "ci95": None}, "latency_ms_in_search": 2.0}
    written[0] = {**written[0], "metrics": written[0]["metrics"] | {"latency": 4.0, "throughput": 250.0}}
    (tmp_path / "trials.json").write_text(to_json(written))
    return tmp_path, records, {"finalists": [row]}


def mended(run, info):
    url = f"sqlite:///{run / 'study.db'}"
    torn = set_aside(url)
    study = study_at(url)
    return study, torn, mend(study, SPACE_READ, run, info, torn)


def check_same(study, records):
    assert study.records() == [record for record in records if record["state"] != "paused"]
    by_number = {record["number"]: record for record in records}
    told = study._study.get_trials(deepcopy=False)
    assert {t.number: t.params for t in told if t.number in by_number} == {n: r["params"] for n, r in by_number.items()}
    states = {t.number: t.state.name for t in told}
    expected = {"complete": "COMPLETE", "pruned": "PRUNED", "interrupted": "FAIL", "paused": "RUNNING"}
    assert {number: states[number] for number in by_number} == {n: expected[r["state"]] for n, r in by_number.items()}


def test_a_torn_page_costs_no_finished_trial(run):
    folder, records, info = run
    database = folder / "study.db"
    whole = database.read_bytes()
    database.write_bytes(whole[: -4096 - 2000])  # the last page and half of that before
    study, torn, said = mended(folder, info)
    assert torn == folder / "study.db.torn1"
    assert said.startswith("the study was damaged: ")
    known = {record["number"] for record in study.records()}
    assert known >= {record["number"] for record in records[:-2] if record["state"] != "paused"}
    assert {r["number"]: r for r in study.records()}.items() <= {r["number"]: r for r in records}.items()
    assert study.records()[0]["metrics"]["latency"] == 2.0
    assert not study.recover({})
    assert finish(study)["baseline"] is None  # the one that had been cut short has been done again


def test_what_was_cut_short_and_not_done_again_is_queued_again(tmp_path):
    first = study_at(f"sqlite:///{tmp_path / 'first.db'}")
    first.enqueue(SPACE_READ.baseline_picks())
    cut = finish(first, "interrupted")
    again = study_at(f"sqlite:///{tmp_path / 'again.db'}")
    again.restore(SPACE_READ, [cut])
    again.enqueue(SPACE_READ.baseline_picks())
    assert [finish(again)["baseline"] for _ in range(3)] == ["paper pattern", "local", None]


def test_a_file_that_is_no_database_any_more_is_made_again_from_the_run(run):
    folder, records, info = run
    (folder / "study.db").write_bytes(b"\0" * 8192)
    study, _, said = mended(folder, info)
    assert (
        said == f"the study was damaged: 32 trials were saved into a new one, the old lies in {folder}/study.db.torn1"
    )
    check_same(study, [record for record in records[:-2] if record["state"] != "paused"])


def test_a_study_that_has_gone_comes_back_and_a_whole_one_is_left_alone(run):
    folder, records, info = run
    study, torn, said = mended(folder, info)
    assert (torn, said) == (None, None)
    check_same(study, records)
    (folder / "study.db").unlink()
    study, torn, said = mended(folder, info)
    assert (torn, said) == (None, f"the study had gone: 32 trials came back from {folder / 'trials.json'}")
    check_same(study, [record for record in records[:-2] if record["state"] != "paused"])


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory(prefix="pg") as folder, postgres_server(Path(folder)) as running:
        yield running


def test_a_server_that_restarts_is_waited_for(server, capsys):
    study = study_at(server.url)
    kept = [finish(study), finish(study)]
    trial = study.ask()
    server.stop()
    thread = later(5.0, server.start)
    new = finish(study, trial=trial)
    thread.join()
    said = capsys.readouterr().err
    assert "waiting for the storage: " in said
    assert "the storage answers again, after " in said
    assert "geheim" not in said
    assert study.records() == [*kept, new]
    study.close()
    assert study_at(server.url).records() == [*kept, new]


def test_a_server_that_stays_away_is_refused_without_its_password(server, short_patience):
    study = study_at(server.url)
    server.stop()
    try:
        with pytest.raises(
            UbenchError, match=r"a storage must answer within 1 s, got .* from postgresql://"
        ) as refused:
            study.ask()
        with pytest.raises(UbenchError, match="a storage must open, got ") as unopened:
            open_storage(server.url)
    finally:
        server.start()
    for error in (refused, unopened):
        assert "geheim" not in str(error.value)
        assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "shown", "secret"),
    [
        ("postgresql://bob:geheim@host/db", "postgresql://bob:***@host/db", True),
        ("postgresql://host/db?password=geheim&user=bob", "postgresql://host/db", True),
        ("postgresql://bob@host/db", "postgresql://bob@host/db", False),
    ],
)
def test_a_password_is_seen_and_not_shown(url, shown, secret):
    assert (place_of(url), has_password(url)) == (shown, secret)


def test_a_url_that_is_none_is_refused_without_being_said():
    with pytest.raises(UbenchError, match="a storage must be a URL such as"):
        place_of("bob:geheim")


def test_a_driver_that_is_missing_is_named(monkeypatch):
    def missing(*arguments, **keywords):
        raise ImportError("no module")

    monkeypatch.setattr(optuna.storages, "RDBStorage", missing)
    with pytest.raises(
        UbenchError, match=r"needs its driver, got none for postgresql://h/d: pip install 'uniformer_be"
    ):
        open_storage("postgres://h/d".replace("postgres:", "postgresql:"))


def test_an_answer_that_was_lost_counts(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.0)
    answers = [sqlite_error(), optuna.exceptions.UpdateFinishedTrialError()]

    def tell():
        raise answers.pop(0)

    patience = module._Patience("here", lambda text: None)
    assert patience.around(tell)() is True
    answers = [optuna.exceptions.UpdateFinishedTrialError()]
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        patience.around(tell)()


def sqlite_error():
    from sqlalchemy.exc import OperationalError

    return OperationalError("select", {}, sqlite3.OperationalError("database is locked"))
