"""Names, labels and error texts that attack whoever reads them: none is raw in page, table or terminal."""

import csv
import io
import json
import re

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.make_run import make_run, save_run
from uniformer_bench.cli.output import print_document
from uniformer_bench.data.progress import DecodingBar
from uniformer_bench.printing import UNSEEN, printable
from uniformer_bench.report import write_report
from uniformer_bench.runs import write_csv
from uniformer_bench.search.display import panel
from uniformer_bench.search.driver import Progress

MARKUP = (
    "<script>alert({})</script>",
    "</script><script>alert({})</script>",
    "<img src=x onerror=alert({})>",
    '"><svg onload=alert({})>',
    "'><b id={}>",
    "<!--{}",
    "]]><i>{}</i>",
    "</title><u>{}",
    "</style><s>{}",
    "<a href='javascript:{}'>",
    "{{{{{}}}}}<x>",
    "[/{}]<x>",
    "[red]<{}>",
    "</template><p>{}",
    "<iframe srcdoc='{}'>",
    "&lt;<em>{}</em>",
    "</textarea><h1>{}",
    "<meta http-equiv=refresh content={}>",
    "<base href=//{}>",
    "<object data={}>",
)
FORMULAS = (
    "=cmd|' /C calc'!A{}",
    "+1+{}",
    "-2+{}",
    "@SUM({})",
    "\t=A{}",
    "\r=A{}",
    "\n=A{}",
    "＝A{}",
    "=HYPERLINK({})",
    "－{}",
)
CODES = (
    "\x1b[31m{}",
    "\x1b]0;{}\x07",
    "\x1b[2J{}",
    "\x9b31m{}",
    "\x08\x08{}",
    "\x00{}",
    "\u202e{}",
    "\u2066{}\u2069",
    "\u200b{}",
    "\ufeff{}",
)
PAYLOADS = [text.format(i) for i in range(5) for text in (*MARKUP, *FORMULAS, *CODES)]
PAYLOADS[-1] += "x" * 100_000


def test_there_are_two_hundred():
    assert len(PAYLOADS) == len(set(PAYLOADS)) == 200


def hostile_run():
    """A run whose every name is hostile, and all payloads stand in it."""
    run = make_run(trials=220)
    left = iter(PAYLOADS * 4)
    for record in run.trials:
        record["baseline"] = next(left) if record["baseline"] else None
        record["reason"] = next(left)
        record["params"] = {**record["params"], "dpe": next(left)}
        record["warnings"] = [next(left)]
    run.info["data"] |= {"classes": PAYLOADS[:40], "name": PAYLOADS[45]}
    named = {"space_name": PAYLOADS[1], "command": PAYLOADS[0], "notes": PAYLOADS, "space_text": "\n".join(PAYLOADS)}
    run.info.update(named)
    return run


def test_a_page_holds_them_as_text(tmp_path):
    page = write_report(save_run(hostile_run(), tmp_path / "'><b id=run>"), tmp_path / "reports").read_text()
    for payload in PAYLOADS:
        assert "<" not in payload or payload not in page, payload
    ours = re.sub(
        r"<script>[^<]*plotly.js v.*?</script>", "", page, flags=re.DOTALL
    )  # which has such characters itself
    assert [hex(ord(c)) for c in UNSEEN.findall(ours)] == []


def test_a_table_runs_none_and_shows_no_code():
    text = write_csv(hostile_run().trials)
    assert not UNSEEN.search(text.replace("\r", ""))
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) == 221
    for row in rows:
        assert not any(cell.startswith(tuple("=+@\t\r\n＝＋－＠")) for cell in row)
        assert all(re.fullmatch(r"-?[\d.e+-]+", cell) for cell in row if cell.startswith("-"))


def test_a_terminal_is_sent_no_code():
    run, out = hostile_run(), io.StringIO()
    console = Console(file=out, force_terminal=False, width=200)
    complete = [record for record in run.trials if record["state"] == "complete"]
    for markup, record in zip((text for text in PAYLOADS if "[" in text or "\x1b" in text), complete, strict=False):
        alone = {**record, "pattern": "LLGG", "baseline": markup}
        console.print(panel(Progress([alone], 1, 0, 220, 1.0, None), ("accuracy", "latency"), {}))
    assert "[red]<0>" in out.getvalue()
    bar = DecodingBar(console)
    for payload in PAYLOADS[:50]:
        bar.say(payload)
    assert not UNSEEN.search(out.getvalue())


@pytest.mark.parametrize("as_json", [True, False])
def test_what_a_verb_prints_is_clean_and_json_keeps_its_value(as_json):
    @click.command()
    def verb():
        print_document({"names": PAYLOADS}, as_json, "\n".join(PAYLOADS))

    printed = CliRunner().invoke(verb, color=True).output
    assert not UNSEEN.search(printed)
    assert not as_json or json.loads(printed) == {"names": PAYLOADS}


def test_printable_spells_out_what_is_not_seen_and_leaves_the_rest():
    assert printable("ж中é–×\u00a0 a\tb\n") == "ж中é–×\u00a0 a\tb\n"
    assert printable("\x1b[0m\u202e\x7f\U000e0041") == "\\u001b[0m\\u202e\\u007f\\udb40\\udc41"
    assert json.loads(printable('"\x7f\U000e0041"')) == "\x7f\U000e0041"
