"""A folder with a sub-folder of videos for each class, perhaps inside train/, val/ and test/.

A clip is a video file or, in its place, a folder of pictures. Names that start with a dot, and files that do not
end like a video, are not looked at.
"""

import os
from pathlib import Path

from uniformer_bench.data.listing import VIDEO_SUFFIXES, Row
from uniformer_bench.data.pictures import PICTURE_SUFFIXES
from uniformer_bench.errors import UbenchError

SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def folder_rows(root: Path) -> list[Row]:
    """The clips of each class by name, split by split where the folder is split."""
    given = {folder.name: folder for folder in _folders(root) if folder.name in SPLIT_FOLDERS and _is_split(folder)}
    if not given:
        return _rows(root, root, None)
    splits = {SPLIT_FOLDERS[name]: folder for name, folder in given.items()}
    if "train" not in splits or len(given) < 2 or len(splits) < len(given):
        raise UbenchError(
            "a folder in splits must hold train/, and val/ (or validation/) or test/ or both, "
            f"got {sorted(given)} in {root}"
        )
    return [row for split, folder in splits.items() for row in _rows(root, folder, split)]


def _rows(root: Path, folder: Path, split: str | None) -> list[Row]:
    return [
        Row((clip.relative_to(root).as_posix(),), name, f"{folder.name}/", split)
        for name in _class_names(folder)
        for clip in _clips(folder / name)
    ]


def _is_split(folder: Path) -> bool:
    """Whether it holds class folders; with clips of its own it is a class that happens to be called 'train'."""
    return bool(_folders(folder)) and not _clips(folder)


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name. Raises UbenchError where that cannot be told."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UbenchError(f"a data folder must be readable, got {folder}: {error.strerror}") from None


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in entries(folder) if entry.is_dir()]


def _clips(folder: Path) -> list[Path]:
    return [entry for entry in entries(folder) if (_has_pictures(entry) if entry.is_dir() else _is_video(entry))]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _has_pictures(folder: Path) -> bool:
    with os.scandir(folder) as inside:
        return any(entry.name.lower().endswith(PICTURE_SUFFIXES) for entry in inside)


def _class_names(folder: Path) -> list[str]:
    folders = _folders(folder)
    if not folders:
        raise UbenchError(
            f"a data folder must hold a sub-folder of videos for each class, got no sub-folder in {folder}"
        )
    for entry in folders:
        if not _clips(entry):
            videos = " ".join(VIDEO_SUFFIXES)
            raise UbenchError(f"a class folder must hold videos ({videos}) or folders of pictures, got none in {entry}")
    return [entry.name for entry in folders]
