"""The profile's page: the document's figures, offline, escaped, the same bytes; and the roofline's geometry."""

import json
import re
from html.parser import HTMLParser

import pytest

from uniformer_bench.files import to_json
from uniformer_bench.measure.profile import profile
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.measure.sweep import sweep
from uniformer_bench.report.profile_page import render_profile, write_profile
from uniformer_bench.report.roofline_figure import HEIGHT, LEFT, WIDTH, Axis, Point, roofline
from uniformer_bench.variants import variant

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
VOID = {"meta", "img", "path", "rect", "circle", "input", "br"}


@pytest.fixture(scope="module")
def document():
    spec, at = variant("micro"), Protocol(device="cpu", frames=8, size=(32, 32))
    found = profile(spec, variant="micro", num_classes=10, protocol=at, budget_s=0.2)
    return found | {"sweep": sweep(spec, num_classes=10, protocol=at, budget_s=0.3)}


class Tags(HTMLParser):
    """Every tag is closed in order; gathers tags, attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _read(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_the_page_is_whole_and_loads_nothing(document):
    page = render_profile(document)
    tags = _read(page)
    names = {tag for tag, _ in tags.seen}
    assert not names & {"script", "link", "iframe", "object", "embed", "button"}
    assert not [a for _, a in tags.seen for key in a if key in ("src", "href") or key.startswith("on")]
    assert not re.search(r"https?://|@import", page)
    policy = next(a["content"] for tag, a in tags.seen if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "script-src" not in policy


def test_the_same_document_is_the_same_page(document):
    again = json.loads(to_json(document))
    assert render_profile(again) == render_profile(document)


def test_it_says_what_the_document_says(document):
    text = _read(render_profile(document)).text
    for words in ("micro", "1 clip of 8×32×32", "stage1 local", "stage4 global", "1 × block", "head", "whole", "knee"):
        assert words in text
    for count in (*document["counters"].values(), *document["training"]["counters"].values()):
        assert f"{count['macs']:,}" in text
        assert (count["note"] or "") in text
    assert document["ceilings"]["how"] in text
    assert document["memory"]["method"] in text
    assert document["environment"]["torch"] in text


def test_a_document_without_a_sweep_has_no_such_section(document):
    plain = {key: value for key, value in document.items() if key != "sweep"}
    assert 'id="sweep"' in render_profile(document)
    assert 'id="sweep"' not in render_profile(plain)


def test_what_was_not_asked_for_is_not_there(document):
    text = _read(render_profile(document)).text
    for words in ("energy a clip", "largest batch", "Weights"):
        assert words not in text


def test_energy_batches_weights_and_a_gpu_s_peaks(document):
    energy = {
        "joules_per_clip": 0.512,
        "net_joules_per_clip": 0.4,
        "watts": 500.0,
        "reason": None,
        "warnings": ["warm"],
    }
    batches = {
        "inference": {"batch": 27820, "limit_bytes": 18_000_000, "reason": None},
        "training": {"batch": None, "limit_bytes": None, "reason": "it does not tell"},
    }
    peak = {"use": "training", "start": "warm", "allocated_bytes": 2_000_000, "reserved_bytes": 3_000_000}
    changed = {
        "energy": energy,
        "largest_batch": batches,
        "memory": document["memory"] | {"gpu_peaks": [peak]},
        "checkpoint": {"path": HOSTILE, "notes": [HOSTILE, "head_dim is assumed"]},
    }
    tags = _read(render_profile(document | changed))
    text = tags.text.replace("\u00a0", " ")
    for words in ("0.512 J", "0.4", "500 W", "27,820", "in 18.0 MB", "it does not tell", "head_dim is assumed", "warm"):
        assert words in text
    assert "2.00 MB allocated, 3.00 MB reserved" in text
    assert not {tag for tag, _ in tags.seen} & {"script", "img"}
    cpu = document["energy"] | {"reason": "no counter on this one"}
    assert "no counter on this one" in _read(render_profile(document | {"energy": cpu})).text


def test_what_is_unknown_is_a_dash_or_a_reason(document):
    latency = document["latency_ms"] | {"ci95": None, "warnings": ["a sentence about the machine"]}
    memory = document["memory"] | {"training_peak_bytes": None, "reasons": {"training_peak_bytes": "no such luck"}}
    counters = document["counters"] | {"torch": {"macs": None, "raw": None, "raw_unit": "FLOPs", "note": "it failed"}}
    row = document["sweep"]["batch"][0] | {"latency_ms": None, "clips_per_s": None, "ci95": None, "reason": "too large"}
    changed = {"latency_ms": latency, "memory": memory, "counters": counters, "throughput_clips_per_s": None}
    text = _read(render_profile(document | changed | {"sweep": {"batch": [row]}})).text
    for words in ("no interval", "a sentence about the machine", "no such luck", "it failed", "too large"):
        assert words in text
    assert "None" not in text.replace("None of", "")


def test_a_person_s_words_are_escaped(document):
    names = {"variant": HOSTILE, "warnings": [HOSTILE], "environment": document["environment"] | {"cpu": HOSTILE}}
    note = document["counters"] | {"torch": document["counters"]["torch"] | {"note": HOSTILE}}
    row = document["sweep"]["batch"][0] | {"reason": HOSTILE}
    tags = _read(render_profile(document | names | {"counters": note, "sweep": {HOSTILE: [row]}}))
    assert not {tag for tag, _ in tags.seen} & {"script", "img"}
    assert tags.text.count("alert(1)") >= 6


def test_a_spec_that_cannot_be_drawn_is_left_out(document):
    assert "<figure" in render_profile(document)
    page = render_profile(document | {"spec": {"stages": []}})
    assert 'class="drawing"' not in page


def test_write_profile_gives_the_path(document, tmp_path):
    path = write_profile(document, tmp_path / "deep" / "page.html")
    assert path.read_text(encoding="utf-8") == render_profile(document)


def test_an_axis_is_logarithmic():
    axis = Axis(1, 100, 0, 200)
    assert [axis.at(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])
    assert axis.decades() == [1, 10, 100]


def test_a_point_on_the_roof_is_drawn_on_the_roof():
    """At the ridge, 10 FLOP a byte, the corner of the line and a part that reaches all there is are one place."""
    svg = roofline([Point("1", "stage1", 10.0, 1e11, "compute")], flops_per_s=1e11, bytes_per_s=1e10)
    corner = re.search(r'class="roof" d="M[\d.]+ [\d.]+L([\d.]+) ([\d.]+)H', svg)
    disc = re.search(r'cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert corner.groups() == disc.groups()
    assert "stage1: 10.0 FLOP/byte, 100 GFLOP/s, compute" in svg


def test_everything_lies_within_the_picture():
    points = [Point("1", "a", 0.01, 1e6, "memory"), Point("2", "b", 900.0, 3e11, "compute")]
    svg = roofline([*points, Point("3", "no time", 1.0, 0.0, "compute")], flops_per_s=1e11, bytes_per_s=1e10)
    places = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert len(places) == 2
    for x, y in places:
        assert LEFT < float(x) < WIDTH
        assert 0 < float(y) < HEIGHT
