"""What a data set lists, without reading a video: its classes, and the file, class, split and source of each clip.

Every reader of a format gives rows; here rows become a listing, by the same rules for all of them: a path stays
inside its root, a class has clips to train on, and numbers for labels count from where the training rows start.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from uniformer_bench.errors import UbenchError

SPLITS = ("train", "validation", "test")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".gif")


class Row(NamedTuple):
    """What a format says of a clip. Its file is the first of `paths`, relative to the root, that exists."""

    paths: tuple[str, ...]
    label: str
    where: str  # for messages, as train.txt:3
    split: str | None = None
    source: str | None = None  # the video that the clip was cut from


class Video(NamedTuple):
    """A clip of a class: a video file, or a folder of pictures.

    `split` is None where the splitting is left to us, `source` where the clip stands alone, `fault` where the file
    may be read.
    """

    path: Path
    name: str  # relative to the root, with slashes
    label: int
    split: str | None
    fault: str | None
    source: str | None = None


class Listing(NamedTuple):
    """A data set before any video is read; `detected` is a sentence on what it was taken for and why."""

    name: str
    kind: str
    detected: str
    classes: tuple[str, ...]
    videos: list[Video]


def shown(name: str) -> str:
    """A file name as text that any file can hold: bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def videos_of(rows: Sequence[Row], labels: Sequence[int], root: Path, prefix: str = "") -> list[Video]:
    """The rows' clips under `root`, which must be resolved. Raises UbenchError where a path leads out of it."""
    videos = []
    for row, label in zip(rows, labels, strict=True):
        places = [_inside(root, path, row.where) for path in row.paths]
        path = next((place for place in places if os.path.lexists(place)), places[0])
        name = prefix + shown(path.relative_to(root).as_posix())
        videos.append(Video(path, name, label, row.split, _path_fault(path, root), row.source))
    return videos


def _inside(root: Path, text: str, where: str) -> Path:
    path = Path(os.path.normpath(root / text))
    if "\0" in text or path == root or not path.is_relative_to(root):
        raise UbenchError(f"a path in a list must stay inside its root, got {shown(text)!r} at {where} for {root}")
    return path


def _path_fault(path: Path, root: Path) -> str | None:
    if not os.path.lexists(path):
        return "no such file"
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle, before Python 3.13
        return "a link that leads nowhere"
    if not target.is_relative_to(root):
        return "a link that leads out of the data folder"
    return None if target.is_file() or target.is_dir() else "not a regular file"


# --- labels ---


class Labels(NamedTuple):
    """The names of the classes, the class of every row of each list, and a few words on what the labels are."""

    classes: tuple[str, ...]
    indices: list[list[int]]
    detected: str


def name_labels(lists: Sequence[Sequence[Row]]) -> Labels:
    """Labels that are names: a class for each, in their order."""
    names = sorted({row.label for row in _trained(lists)})
    number = {name: index for index, name in enumerate(names)}
    indices = [[_known(row, row.label, number) for row in rows] for rows in lists]
    return Labels(tuple(shown(name) for name in names), indices, "labels are names")


def number_labels(lists: Sequence[Sequence[Row]]) -> Labels:
    """Labels that are all whole numbers: a class for each number among the training rows. Names otherwise.

    A second list may count from 0 where the first counts from 1, or the other way round: it is shifted where that
    makes all of its numbers known, and only where some are not.
    """
    if not all(re.fullmatch(r"\d{1,9}", row.label) for rows in lists for row in rows):
        return name_labels(lists)
    numbers = sorted({int(row.label) for row in _trained(lists)})
    index = {str(number): place for place, number in enumerate(numbers)}
    shifts = [_shift({int(row.label) for row in rows}, set(numbers)) for rows in lists]
    indices = [
        [_known(row, str(int(row.label) + shift), index) for row in rows]
        for rows, shift in zip(lists, shifts, strict=True)
    ]
    said = f"labels are numbers from {numbers[0]} to {numbers[-1]}"
    if numbers != list(range(numbers[0], numbers[-1] + 1)):
        said += f" ({len(numbers)} of them, the others have no clips)"
    said += {0: ", counted from 0", 1: ", counted from 1"}.get(numbers[0], "")
    said += "".join(f"; those of the validation list are {-s:+} from there" for s in shifts if s)
    return Labels(tuple(index), indices, said)


def _trained(lists: Sequence[Sequence[Row]]) -> Iterable[Row]:
    """The rows that are trained on, or may be: those of the training split, or of no split."""
    every = [row for rows in lists for row in rows]
    return [row for row in every if row.split in ("train", None)] or every


def _shift(labels: set[int], known: set[int]) -> int:
    for shift in (0, 1, -1):
        if all(label + shift in known for label in labels):
            return shift
    return 0


def _known(row: Row, label: str, known: dict[str, int]) -> int:
    if label not in known:
        raise UbenchError(f"every class must have clips to train on, got {shown(row.label)!r} in {row.where} alone")
    return known[label]
