"""Whole searches on storages that go away: a server restarts, a file is torn, a disk fills up."""

import json
import tempfile
import time
from pathlib import Path

import pytest

from tests.faults.searches import (
    SOAK,
    check_whole,
    ended,
    folder,
    killed,
    plain,
    start,
    stored,
    wait_for,
    wait_for_study,
)
from tests.faults.servers import fill, postgres_server, small_disk
from uniformer_bench.errors import UbenchError
from uniformer_bench.search.storage import claim, open_storage

__all__ = ["folder"]
AWAY_S = 30.0 if SOAK else 5.0


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory(prefix="pg") as place, postgres_server(Path(place)) as running:
        yield running


def test_a_search_waits_out_a_server_that_restarts_and_no_password_is_seen(folder, server):
    search = start(folder, "--trials=12", "--run=served", faults={"quick": 0.5}, UBENCH_STORAGE=server.url)
    wait_for_study(folder, "served")
    wait_for(lambda: len(stored(folder, "served", server.url)) >= 3, "three trials")
    server.stop()
    time.sleep(AWAY_S)
    server.start()
    document, said = ended(search)
    assert document["trials"]["total"] == 12, said
    assert "waiting for the storage: " in said
    assert "the storage answers again, after " in said
    check_whole(folder, "served", 12, server.url)
    files = [path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert not [path for path in files if b"geheim" in path.read_bytes()]
    assert "geheim" not in said + json.dumps(document)


def test_a_study_on_a_server_has_one_driver_even_from_another_folder(folder, server):
    at = {"UBENCH_STORAGE": server.url}
    first = start(folder, "--trials=500", "--run=shared", faults={"quick": 0.3}, **at)
    wait_for(lambda: stored(folder, "shared", server.url), "a trial")
    elsewhere = ("--run=shared", f"--results={folder / 'elsewhere'}")
    _, said = ended(start(folder, "--trials=500", *elsewhere, **at), code=1)
    assert said == "ubench: a study has one driver at a time, and another is at work on 'shared' in its storage\n"
    assert first.poll() is None
    assert killed(first, 0)
    document, _ = ended(start(folder, "--trials=3", *elsewhere, faults={"quick": 0.0}, **at))
    assert document["trials"]["total"] >= 3


def test_a_claim_that_a_restarted_server_has_forgotten_is_taken_again(server):
    """Each claim has a session of its own, as that of another process would."""
    here, second = open_storage(server.url), open_storage(server.url)
    first = claim(here, "mine")
    server.stop()
    server.start()
    first.hold()
    with pytest.raises(UbenchError, match="a study has one driver at a time, and another is at work on 'mine'"):
        claim(second, "mine")
    server.stop()
    server.start()
    other = claim(second, "mine")  # it was quicker
    with pytest.raises(UbenchError, match="another is at work on 'mine' in its storage"):
        first.hold()
    other.close()
    first.hold()
    first.close()
    for storage in (here, second):
        storage.engine.dispose()


def test_a_password_among_the_words_is_warned_of(folder):
    _, said = ended(start(folder, "--trials=1", "--storage=postgresql://bob:geheim@127.0.0.1:1/none"), code=1)
    warning, error = said.splitlines()
    assert warning.startswith("warning: everyone on this machine can read the password of --storage with `ps`")
    assert error.startswith("ubench: a storage must open, got ")
    assert "geheim" not in said


def test_a_search_whose_study_is_torn_or_gone_goes_on_from_what_it_had(folder):
    first, _ = ended(start(folder, "--trials=10", "--run=torn", faults={"quick": 0.0}))
    before, database = stored(folder, "torn"), folder / "results" / "torn" / "study.db"
    database.write_bytes(database.read_bytes()[:-6000])
    document, said = ended(start(folder, "--trials=12", "--run=torn", faults={"quick": 0.0}))
    assert "the study was damaged: " in said
    assert document["trials"]["total"] == 12
    now = plain(stored(folder, "torn").values())
    assert now | plain(before.values()) == now
    check_whole(folder, "torn", 12)
    assert first["trials"]["total"] == 10
    assert "the study was damaged: " in (folder / "reports" / "torn.html").read_text()


def test_a_full_disk_ends_a_search_in_a_line_and_nothing_is_lost(folder, tmp_path):
    with small_disk(tmp_path, "4m"):
        options = ("--trials=60", "--run=full", f"--results={tmp_path}")
        search = start(folder, *options, faults={"quick": 0.2, "patience_s": 3.0})
        wait_for(lambda: (tmp_path / "full" / "study.db").exists(), "the study")
        wait_for_study(folder, "full")
        filler = fill(tmp_path)
        _, said = ended(search, code=1)
        assert "Traceback" not in said
        assert "must" in said.splitlines()[-1]
        filler.unlink()
        document, said = ended(start(folder, *options, faults={"quick": 0.0}))
        assert document["trials"]["total"] == 60
        assert [r["state"] for r in json.loads((tmp_path / "full" / "trials.json").read_text())].count("complete") == 60
