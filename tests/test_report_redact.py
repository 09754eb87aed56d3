"""What `--redact` takes out, and what it leaves."""

import pytest

from tests.make_run import make_run, save_run, strip
from tests.test_report_page import data_of
from uniformer_bench.report.page import render, write_comparison, write_report
from uniformer_bench.report.redact import clean_text, redacted
from uniformer_bench.runs import Run

SECRETS = ("kittens", "gpu-box-7", "alice", "secret", "C:\\", "/home", "a1.mp4", "pw@db", "nas.example")


def private_run():
    run = make_run(8)
    data = run.info["data"] | {
        "name": "kittens", "kind": "folder", "root": "/home/alice/kittens",
        "left_out": [{"path": "up/a1.mp4", "reason": "moov atom not found"}],
        "samples": [{"name": "up", "image": strip()}],
    }  # fmt: skip
    info = run.info | {
        "name": "tiny-kittens-cpu-3fa1",
        "command": "ubench search --data '../my kittens' --storage=postgresql://alice:pw@db.lan/x --space tiny",
        "data": data,
        "environment": run.info["environment"]
        | {"hostname": "gpu-box-7", "user": "alice", "cwd": "/home/alice/secret"},
        "identity": {"data": "/home/alice/kittens"},
        "notes": ["gpu-box-7 was busy", "read ~/secret/x.yaml and C:\\secret\\y, 12 clips/s, 3/4 of it"],
        "constraints": {"max_params_m": 2},
    }
    trials = [dict(record) for record in run.trials]
    trials[5] |= {"state": "crashed", "reason": "alice: cannot read /home/alice/kittens/up/a1.mp4 from nas.example:/x"}
    trials[6] |= {"state": "crashed", "reason": "ssh alice@nas.example failed"}
    return Run(info, trials)


def everything(page):
    return page[: page.index('id="library"')] + str(data_of(page))


def test_a_redacted_page_names_no_one_and_no_place():
    before, after = everything(render(private_run())), everything(render(redacted(private_run())))
    assert all(secret in before for secret in ("kittens", "gpu-box-7", "alice", "/home", "nas.example"))
    assert [secret for secret in SECRETS if secret in after] == []
    assert "<img" not in after


def test_what_is_no_secret_stays():
    run, clean = private_run(), redacted(private_run())
    assert clean.info["command"] == "ubench search --data … --storage=… --space tiny"
    assert clean.info["name"] == "tiny-…-cpu-3fa1"
    assert clean.info["notes"] == ["… was busy", "read … and …, 12 clips/s, 3/4 of it"]
    assert clean.info["data"]["classes"] == run.info["data"]["classes"]
    assert clean.info["data"]["left_out"] == 1
    assert clean.info["space_text"] == run.info["space_text"]
    assert clean.info["protocol"] == run.info["protocol"]
    assert [{**r, "reason": None} for r in clean.trials] == [{**r, "reason": None} for r in run.trials]


@pytest.mark.parametrize(
    "text",
    ["and/or", "12 clips/s", "FLOP/byte", "stage1.kernel", "0.81 to 0.92", "LLGG: 3x3x3", "v1.2.3", "--data builtin"],
)
def test_text_that_only_looks_like_a_path_stays(text):
    assert clean_text(text) == text


def test_files_of_redacted_pages_are_named_apart(tmp_path):
    folder = save_run(private_run(), tmp_path / "tiny-kittens-cpu-3fa1")
    other = save_run(make_run(3), tmp_path / "other")
    assert write_report(folder, tmp_path, redact=True).name == "tiny-x-cpu-3fa1-redacted.html"
    both = write_comparison([folder, other], tmp_path, redact=True)
    assert both.name == "tiny-x-cpu-3fa1_and_other-redacted.html"
    assert [secret for secret in SECRETS if secret in everything(both.read_text(encoding="utf-8"))] == []
