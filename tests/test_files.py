"""Files are read strictly and written whole."""

import os

import pytest

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import finite, nearest, read_text, to_json, write_whole
from uniformer_bench.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("5", 5), ("-2", -2), ("0.5", 0.5), (".5", 0.5), ("a", "a")]
)
def test_numbers_are_numbers(text, value):
    found = parse_yaml(text, "here")
    assert found == value
    assert type(found) is type(value)


def test_a_key_given_twice_is_refused():
    with pytest.raises(UbenchError, match="a key must be given once, got 'a' again"):
        parse_yaml("a: 1\na: 2", "here")


def test_broken_yaml_names_its_source():
    with pytest.raises(UbenchError, match=r"here must be YAML: .* line 1"):
        parse_yaml("a: [", "here")


def test_yaml_makes_no_objects():
    with pytest.raises(UbenchError, match="here must be YAML"):
        parse_yaml("!!python/object/apply:os.getcwd []", "here")


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(UbenchError, match="cannot be read: No such file"):
        read_text(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UbenchError, match="not UTF-8 text"):
        read_text(tmp_path / "bytes")


def test_json_is_strict():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": float("nan")})
    assert finite(float("inf")) is None
    assert finite(1.5) == 1.5
    assert finite(None) is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "folder" / "file.txt"
    write_whole(target, "old")
    monkeypatch.setattr(os, "replace", lambda a, b: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_near_names_are_offered():
    assert nearest("latensy", ["latency", "macs"]) == ", did you mean latency?"
    assert nearest("zzz", ["latency", "macs"]) == "; there is latency, macs"
