"""The annotation files of UCF101, HMDB51 and Something-Something to rows, as pure functions of their text."""

import json
import re

from uniformer_bench.data.listing import Row
from uniformer_bench.errors import UbenchError

UCF_LINE = re.compile(r"(?P<label>[^/\s]+)/(?P<name>v_\S+_g\d+_c\d+)(?P<suffix>\.\w+)(?:\s+\d+)?")
HMDB_FILE = re.compile(r"(?P<label>.+)_test_split(?P<fold>[123])\.txt")
HMDB_SPLITS = {"0": None, "1": "train", "2": "test"}


def parse_ucf101(text: str, file: str, split: str) -> list[Row]:
    """`Class/v_Class_g01_c01.avi`, perhaps with the number of the class, which the folder's name makes needless.

    The clips of a group (g01) were cut from one video.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = UCF_LINE.fullmatch(line.strip())
        if not found:
            raise UbenchError(f"a line must be Class/v_Class_g01_c01.avi, got {line.strip()!r} at {file}:{number}")
        label, name, suffix = found.group("label", "name", "suffix")
        paths = (f"{label}/{name}{suffix}", f"{name}{suffix}", f"{label}/{name}", name)
        rows.append(Row(paths, label, f"{file}:{number}", split, name.rpartition("_")[0]))
    return rows


def parse_hmdb51(text: str, file: str) -> list[Row]:
    """`name.avi 1` for training, 2 for the test, 0 for neither; the class is in the file's own name.

    What stands before the class in a clip's name is the video that it was cut from.
    """
    named = HMDB_FILE.fullmatch(file)
    assert named, "the caller knows the file by its name"
    label = named["label"]
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.rsplit(None, 1)
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in HMDB_SPLITS:
            raise UbenchError(f"a line must be name.avi and 0, 1 or 2, got {line.strip()!r} at {file}:{number}")
        name, _, _ = fields[0].rpartition(".")
        split, source = HMDB_SPLITS[fields[1]], fields[0].partition(f"_{label}_")[0]
        if split:
            paths = (f"{label}/{fields[0]}", fields[0], f"{label}/{name}", name)
            rows.append(Row(paths, label, f"{file}:{number}", split, source))
    return rows


def parse_something(text: str, file: str, split: str | None) -> list[Row]:
    """A JSON list of {"id", "template"}: the class is the template without its brackets."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UbenchError(f"{file} must be JSON, got {error}") from None
    if not isinstance(entries, list) or not entries:
        raise UbenchError(f"{file} must be a list of clips, as Something-Something's is, got {type(entries).__name__}")
    return [_something(entry, f"{file}, entry {place}", split) for place, entry in enumerate(entries, 1)]


def _something(entry: object, where: str, split: str | None) -> Row:
    known = entry if isinstance(entry, dict) else {}
    clip, template = known.get("id"), known.get("template")
    if not isinstance(clip, str | int) or not isinstance(template, str):
        raise UbenchError(f"a clip must have an id and a template, got {str(entry)[:80]!r} in {where}")
    paths = tuple(f"{clip}{suffix}" for suffix in (".webm", ".mp4", ""))
    return Row(paths, template.replace("[", "").replace("]", ""), where, split)
