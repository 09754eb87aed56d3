"""What a data folder holds, without reading a video: its classes, its splits and the files of each.

Names that start with a dot, and files that do not end like a video, are not looked at; links that lead out of
the folder are not followed.
"""

import os
from pathlib import Path
from typing import NamedTuple

from uniformer_bench.errors import UbenchError

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".gif")
SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


class Video(NamedTuple):
    """A file of a class; `split` is None where the folder leaves the splitting to us, `fault` where it may be read."""

    path: Path
    name: str  # relative to the data folder, with slashes
    label: int
    split: str | None
    fault: str | None


def list_videos(root: Path) -> tuple[list[str], list[Video]]:
    """The sorted class names, and the videos of each class by name, split by split where the folder is split."""
    if not root.is_dir():
        raise UbenchError(f"a data folder must exist and be a folder, got {root}")
    given = {folder.name: folder for folder in _folders(root) if folder.name in SPLIT_FOLDERS and _is_split(folder)}
    if not given:
        names = _class_names(root)
        return _checked(names, root), _videos(root, root, names, None)
    splits = {SPLIT_FOLDERS[name]: folder for name, folder in given.items()}
    if not {"train", "validation"} <= set(splits) or len(splits) < len(given):
        raise UbenchError(
            f"a folder in splits must hold train/, and val/ or validation/, got {sorted(given)} in {root}"
        )
    names = _class_names(splits["train"])
    for folder in splits.values():
        if unknown := sorted(set(_class_names(folder)) - set(names)):
            raise UbenchError(f"every class must be in train/, got {unknown[0]!r} in {folder.name}/ alone")
    videos = [video for name in SPLITS if name in splits for video in _videos(root, splits[name], names, name)]
    return _checked(names, root), videos


def _is_split(folder: Path) -> bool:
    """Whether it holds class folders; with videos of its own it is a class that happens to be called 'train'."""
    return bool(_folders(folder)) and not _files(folder)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UbenchError(f"a data folder must be readable, got {folder}: {error.strerror}") from None


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _files(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]


def _class_names(folder: Path) -> list[str]:
    folders = _folders(folder)
    if not folders:
        raise UbenchError(
            f"a data folder must hold a sub-folder of videos for each class, got no sub-folder in {folder}"
        )
    for entry in folders:
        if not _files(entry):
            raise UbenchError(f"a class folder must hold videos ({' '.join(SUFFIXES)}), got none in {entry}")
    return [entry.name for entry in folders]


def _checked(names: list[str], root: Path) -> list[str]:
    if len(names) < 2:
        raise UbenchError(f"there must be at least 2 classes (a sub-folder each), got {len(names)} in {root}")
    return [shown(name) for name in names]


def shown(name: str) -> str:
    """A file name as text that any file can hold: bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def _videos(root: Path, folder: Path, names: list[str], split: str | None) -> list[Video]:
    return [
        Video(path, shown(path.relative_to(root).as_posix()), label, split, _path_fault(path, root))
        for label, name in enumerate(names)
        if (folder / name).is_dir()
        for path in _files(folder / name)
    ]


def _path_fault(path: Path, root: Path) -> str | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle, before Python 3.13
        return "a link that leads nowhere"
    if not target.is_relative_to(root):
        return "a link that leads out of the data folder"
    return None if target.is_file() else "not a regular file"
