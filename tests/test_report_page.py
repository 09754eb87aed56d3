"""The page of a run: whole, small, the same again, safe, and right from the first trial on."""

import base64
import gzip
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from tests.make_run import INPUT, make_run, save_run
from uniformer_bench.report.answer import answer
from uniformer_bench.report.arch import Input, read_input
from uniformer_bench.report.info import Axes, read_trials
from uniformer_bench.report.page import render, write_report
from uniformer_bench.runs import Run

AXES = Axes("accuracy", "latency")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"

VOID = {"meta", "input", "img", "br", "hr", "link"}


class Reader(HTMLParser):
    """Checks that tags are balanced, and gathers ids, scripts and what is linked."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags, self.links, self.text = [], [], Counter(), [], ""

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        given = dict(attrs)
        assert not any(name.startswith("on") for name in given), f"an event handler in {tag}"
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("src", "href", "action") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "script" not in self.open and "style" not in self.open else ""


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    return reader


def unpacked(page, name):
    """The text of a compressed block."""
    found = re.findall(rf'<script type="application/octet-stream" id="{name}">([^<]*)</script>', page)
    assert len(found) == 1
    raw = base64.b64decode(found[0])
    assert raw[4:8] == bytes(4), "gzip wrote the time, and other bytes every second"
    return gzip.decompress(raw).decode()


def data_of(page):
    return json.loads(unpacked(page, "data"), parse_constant=lambda name: pytest.fail(name))


@pytest.fixture(scope="module")
def page():
    return render(make_run(200))


def test_the_page_is_whole_small_and_the_same_again(page):
    assert render(make_run(200)) == page
    assert len(page.encode()) <= 5_500_000
    assert unpacked(page, "library").count("plotly.js v") == 1
    assert "plotly.js v" not in page
    links = read(page).links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_the_policy_allows_the_pages_own_scripts_and_no_network(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    scripts = [unpacked(page, "library"), *re.findall(r"<script>(.*?)</script>", page, re.DOTALL)]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 2
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {allowed};" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_the_sections_stand_in_their_order(page):
    anchors = ["answer", "front", "architectures", "matters", "trials", "went", "run"]
    assert re.findall(r'<section id="(\w+)"', page) == anchors


def test_the_page_opens_with_the_answer(page):
    text = read(page).text
    found = answer(read_trials(make_run(200).trials), AXES)
    assert f"Trial {found.choice.pick}, " in " ".join(text.split())
    for n in found.choice:
        assert found.sentences[n] in text


def test_the_data_are_those_of_the_table(page):
    data, run = data_of(page), make_run(200)
    assert len(data["rows"]) == 200
    accuracy = data["columns"].index("accuracy")
    assert data["rows"][0][accuracy] == run.trials[0]["metrics"]["accuracy"]
    assert set(data["archs"]) == {str(n) for n in range(200)}
    for steps in data["ladders"].values():
        assert {str(n) for step in steps for n in step[1:] if n is not None} <= set(data["options"])


def failing(run):
    for record in run.trials:
        record.update(state="crashed", reason="worker ended", metrics={}, intervals={}, front=False)
    return Run({**run.info, "hypervolume": {"reference": {}, "value": None, "history": []}}, run.trials)


def infeasible(run):
    for record in run.trials:
        record.update(state="infeasible", front=False, metrics={"latency": 5.0 + record["number"]}, intervals={})
    return Run({**run.info, "constraints": {"max_latency_ms": 4.5}}, run.trials)


def test_a_page_without_a_choice_names_what_came_closest_to_the_limits():
    said = "Nothing kept the limits yet; trial 0 came closest: max_latency_ms must be at most 4.5 ms, got 5."
    assert said in read(render(infeasible(make_run(3)))).text
    one = infeasible(make_run(3))
    one.trials[1]["state"] = "pruned"
    assert "came closest" not in read(render(one)).text


@pytest.mark.parametrize(
    "run",
    [
        make_run(0),
        make_run(1),
        make_run(1, baselines=False),
        make_run(40, baselines=False),
        failing(make_run(5)),
        infeasible(make_run(5)),
        Run({"schema_version": 1}, []),
        Run({}, [{"number": 0, "state": "refused", "spec": None}]),
    ],
    ids=[
        "none",
        "one",
        "one that is no baseline",
        "no baselines",
        "only failures",
        "none fits",
        "bare",
        "bare trial",
    ],
)
def test_the_page_works_from_the_first_trial_on(run):
    text = read(render(run)).text
    data_of(render(run))
    assert not re.search(r"\b(nan|none|inf|null|undefined)\b", text.replace("No other trial is", ""), re.IGNORECASE)


def hostile_run():
    run = make_run(8)
    for record in run.trials:
        record["params"] = {HOSTILE: HOSTILE, "a": f"{HOSTILE}{record['number']}"}
        record["reason"] = record["spec_id"] = HOSTILE
    run.trials[0]["baseline"] = run.trials[7]["state"] = HOSTILE
    run.trials[6]["spec"]["stages"][0]["mixer"] = HOSTILE
    sample = {"name": HOSTILE, "image": 'x" onerror="alert(1)'}
    data = run.info["data"] | {"classes": [HOSTILE] * 8, "name": HOSTILE, HOSTILE: HOSTILE, "samples": [sample]}
    named = dict.fromkeys(("name", "command", "space_name", "space_text", "version", "sampler", "created"), HOSTILE)
    maps = {key: {HOSTILE: HOSTILE} for key in ("constraints", "environment", "recipe", "protocol")}
    return Run({**run.info, **named, **maps, "data": data, "notes": [HOSTILE], "trials_asked": HOSTILE}, run.trials)


def test_hostile_names_stay_text():
    page, plain = render(hostile_run()), read(render(make_run(8)))
    reader = read(page)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert reader.tags["script"] == plain.tags["script"] == 3
    assert reader.tags["img"] == 0  # a sample that is no PNG is left out
    assert HOSTILE in reader.text
    data = data_of(page)
    for made in (*data["archs"].values(), *(option["drawing"] for option in data["options"].values())):
        assert read(made).tags.keys() <= {"div", "svg", "g", "path", "text", "rect", "dl", "dt", "dd", "details",
                                          "summary", "button", "pre"}  # fmt: skip
    assert "<script" not in json.dumps(data["figures"])


def test_samples_are_shown_as_strips(page):
    assert page.count('<img src="data:image/png;base64,') == 4
    assert 'alt="Frames of a clip: up"' in page


def test_what_all_trainings_started_from_is_said():
    run = make_run(3)
    donor = {
        "file": "donor.pt",
        "pattern": "LLGG",
        "params": 400414,
        "epochs": 1.875,
        "seconds": 71.2,
        "accuracy": 0.826,
    }
    text = " ".join(read(render(Run(run.info | {"donor": donor}, run.trials))).text.split())
    assert "DonorpatternLLGGparameters400,414epochs1.875trained in1 min 11 saccuracy83 %" in text
    assert "Donor" not in read(render(run)).text


def test_a_growing_run_with_a_pruned_front_trial_stays_strict():
    run = make_run(20)
    run.trials[0]["metrics"]["accuracy"] = float("nan")
    run.trials[1]["metrics"]["latency"] = float("inf")
    data_of(render(run))


def test_write_report_names_the_page_after_the_run(tmp_path):
    path = write_report(save_run(make_run(3), tmp_path / "my run"), tmp_path / "pages")
    assert path == tmp_path / "pages" / "my run.html"
    assert path.read_text(encoding="utf-8") == render(make_run(3))


def test_the_input_of_the_synthetic_run_can_be_drawn():
    assert read_input(make_run(0).info) == Input(INPUT["frames"], (32, 32), 8)
