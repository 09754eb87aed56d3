"""Videos into three splits of clips: each file decoded once, sampled, and kept as uint8 in the cache.

A video that cannot be read, or is a copy in another class or split, is left out with a reason and never
replaced by another. Clips do not depend on the order in which files get done, nor on how many of them the cache has
room for: those that it has none for are decoded again whenever they are asked for.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import numpy as np

from uniformer_bench.data.cache import cache_dir, cached_arrays
from uniformer_bench.data.clips import Clips, Split
from uniformer_bench.data.listing import SPLITS, Listing, Video
from uniformer_bench.data.reading import StreamedClips, read_video, side_by_side
from uniformer_bench.data.splits import Reading, deal, find_faults
from uniformer_bench.errors import UbenchError

VERSION = 2  # of how clips are made: part of the cache's key
MAX_BAD = 0.1  # share of the videos that may be left out
CACHE_LIMIT_GB = 20.0
NAMED = 1000  # left-out videos that the card names


class Watch(Protocol):
    """Whom loading tells what it does."""

    def say(self, sentence: str) -> None:
        """A sentence for a person."""

    def decoded(self, done: int, total: int) -> None:
        """So many videos are decoded."""


class Sampling(NamedTuple):
    """How a clip is taken from its video; `stride` 0 is uniform sampling, see video.sample_indices."""

    frames: int
    size: tuple[int, int]
    stride: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)."""
        return (self.frames, *self.size, 3)


def load_videos(
    listing: Listing,
    sampling: Sampling,
    *,
    seed: int,
    cache: Path | None = None,
    cache_limit_gb: float = CACHE_LIMIT_GB,
    max_bad: float = MAX_BAD,
    watch: Watch | None = None,
) -> Clips:
    """The clips of a listing: decoded once for this sampling and seed, then read from the cache.

    What does not fit the cache's limit, or its disk, is streamed. Splits that are not given are dealt by `seed`, see
    splits.deal. Raises UbenchError where the listing does not hold such clips, or where more than `max_bad` of its
    videos must be left out.
    """
    if sampling.frames < 1 or min(sampling.size) < 1 or sampling.stride < 0 or seed < 0:
        raise UbenchError(f"frames and size must be positive, stride and seed not negative, got {sampling}, {seed}")
    directory = cache_dir(cache)
    if watch:
        watch.say(listing.detected)

    def make() -> dict[str, np.ndarray]:
        missing = _named(listing.videos, [video.fault for video in listing.videos])
        _check_share(missing, len(missing), len(listing.videos), max_bad)  # before hours of decoding
        for other in directory.glob(f"{whole}-within-*"):  # made under another limit
            shutil.rmtree(other, ignore_errors=True)
        return _make(listing, sampling, seed, directory, kept, max_bad, watch)

    whole = f"videos-{_key(listing, sampling, seed)}"
    entry, kept = _entry(directory, whole, len(listing.videos), sampling, cache_limit_gb)
    arrays = cached_arrays(directory, entry, make)
    train, validation, test = (_split(name, arrays, listing, sampling) for name in SPLITS)
    card: dict[str, Any] = {"name": listing.name, "kind": listing.kind, "detected": listing.detected}
    card |= json.loads(arrays["card"].tobytes())
    _check_share(card["left_out"], card["left_out_count"], len(listing.videos), max_bad)
    if watch and card["left_out"]:
        watch.say(_left_out_text(card["left_out"], card["left_out_count"], len(listing.videos)))
    if watch and "train_streamed" in arrays:
        watch.say(_streamed_text((train, validation, test), cache_limit_gb, directory))
    return Clips(train, validation, test, listing.classes, card)


def _split(name: str, arrays: dict[str, np.ndarray], listing: Listing, sampling: Sampling) -> Split:
    clips, labels = arrays[f"{name}_clips"], arrays[f"{name}_labels"]
    if f"{name}_streamed" not in arrays:
        return Split(clips, labels)
    videos = tuple(listing.videos[index] for index in arrays[f"{name}_streamed"])
    digests = tuple(digest.decode() for digest in arrays[f"{name}_digests"].tolist())
    return Split(StreamedClips(clips, videos, digests, sampling.stride), labels)


def _streamed_text(splits: Sequence[Split], limit_gb: float, directory: Path) -> str:
    total = sum(len(split.labels) for split in splits)
    streamed = sum(len(split.clips.videos) for split in splits if isinstance(split.clips, StreamedClips))
    return (
        f"{streamed} of {total} clips are decoded each time they are asked for, which is slow: the cache's limit of "
        f"{limit_gb:.3g} GB, or the disk under {directory}, has no room for them; raise --cache-limit, name another "
        "folder with --cache, or take fewer frames or a smaller size"
    )


def _named(videos: Sequence[Video], faults: Sequence[str | None]) -> list[dict[str, str]]:
    return [
        {"path": video.name, "reason": fault} for video, fault in zip(videos, faults, strict=True) if fault is not None
    ]


def _left_out_text(named: Sequence[dict[str, str]], count: int, total: int) -> str:
    first = f"{named[0]['path']}: {named[0]['reason']}"
    return f"{count} of {total} videos left out, for every trial alike; the first is {first}"


def _check_share(named: Sequence[dict[str, str]], count: int, total: int, max_bad: float) -> None:
    if count / total > max_bad:
        raise UbenchError(
            f"at most {max_bad:.3g} of the videos may be left out, got {count} of {total}: repair or remove them, "
            "name their folder with --data-root, or allow more with --max-bad; "
            f"the first is {named[0]['path']}: {named[0]['reason']}"
        )


def _key(listing: Listing, sampling: Sampling, seed: int) -> str:
    """Changes with anything that the clips are made from, as far as can be seen without reading the files.

    Of a folder of pictures that is its own time of change, not that of every picture.
    """
    about: list[object] = [VERSION, av.__version__, listing.classes, sampling, seed]
    for video in listing.videos:
        stat = None if video.fault else video.path.stat()
        about.append((os.fspath(video.path), *video[1:], stat and (stat.st_size, stat.st_mtime_ns)))
    return hashlib.sha256(repr(about).encode(errors="surrogateescape")).hexdigest()[:16]


def _make(
    listing: Listing, sampling: Sampling, seed: int, directory: Path, kept: int, max_bad: float, watch: Watch | None
) -> dict[str, np.ndarray]:
    """The arrays of an entry: clips of the first `kept` videos, and of the others which they are and their hashes."""
    videos, classes = listing.videos, listing.classes
    rows = _scratch(directory, kept, sampling.shape)
    readings = _read_all(videos, rows, sampling, watch)
    faults = find_faults(videos, readings)
    named = _named(videos, faults)
    if len(named) == len(videos):
        first = f"{named[0]['path']}: {named[0]['reason']}"
        raise UbenchError(f"there must be videos that can be read, got none in {len(videos)}; the first is {first}")
    try:
        splits = deal(videos, readings, faults, classes, seed)
    except UbenchError:
        _check_share(named, len(named), len(videos), max_bad)  # the better reason
        raise
    made = {"version": VERSION, "decoder": f"PyAV {av.__version__}", "seed": seed, "frames": sampling.frames,
            "size": list(sampling.size), "stride": sampling.stride}  # fmt: skip
    card = {**made, **_card(listing, readings, splits, made), "left_out_count": len(named), "left_out": named[:NAMED]}
    arrays: dict[str, np.ndarray] = {"card": np.frombuffer(json.dumps(card).encode(), np.uint8)}
    for name, indices in splits.items():
        arrays[f"{name}_labels"] = np.array([videos[index].label for index in indices], np.int64)
        arrays[f"{name}_clips"] = _sorted(directory, rows, [index for index in indices if index < kept])
        if kept < len(videos):
            streamed = [index for index in indices if index >= kept]
            arrays[f"{name}_streamed"] = np.array(streamed, np.int64)
            arrays[f"{name}_digests"] = np.array([readings[index].digest for index in streamed], "S64")
    return arrays


def _sorted(directory: Path, rows: np.ndarray, indices: Sequence[int]) -> np.ndarray:
    clips = _scratch(directory, len(indices), rows.shape[1:])
    for row, index in enumerate(indices):
        clips[row] = rows[index]
    return clips


def _card(
    listing: Listing, readings: Sequence[Reading], splits: dict[str, list[int]], made: dict[str, Any]
) -> dict[str, Any]:
    """Plain data about the clips; `hash` covers the contents of the files and all that decides what is made of them."""
    videos, classes = listing.videos, listing.classes
    files = sorted(
        (video.name, reading.digest, classes[video.label], video.split or "", video.source or "")
        for video, reading in zip(videos, readings, strict=True)
    )
    return {
        "hash": hashlib.sha256(json.dumps([files, made]).encode()).hexdigest()[:16],
        "classes": list(classes),
        "counts": {name: len(indices) for name, indices in splits.items()},
        "class_counts": {
            name: np.bincount([videos[index].label for index in indices], minlength=len(classes)).tolist()
            for name, indices in splits.items()
        },
        "short_clips": sum(readings[i].frames < made["frames"] for indices in splits.values() for i in indices),
    }


def _entry(directory: Path, whole: str, videos: int, sampling: Sampling, limit_gb: float) -> tuple[str, int]:
    """The name of the cache's entry, and how many of the videos' clips it is to hold.

    What is there decides, so that all processes of a search read the same.
    """
    part = f"{whole}-within-{limit_gb:g}-GB"
    if (directory / whole).exists():
        return whole, videos
    kept = _room_for(directory, whole, videos, sampling, limit_gb)
    return (part, kept) if kept < videos or (directory / part).exists() else (whole, kept)


def _room_for(directory: Path, whole: str, videos: int, sampling: Sampling, limit_gb: float) -> int:
    """How many of the videos' clips the cache takes, beside all but what it holds of these already.

    Clips are decoded to one scratch file, sorted into splits in another and saved: three times their size.
    """
    there = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    room = min(limit_gb * 1e9 - _held_bytes(directory, whole), shutil.disk_usage(there).free / 3)
    return min(videos, max(0, int(room / np.prod(sampling.shape))))


def _held_bytes(directory: Path, besides: str) -> int:
    held = 0
    for path in (path for path in directory.rglob("*.npy") if not path.parent.name.startswith(besides)):
        with suppress(FileNotFoundError):  # another process has just finished its entry
            held += path.stat().st_size
    return held


def _scratch(directory: Path, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """An array (count, *shape) of uint8 in a nameless file, so that the clips need not fit into memory."""
    if count == 0:
        return np.empty((0, *shape), np.uint8)  # no file of no bytes can be mapped
    with tempfile.TemporaryFile(dir=directory) as file:
        return np.memmap(file, np.uint8, "w+", shape=(count, *shape))


# --- reading ---


def _read_all(videos: Sequence[Video], rows: np.ndarray, sampling: Sampling, watch: Watch | None) -> list[Reading]:
    """Fills rows[i] (T, H, W, 3) from videos[i], whatever the order in which the files get done; what has no row is
    read for what it tells."""

    def read(index: int) -> Reading:
        row = rows[index] if index < len(rows) else np.empty(sampling.shape, np.uint8)
        return read_video(videos[index], row, sampling.stride)[0]

    readings = []
    for reading in side_by_side(read, range(len(videos))):
        readings.append(reading)
        if watch:
            watch.decoded(len(readings), len(videos))
    return readings
