"""What a path given as data is, and the listing of its clips: the one place that tells the formats apart."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from uniformer_bench.data.folders import entries, folder_rows
from uniformer_bench.data.formats import HMDB_FILE, parse_hmdb51, parse_something, parse_ucf101
from uniformer_bench.data.listing import Labels, Listing, Row, Video, name_labels, number_labels, shown, videos_of
from uniformer_bench.data.lists import SEPARATORS, parse_list
from uniformer_bench.errors import UbenchError
from uniformer_bench.files import read_text

UCF_FILE = re.compile(r"(train|test)list(\d\d)\.txt")


class Found(NamedTuple):
    """A format's rows, the folder that their paths are in unless another is named, and what told the format."""

    kind: str
    rows: list[Row]
    root: Path
    why: str
    labels: Callable[[Sequence[Sequence[Row]]], Labels] = name_labels


def read_listing(
    path: Path, *, root: Path | None = None, validation: Path | None = None, source_pattern: str | None = None
) -> Listing:
    """The clips of a folder or an annotation file, and of a second one for validation.

    `root` is the folder that paths in lists are in (their file's own where it is None). `source_pattern` is a
    regular expression whose first group, or the whole of what it finds in a clip's name, names the video that the
    clip was cut from. Raises UbenchError in one line, with the file and line where a list is at fault.
    """
    found = [_found(Path(path).resolve())]
    if validation is not None:
        found = _with_validation(found[0], _found(Path(validation).resolve()))
    found = [one._replace(rows=_dealt_alike([other.rows for other in found], one.rows)) for one in found]
    numbered = any(one.labels is number_labels for one in found)
    labels = (number_labels if numbered else name_labels)([one.rows for one in found])
    if len(labels.classes) < 2:
        raise UbenchError(f"there must be at least 2 classes (a sub-folder each), got {len(labels.classes)} in {path}")
    videos = []
    for one, indices in zip(found, labels.indices, strict=True):
        folder = _folder(root) if root else one.root
        prefix = f"{shown(folder.name)}/" if len({other.root for other in found}) > 1 and not root else ""
        videos += videos_of(one.rows, indices, folder, prefix)
    why = "; ".join(dict.fromkeys(one.why for one in found))
    if numbered:
        why += f"; {labels.detected}"
    videos, sourced = _with_sources(videos, source_pattern)
    return Listing(shown(Path(path).resolve().name), found[0].kind, why + sourced, labels.classes, videos)


def _with_validation(found: Found, second: Found) -> list[Found]:
    """The first for training, the second for validation, whatever splits their rows are said to be in.

    Of a second one that names splits of its own, as a whole Kinetics table may, the training rows are not taken.
    """
    train = [row._replace(split="train") for row in found.rows if row.split in (None, "train")]
    held = [row for row in second.rows if row.split not in (None, "train")] or second.rows
    if not train:
        raise UbenchError(f"the data must have clips to train on, got none beside those for validation in {found.root}")
    return [found._replace(rows=train), second._replace(rows=[row._replace(split="validation") for row in held])]


def _dealt_alike(every: Sequence[Sequence[Row]], rows: list[Row]) -> list[Row]:
    """The rows as they are where training rows and others are told apart, else without a split, to be dealt by us."""
    splits = {row.split for some in every for row in some}
    if "train" in splits and len(splits - {None}) > 1:
        missing = next((row.where for row in rows if row.split is None), None)
        if missing:
            raise UbenchError(f"every clip must name its split or none, got none at {missing}")
        return rows
    return [row._replace(split=None) for row in rows]


def _folder(path: Path) -> Path:
    resolved = Path(path).resolve()
    if not resolved.is_dir():
        raise UbenchError(f"a data folder must exist and be a folder, got {resolved}")
    return resolved


def _with_sources(videos: list[Video], pattern: str | None) -> tuple[list[Video], str]:
    if pattern is not None:
        videos = [video._replace(source=_source(pattern, video.name)) for video in videos]
        if not any(video.source for video in videos):
            raise UbenchError(f"a source pattern must match the clips' names, got {pattern!r} for {videos[0].name!r}")
    sources = {video.source for video in videos if video.source}
    alone = sum(video.source is None for video in videos)
    if not sources:
        return videos, ""
    return videos, f"; cut from {len(sources)} sources" + (f", {alone} clips from none that is named" if alone else "")


def _source(pattern: str, name: str) -> str | None:
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise UbenchError(f"a source pattern must be a regular expression, got {pattern!r}: {error}") from None
    return found and (found.group(1) if found.re.groups else found.group())


# --- telling the formats apart ---


def _found(path: Path) -> Found:
    if path.is_dir():
        names = [entry.name for entry in entries(path)]
        if first := next((name for name in names if HMDB_FILE.fullmatch(name)), None):
            return _hmdb51(path / first)
        if first := next((name for name in names if UCF_FILE.fullmatch(name)), None):
            return _ucf101(path / first)
        return Found("folder", folder_rows(path), path, "a folder with a sub-folder for each class")
    if not path.is_file():
        raise UbenchError(f"a data set must exist and be a folder or a list, got {path}")
    if HMDB_FILE.fullmatch(path.name):
        return _hmdb51(path)
    if UCF_FILE.fullmatch(path.name) and _looks_like_ucf101(path):
        return _ucf101(path)
    if path.suffix.lower() == ".json":
        return _something(path)
    return _list(path)


def _list(path: Path) -> Found:
    lines = parse_list(read_text(path), path.name)
    if lines.kinetics:
        return Found("kinetics", lines.rows, path.parent, f"{path.name} is a Kinetics table (it has youtube_id)")
    why = f"{path.name} is a list separated by {SEPARATORS[lines.separator]}"
    return Found("list", lines.rows, path.parent, why, number_labels)


def _looks_like_ucf101(path: Path) -> bool:
    return re.match(r"\s*\w+/v_\S+_g\d+_c\d+\.\w+(\s+\d+)?\s*(\n|$)", read_text(path)) is not None


def _ucf101(path: Path) -> Found:
    """A fold of UCF101: the training and the test list of the same number, where both are there."""
    named = UCF_FILE.fullmatch(path.name)
    assert named, "the caller knows the file by its name"
    beside = {split: path.with_name(f"{split}list{named[2]}.txt") for split in ("train", "test")}
    files = {split: file for split, file in beside.items() if file.is_file()}
    rows = [row for split, file in files.items() for row in parse_ucf101(read_text(file), file.name, split)]
    names = " and ".join(file.name for file in files.values())
    return Found("ucf101", rows, path.parent, f"{names}: the clips of UCF101's fold {int(named[2])}, by their names")


def _hmdb51(path: Path) -> Found:
    """A fold of HMDB51: a file for each class, all those beside `path` of the same number."""
    named = HMDB_FILE.fullmatch(path.name)
    assert named, "the caller knows the file by its name"
    files = sorted(path.parent.glob(f"*_test_split{named['fold']}.txt"))
    rows = [row for file in files for row in parse_hmdb51(read_text(file), file.name)]
    if not rows:
        raise UbenchError(f"a fold of HMDB51 must list clips marked 1 or 2, got none in {path.parent}")
    why = f"{len(files)} files *_test_split{named['fold']}.txt: a fold of HMDB51"
    return Found("hmdb51", rows, path.parent, why)


def _something(path: Path) -> Found:
    """Something-Something's list of the training clips, and that of validation where it lies beside."""
    beside = path.with_name(path.name.replace("train", "validation"))
    both = beside != path and beside.is_file()
    rows = parse_something(read_text(path), path.name, "train" if both else None)
    if both:
        rows += parse_something(read_text(beside), beside.name, "validation")
    names = f"{path.name} and {beside.name} are" if both else f"{path.name} is"
    return Found("something", rows, path.parent, f"{names} Something-Something's (clips with an id and a template)")
