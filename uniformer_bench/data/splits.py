"""Which clips are left out and which split each is in, so that no model is judged by what it was trained on.

Clips that are copies of one file, or were cut from one source video, stay together. Nothing here reads a file, and
the outcome depends on names, hashes and the seed alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from uniformer_bench.data.listing import SPLITS, Video
from uniformer_bench.errors import UbenchError


class Reading(NamedTuple):
    """What reading a video told: the hash of the file, how many frames it holds, or why it cannot be used."""

    digest: str
    frames: int
    fault: str | None


def find_faults(videos: Sequence[Video], readings: Sequence[Reading]) -> list[str | None]:
    """Why each video is left out: it cannot be read, copies disagree on the class, or it is in two given splits.

    Of copies across given splits, and of clips of one source, the ones in the test stay, then those in validation.
    """
    faults = [reading.fault for reading in readings]
    good = [index for index, fault in enumerate(faults) if fault is None]
    digests, sources = (
        _together(videos, good, key) for key in (lambda i: readings[i].digest, lambda i: videos[i].source)
    )
    for index in good:
        video = videos[index]
        faults[index] = _copy_fault(video, digests[readings[index].digest])
        if faults[index] is None and video.source is not None:
            faults[index] = _leak(video, sources[video.source], "cut from the same video as")
    return faults


def _together(
    videos: Sequence[Video], good: Sequence[int], key: Callable[[int], str | None]
) -> dict[str | None, list[Video]]:
    groups: dict[str | None, list[Video]] = {}
    for index in good:
        groups.setdefault(key(index), []).append(videos[index])
    return groups


def _copy_fault(video: Video, same: Sequence[Video]) -> str | None:
    for other in same:
        if other.label != video.label:
            return f"the same file as {other.name} of another class"
    return _leak(video, same, "the same file as")


def _leak(video: Video, same: Sequence[Video], how: str) -> str | None:
    if video.split is None:
        return None
    last = max(same, key=lambda copy: SPLITS.index(copy.split or "train"))
    return f"{how} {last.name} of another split" if last.split != video.split else None


# --- dealing ---


def deal(
    videos: Sequence[Video],
    readings: Sequence[Reading],
    faults: Sequence[str | None],
    classes: Sequence[str],
    seed: int,
) -> dict[str, list[int]]:
    """The indices of the good videos in each split, ascending.

    Given splits are kept. A validation split that is not given is a fifth of each class of those for training
    (rounded, at least one), a test split half of a given validation split, or else a fifth as well.
    """
    groups = _groups(videos, readings, faults)
    given = {video.split for video in videos}
    splits: dict[str, list[int]] = {name: [] for name in SPLITS}
    placed: dict[int, str] = {}  # the split of a group that an earlier class has dealt
    for label, name in enumerate(classes):
        rng = np.random.default_rng([seed, *name.encode()])  # a class more leaves the others as they are
        own = [i for i, video in enumerate(videos) if video.label == label and faults[i] is None]
        for part, kept in _given(videos, own, given).items():
            splits[part] += kept
        shared = [i for i in own if videos[i].split == _divided(given)]
        shares = _shares(name, len({groups[i] for i in shared}), given)
        for index, part in _dealt(shared, groups, shares, placed, rng).items():
            splits[part].append(index)
    for part, indices in splits.items():
        if not indices:
            raise UbenchError(f"every split must hold a readable video, got none for {part}")
    return {part: sorted(indices) for part, indices in splits.items()}


def _divided(given: set[str | None]) -> str | None:
    """The given split that is dealt out: all clips, the validation for its other half, or the training for a fifth."""
    if None in given:
        return None
    return "validation" if "test" not in given else "train" if "validation" not in given else "none"


def _given(videos: Sequence[Video], own: Sequence[int], given: set[str | None]) -> dict[str, list[int]]:
    kept = [part for part in SPLITS if part in given and part != _divided(given)]
    return {part: [i for i in own if videos[i].split == part] for part in kept}


def _shares(name: str, count: int, given: set[str | None]) -> dict[str, int]:
    """How many of a class's `count` groups go to each split but the last, which takes the rest."""
    fifth, divided = max(1, (count + 2) // 5), _divided(given)
    if divided == "validation":
        return {"test": count // 2, "validation": count}
    if divided == "train":
        return {"validation": min(fifth, count // 2), "train": count}
    if divided is None and count < 3:
        raise UbenchError(
            f"a class must have at least 3 different readable videos to be split in three, got {count} "
            f"in {name!r}: add some, or make train/, val/ and test/ folders of your own"
        )
    return {"validation": fifth, "test": fifth, "train": count}


def _dealt(
    indices: Sequence[int],
    groups: Sequence[int],
    shares: dict[str, int],
    placed: dict[int, str],
    rng: np.random.Generator,
) -> dict[int, str]:
    """The split of every index. A group that is in `placed` stays where it is; where the others go is added to it."""
    own = list(dict.fromkeys(groups[i] for i in indices))
    left = {part: count - sum(placed.get(group) == part for group in own) for part, count in shares.items()}
    for group in (own[place] for place in rng.permutation(len(own))):
        if group not in placed:
            placed[group] = next((part for part, count in left.items() if count > 0), list(shares)[-1])
            left[placed[group]] -= 1
    return {i: placed[groups[i]] for i in indices}


def _groups(videos: Sequence[Video], readings: Sequence[Reading], faults: Sequence[str | None]) -> list[int]:
    """For every video the first one that it must stay with, by a chain of copies and common sources."""
    first: dict[object, int] = {}
    leader = list(range(len(videos)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for index, video in enumerate(videos):
        if faults[index] is None:
            for key in [("file", readings[index].digest)] + [("source", video.source)] * (video.source is not None):
                a, b = sorted((find(index), find(first.setdefault(key, index))))
                leader[b] = a
    return [find(index) for index in range(len(videos))]
