"""Reads a folder of videos, a sub-folder per class, into three splits of clips.

A video that cannot be read, or is a copy in another class or split, is left out with a reason and never
replaced by another. Clips do not depend on the order in which files get done.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from uniformer_bench.data.cache import cache_dir, cached_arrays
from uniformer_bench.data.clips import Clips, Split
from uniformer_bench.data.listing import SPLITS, Video, list_videos, shown
from uniformer_bench.data.video import UnreadableError, read_clip
from uniformer_bench.errors import UbenchError

VERSION = 1  # of how clips are made: part of the cache's key
READERS = 2  # threads, one file each; PyAV decodes outside Python's lock

Progress = Callable[[int, int], None]


class Reading(NamedTuple):
    """What reading a video told: the hash of the file, how many frames it holds, or why it cannot be used."""

    digest: str
    frames: int
    fault: str | None


def load_folder(
    path: Path,
    *,
    frames: int,
    size: tuple[int, int],
    seed: int,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Clips:
    """The clips in a folder: decoded once for these `frames`, `size` and `seed`, then read from the cache.

    `train/`, `val/` (or `validation/`) and `test/` with class folders inside are the splits; without `test/`, half
    of the validation videos of each class are it. Else a fifth of each class (rounded, at least one) is for
    validation, a fifth for the test and the rest for training, drawn by `seed`. Copies of a file stay in one split.

    `progress` is told (videos read, videos). Raises UbenchError where the folder does not hold such clips, or more
    than a tenth of its videos must be left out.
    """
    if frames < 1 or min(size) < 1 or seed < 0:
        raise UbenchError(f"frames and size must be positive and seed not negative, got {frames}, {size} and {seed}")
    root = Path(path).resolve()
    classes, videos = list_videos(root)
    directory = cache_dir(cache)
    key = f"folder-{_key(root, videos, frames, size, seed)}"
    arrays = cached_arrays(
        directory, key, lambda: _make(videos, classes, frames, size, seed, directory, progress or _say_nothing)
    )
    train, validation, test = (Split(arrays[f"{name}_clips"], arrays[f"{name}_labels"]) for name in SPLITS)
    card = {"name": shown(root.name), "kind": "folder", **json.loads(arrays["card"].tobytes())}
    return Clips(train, validation, test, tuple(classes), card)


def _say_nothing(done: int, total: int) -> None:
    pass


def _key(root: Path, videos: list[Video], frames: int, size: tuple[int, int], seed: int) -> str:
    """Changes with anything that the clips are made from, as far as can be seen without reading the files."""
    about: list[object] = [VERSION, av.__version__, os.fspath(root), frames, size, seed]
    for video in videos:
        stat = None if video.fault else video.path.stat()
        about.append((os.fspath(video.path), video.fault, stat and (stat.st_size, stat.st_mtime_ns)))
    return hashlib.sha256(repr(about).encode(errors="surrogateescape")).hexdigest()[:16]


def _make(
    videos: list[Video],
    classes: list[str],
    frames: int,
    size: tuple[int, int],
    seed: int,
    directory: Path,
    progress: Progress,
) -> dict[str, np.ndarray]:
    shape = (frames, *size, 3)
    _check_room(directory, len(videos) * int(np.prod(shape)))
    rows = _scratch(directory, len(videos), shape)
    readings = _read_all(videos, rows, progress)
    faults = _faults(videos, readings)
    _check_faults(videos, faults)
    splits = _split(videos, readings, faults, classes, seed)
    labels = np.array([video.label for video in videos], np.int64)
    arrays = {}
    for name, indices in splits.items():
        arrays[f"{name}_labels"] = labels[indices]
        arrays[f"{name}_clips"] = clips = _scratch(directory, len(indices), shape)
        for row, index in enumerate(indices):
            clips[row] = rows[index]
    made = {"version": VERSION, "decoder": f"PyAV {av.__version__}", "seed": seed, "frames": frames, "size": list(size)}
    card = _card(videos, readings, faults, splits, classes, made)
    arrays["card"] = np.frombuffer(json.dumps(card).encode(), np.uint8)
    return arrays


def _card(
    videos: list[Video],
    readings: list[Reading],
    faults: list[str | None],
    splits: dict[str, list[int]],
    classes: list[str],
    made: dict[str, Any],
) -> dict[str, Any]:
    """Plain data about the clips; `hash` covers the contents of the files and all that decides what is made of them."""
    files = sorted((video.name, reading.digest) for video, reading in zip(videos, readings, strict=True))
    return {
        **made,
        "hash": hashlib.sha256(json.dumps([files, made]).encode()).hexdigest()[:16],
        "classes": classes,
        "counts": {name: len(indices) for name, indices in splits.items()},
        "class_counts": {
            name: np.bincount([videos[index].label for index in indices], minlength=len(classes)).tolist()
            for name, indices in splits.items()
        },
        "short_clips": sum(readings[i].frames < made["frames"] for indices in splits.values() for i in indices),
        "left_out": [
            {"path": video.name, "reason": fault} for video, fault in zip(videos, faults, strict=True) if fault
        ],
    }


def _check_room(directory: Path, clip_bytes: int) -> None:
    """Clips are decoded to one scratch file, sorted into splits in another and saved: three times their size."""
    free = shutil.disk_usage(directory).free
    if 3 * clip_bytes > free:
        raise UbenchError(
            f"the cache folder must have {3 * clip_bytes / 1e9:.1f} GB free, got {free / 1e9:.1f} GB in {directory}: "
            "name another one, or take fewer frames or a smaller size"
        )


def _scratch(directory: Path, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """An array (count, *shape) of uint8 in a nameless file, so that the clips need not fit into memory."""
    with tempfile.TemporaryFile(dir=directory) as file:
        return np.memmap(file, np.uint8, "w+", shape=(count, *shape))


def _read_all(videos: list[Video], rows: np.ndarray, progress: Progress) -> list[Reading]:
    """Fills rows[i] (T, H, W, 3) from videos[i], whatever the order in which the files get done."""
    pool = ThreadPoolExecutor(READERS)
    try:
        readings = []
        for reading in pool.map(_read, videos, rows):
            readings.append(reading)
            progress(len(readings), len(videos))
        return readings
    finally:
        pool.shutdown(cancel_futures=True)


def _read(video: Video, row: np.ndarray) -> Reading:
    digest = ""
    try:
        if video.fault:
            raise UnreadableError(video.fault)
        with open(video.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Reading(digest, read_clip(video.path, row), None)
    except OSError as error:  # here it is the file that cannot be opened
        return Reading(digest, 0, f"cannot be opened: {error.strerror}")
    except UnreadableError as error:
        return Reading(digest, 0, str(error))


# --- which clips, and in which split ---


def _faults(videos: list[Video], readings: list[Reading]) -> list[str | None]:
    """Why each video is left out: it cannot be read, copies disagree on the class, or it is a copy across splits.

    Of copies across given splits the one in the test stays, then the one in validation, so that no model trains
    on what it is judged by.
    """
    faults = [reading.fault for reading in readings]
    copies: dict[str, list[Video]] = {}
    for video, reading in zip(videos, readings, strict=True):
        if reading.fault is None:
            copies.setdefault(reading.digest, []).append(video)
    for index, video in enumerate(videos):
        if faults[index] is None:
            faults[index] = _copy_fault(video, copies[readings[index].digest])
    return faults


def _copy_fault(video: Video, same: list[Video]) -> str | None:
    for other in same:
        if other.label != video.label:
            return f"the same file as {other.name} of another class"
    if video.split is not None:
        last = max(same, key=lambda copy: SPLITS.index(copy.split or "train"))
        if last.split != video.split:
            return f"the same file as {last.name} of another split"
    return None


def _check_faults(videos: list[Video], faults: list[str | None]) -> None:
    bad = [f"{video.name}: {fault}" for video, fault in zip(videos, faults, strict=True) if fault]
    if len(bad) == len(videos):
        raise UbenchError(f"there must be videos that can be read, got none in {len(videos)}; the first is {bad[0]}")
    if 10 * len(bad) > len(videos):
        raise UbenchError(
            f"at most a tenth of the videos may be left out, got {len(bad)} of {len(videos)}: "
            f"repair or remove them; the first is {bad[0]}"
        )


def _split(
    videos: list[Video], readings: list[Reading], faults: list[str | None], classes: list[str], seed: int
) -> dict[str, list[int]]:
    """The indices of the good videos in each split, ascending."""
    has_test = any(video.split == "test" for video in videos)
    splits: dict[str, list[int]] = {name: [] for name in SPLITS}
    for label, name in enumerate(classes):
        own = [i for i, video in enumerate(videos) if video.label == label and faults[i] is None]
        given = {part: [i for i in own if videos[i].split == part] for part in (*SPLITS, None)}
        rng = np.random.default_rng([seed, *name.encode()])  # a class more leaves the others as they are
        if videos[0].split is None:
            given = _deal(name, _shuffled_groups(given[None], readings, rng))
        elif not has_test:
            groups = _shuffled_groups(given["validation"], readings, rng)
            half = len(groups) // 2
            given["test"], given["validation"] = _flat(groups[:half]), _flat(groups[half:])
        for part in SPLITS:
            splits[part] += given[part]
    for part, indices in splits.items():
        if not indices:
            raise UbenchError(f"every split must hold a readable video, got none for {part}")
    return {part: sorted(indices) for part, indices in splits.items()}


def _deal(name: str, groups: list[list[int]]) -> dict[str | None, list[int]]:
    if len(groups) < 3:
        raise UbenchError(
            f"a class must have at least 3 different readable videos to be split in three, got {len(groups)} "
            f"in {name!r}: add some, or make train/, val/ and test/ folders of your own"
        )
    share = max(1, (len(groups) + 2) // 5)
    parts = {"validation": groups[:share], "test": groups[share : 2 * share], "train": groups[2 * share :]}
    return {part: _flat(some) for part, some in parts.items()}


def _flat(groups: list[list[int]]) -> list[int]:
    return [index for group in groups for index in group]


def _shuffled_groups(indices: list[int], readings: list[Reading], rng: np.random.Generator) -> list[list[int]]:
    """Videos together with their copies, in the order of their names and then shuffled."""
    groups: dict[str, list[int]] = {}
    for index in indices:
        groups.setdefault(readings[index].digest, []).append(index)
    ordered = list(groups.values())
    return [ordered[place] for place in rng.permutation(len(ordered))]
