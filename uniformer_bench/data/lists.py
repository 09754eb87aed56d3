"""The text of list files to rows, as pure functions: a line a clip, with or without a header."""

import csv
import re
from typing import NamedTuple

from uniformer_bench.data.listing import VIDEO_SUFFIXES, Row
from uniformer_bench.errors import UbenchError

SUFFIX = f"(?:{'|'.join(map(re.escape, VIDEO_SUFFIXES))})"
COLUMNS = {  # what a header may call a column
    "path": ("path", "video", "video_path", "file", "filename", "clip"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "subset"),
    "source": ("source", "source_video", "youtube_id"),
    "start": ("time_start",),
    "end": ("time_end",),
}
SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validate": "validation",
    "validation": "validation", "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
SEPARATORS = {"\t": "tabs", ",": "commas", " ": "spaces"}


class Lines(NamedTuple):
    """The rows of a file, what separates its fields, and whether it names clips as Kinetics does."""

    rows: list[Row]
    separator: str
    kinetics: bool


def parse_list(text: str, file: str) -> Lines:
    """`path label`, `path frames label`, or columns under a header; separated by tabs, commas or spaces.

    With spaces, a path that ends like a video may hold spaces, and so may the label after it. Raises UbenchError
    with the file and line.
    """
    lines = [(f"{file}:{n}", line) for n, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1)]
    lines = [(where, line.strip()) for where, line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        raise UbenchError(f"a list must have lines, got none in {file}")
    separator = next((mark for mark in ("\t", ",") if all(mark in line for _, line in lines)), " ")
    longest = csv.field_size_limit()
    if where := next((where for where, line in lines if len(line) > longest), None):
        raise UbenchError(f"fields must be shorter than {longest} characters, got more at {where}")
    table = [(where, _fields(line, separator)) for where, line in lines]
    columns = _header(table[0][1])
    if columns:
        rows = [_row_under(columns, where, fields) for where, fields in table[1:]]
        if not rows:
            raise UbenchError(f"a list must have lines under its header, got none in {file}")
        return Lines(rows, separator, "path" not in columns)
    counted = all(len(fields) == 3 and fields[1].isdigit() for _, fields in table)
    return Lines([_row(where, fields, counted) for where, fields in table], separator, False)


def _fields(line: str, separator: str) -> list[str]:
    if separator == "\t":
        return [field.strip() for field in line.split("\t")]
    if separator == ",":
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True))]
    found = re.match(rf"(.+?{SUFFIX})\s+(?:(\d+)\s+)?(\S.*)", line, re.IGNORECASE)
    return [field for field in found.groups() if field is not None] if found else line.split()


def _row(where: str, fields: list[str], counted: bool) -> Row:
    if len(fields) != (3 if counted else 2) or not all(fields):
        raise UbenchError(
            f"a line must be a path and a label (or a path, a number of frames and a label), got "
            f"{len(fields)} fields at {where}; a header may name other columns"
        )
    return Row((fields[0],), fields[-1], where)


def _header(fields: list[str]) -> dict[str, int]:
    """The place of every column that is known; empty where the first line is no header."""
    words = [field.lower() for field in fields]
    found = {key: words.index(name) for key, names in COLUMNS.items() for name in names if name in words}
    kinetics = {"label", "source", "start", "end"} <= set(found) and "youtube_id" in words
    return found if {"path", "label"} <= set(found) or kinetics else {}


def _row_under(columns: dict[str, int], where: str, fields: list[str]) -> Row:
    if len(fields) <= max(columns.values()):
        raise UbenchError(f"a line must have a field for each column of the header, got {len(fields)} at {where}")
    cell = {key: fields[place] for key, place in columns.items()}
    if not cell["label"]:
        raise UbenchError(f"every clip must have a label, got none at {where}")
    split = SPLIT_WORDS.get(cell.get("split", "").lower())
    if cell.get("split") and split is None:
        raise UbenchError(f"a split must be train, val or test, got {cell['split']!r} at {where}")
    paths = (cell["path"],) if "path" in cell else _kinetics_paths(cell, where)
    return Row(paths, cell["label"], where, split, cell.get("source") or None)


def _kinetics_paths(cell: dict[str, str], where: str) -> tuple[str, ...]:
    """Where the common downloaders put a clip: by its times or by its id, in the class's folder or in none."""
    try:
        start, end = (int(float(cell[key])) for key in ("start", "end"))
    except (ValueError, OverflowError):
        raise UbenchError(
            f"times must be numbers of seconds, got {cell['start']!r} to {cell['end']!r} at {where}"
        ) from None
    names = [f"{cell['source']}_{start:06d}_{end:06d}", cell["source"]]
    folders = [f"{cell['label']}/", f"{cell['label'].replace(' ', '_')}/", ""]
    if cell.get("split"):
        folders += [f"{cell['split']}/{folder}" for folder in folders]
    return tuple(f"{folder}{name}{suffix}" for name in names for folder in folders for suffix in (".mp4", ".mkv", ""))
