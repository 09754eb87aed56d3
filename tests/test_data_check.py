"""`ubench data check`: its document, its tables, its exit code; and what loading tells a person."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.videos import counting_clip, textured_clip, write_picture, write_timed, write_video
from uniformer_bench.data import progress
from uniformer_bench.data.check import check_data, check_table
from uniformer_bench.data.progress import DecodingBar
from uniformer_bench.data.sources import read_listing
from uniformer_bench.data.videos import Sampling
from uniformer_bench.errors import UbenchError

SAMPLING = Sampling(4, (16, 16))


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """Two classes with twelve clips, of which one cannot be read, one is a copy across splits and one is short."""
    root = tmp_path_factory.mktemp("data") / "pets [x]"
    for place in range(5):
        write_video(root / "train/cat" / f"{place}.mp4", textured_clip(6, (32, 48), place))
        write_video(root / "val/dog" / f"{place}.mp4", textured_clip(10, (32, 32), 10 + place))
    write_video(root / "train/dog/short.mp4", textured_clip(2, (32, 48), 20))
    (root / "train/dog/bad [red].mp4").write_bytes(b"")
    (root / "train/dog/copy.mp4").write_bytes((root / "val/dog/3.mp4").read_bytes())
    write_video(root / "train/cat/same.mkv", textured_clip(6, (32, 48), 2))  # the pictures of 2.mp4, not its bytes
    return root


def test_the_document_counts_and_names(planted):
    document = check_data(read_listing(planted), SAMPLING, max_bad=0.01)
    assert document["clips"] == document["looked_at"] == 14
    assert document["classes"] == [
        {"name": "cat", "train": 6, "total": 6},
        {"name": "dog", "train": 3, "validation": 5, "total": 8},
    ]
    assert document["splits"] == {"train": 9, "validation": 5}
    assert document["bad"] == [
        {"path": "train/dog/bad [red].mp4", "reason": "cannot be decoded: Invalid data found when processing input"},
        {"path": "train/dog/copy.mp4", "reason": "the same file as val/dog/3.mp4 of another split"},
    ]
    assert document["bad_share"] == 2 / 14
    assert document["failed"] is True
    assert document["short"] == [{"path": "train/dog/short.mp4", "reason": "2 frames"}]
    assert document["same_pictures"] == [["train/cat/2.mp4", "train/cat/same.mkv"]]
    assert document["frames"] == {"least": 2, "median": 6.0, "most": 10}
    assert document["rates"] == {"least": 25, "median": 25, "most": 25}
    assert document["seconds"]["most"] == pytest.approx(0.4)
    assert document["sizes"] == {"48x32": 7, "32x32": 5}
    assert document["cache_bytes"] == 14 * 4 * 16 * 16 * 3
    assert document["decoding_s"] > 0
    json.dumps(document, allow_nan=False)
    assert check_data(read_listing(planted), SAMPLING, max_bad=2 / 14)["failed"] is False


def test_a_sample_is_even_and_what_it_took_is_scaled(planted):
    document = check_data(read_listing(planted), SAMPLING, max_bad=1, sample=7)
    assert (document["clips"], document["looked_at"]) == (14, 7)
    # Every other one, from the second: the copy (train/dog/copy.mp4, the eighth) without its original.
    assert document["bad"] == []
    assert document["cache_bytes"] == 14 * 4 * 16 * 16 * 3
    assert check_data(read_listing(planted), SAMPLING, max_bad=1, sample=99)["looked_at"] == 14


def test_nothing_readable_is_a_document_too(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_bytes(b"")
    document = check_data(read_listing(tmp_path), SAMPLING, max_bad=0.01)
    assert (document["frames"], document["seconds"], document["sizes"]) == (None, None, {})
    assert document["splits"] == {"not given": 2}
    assert "unknown" in text_of(document)


def test_a_share_out_of_range_is_refused(planted):
    with pytest.raises(UbenchError, match=r"--max-bad must be a share from 0 to 1, got 2"):
        check_data(read_listing(planted), SAMPLING, max_bad=2)


def text_of(document: dict) -> str:
    console = Console(file=io.StringIO(), width=150)
    console.print(check_table(document))
    return console.file.getvalue()


def test_the_tables_say_it_to_a_person(planted):
    text = text_of(check_data(read_listing(planted), SAMPLING, max_bad=0.01))
    for words in (
        "pets [x]", "a folder with a sub-folder for each class", "14 in 2 classes", "9 train, 5 validation",
        "2 to 10, median 6", "2 of 14 (14 %), too many: the limit is 1 %", "bad [red].mp4", "2 left out",
        "1 short: frames are repeated", "1 the same pictures", "for clips of 4x16x16", "none named",
    ):  # fmt: skip
        assert words in text, words
    assert re.search(r"dog\s*│\s*3\s*│\s*5", text)


def test_long_tables_end_with_how_many_more(tmp_path):
    for place in range(30):
        write_picture(tmp_path / f"class{place:02}/clip/0.png", counting_clip(1, first=8 * place)[0])
    text = text_of(check_data(read_listing(tmp_path), SAMPLING, max_bad=0.01))
    assert "30 short" in text
    assert text.count("and 10 more") == 2


def ubench(*words) -> subprocess.CompletedProcess:
    code = "from uniformer_bench.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_verb_exits_with_1_where_more_than_the_limit_is_bad(planted):
    done = ubench("data", "check", planted, "--frames", 4, "--size", 16)
    assert done.returncode == 1
    assert "2 of 14" in done.stdout
    assert done.stderr == ""
    done = ubench("data", "check", planted, "--frames", 4, "--size", 16, "--max-bad", 0.2, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout, parse_constant=pytest.fail)["schema_version"] == 1


def test_the_verb_takes_what_a_search_takes(tmp_path):
    for place in range(4):
        write_timed(
            tmp_path / f"videos/tape{place // 2}_{place}.mp4", textured_clip(6, (16, 16), place), list(range(6))
        )
    (tmp_path / "train.txt").write_text("tape0_0.mp4 a\ntape0_1.mp4 b\ntape1_2.mp4 a\n")
    (tmp_path / "val.txt").write_text("tape1_3.mp4 b\n")
    done = ubench(
        "data", "check", tmp_path / "train.txt", "--val-data", tmp_path / "val.txt", "--data-root", tmp_path / "videos",
        "--source-pattern", r"(tape\d)_", "--data-stride", 2, "--frames", 4, "--size", 16, "--json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    reason = "cut from the same video as tape1_3.mp4 of another split"
    assert document["bad"] == [{"path": "tape1_2.mp4", "reason": reason}]
    assert document["sources"] == 2
    assert document["sampling"] == {"frames": 4, "size": [16, 16], "stride": 2}


# --- the bar ---


def test_a_terminal_gets_a_bar_that_goes_away():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with DecodingBar(console) as bar:
        bar.say("a list [red] of clips")
        bar.decoded(1, 2)
        bar.decoded(2, 2)
        assert bar._bar is None
    text = console.file.getvalue()
    assert "data: a list [red] of clips" in text
    assert "decoding videos" in text
    with DecodingBar(console) as bar:
        bar.decoded(1, 2)
    assert bar._bar is None, "an interrupted bar goes away too"


def test_elsewhere_a_line_now_and_then(monkeypatch):
    console = Console(file=io.StringIO(), width=80)
    clock = iter([0.0, 5.0, 16.0, 16.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = DecodingBar(console)
    for done in (1, 2, 3):
        bar.decoded(done, 9)
    assert console.file.getvalue() == "data: 2 of 9 videos decoded\n"
