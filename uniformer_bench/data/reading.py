"""Files into clips: one at a time or side by side, into an array or whenever they are asked for."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from uniformer_bench.data.listing import Video
from uniformer_bench.data.pictures import read_pictures
from uniformer_bench.data.splits import Reading
from uniformer_bench.data.video import Facts, UnreadableError, read_clip
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.protocol import default_threads

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def side_by_side(
    work: Callable[[Item], Outcome], items: Sequence[Item], threads: int | None = None
) -> Iterator[Outcome]:
    """What comes of each item, in their order; one file a thread at a time, as PyAV decodes outside Python's lock and
    each with one thread. `threads` are the cores unless told."""
    pool = ThreadPoolExecutor(threads or default_threads())
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(work: Callable[[Item], Outcome], items: Iterable[Item]) -> Iterator[Outcome]:
    """What comes of each item, in their order; the next one is under way while one is used."""
    pool = ThreadPoolExecutor(1)
    try:
        waiting = None
        for item in items:
            begun = pool.submit(work, item)
            if waiting is not None:
                yield waiting.result()
            waiting = begun
        if waiting is not None:
            yield waiting.result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_video(video: Video, row: np.ndarray, stride: int = 0) -> tuple[Reading, Facts | None]:
    """Reads a video into `row` (T, H, W, 3); what can go wrong with a file is told in the reading, not raised."""
    digest = ""
    try:
        if video.fault:
            raise UnreadableError(video.fault)
        if video.path.is_dir():
            facts, digest = read_pictures(video.path, row, stride)
        else:
            with open(video.path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            facts = read_clip(video.path, row, stride)
        return Reading(digest, facts.frames, None), facts
    except OSError as error:  # here it is the file that cannot be opened
        return Reading(digest, 0, f"cannot be opened: {error.strerror}"), None
    except UnreadableError as error:
        return Reading(digest, 0, str(error)), None


@dataclass(frozen=True, eq=False)
class StreamedClips:
    """Clips (N, T, H, W, 3) uint8 of which the first are kept and the others decoded each time they are asked for.

    Indexed along N as an array is, by a number, a slice or an array, and gives an array of its own. `digests` are
    those of the videos' files when they were first read.
    """

    kept: np.ndarray
    videos: tuple[Video, ...]
    digests: tuple[str, ...]
    stride: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, T, H, W, 3)."""
        return (len(self.kept) + len(self.videos), *self.kept.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """The clips of `index`. Raises UbenchError where a file can no longer be read as it was."""
        import torch  # here: whoever asks for clips has loaded it

        wanted = np.arange(len(self))[index]
        clips = np.empty((wanted.size, *self.shape[1:]), np.uint8)
        pairs = list(zip(wanted.flat, clips, strict=True))
        list(side_by_side(lambda pair: self._read(*pair), pairs, torch.get_num_threads()))  # a worker's share of cores
        return clips.reshape(*wanted.shape, *self.shape[1:])

    def _read(self, index: int, row: np.ndarray) -> None:
        place = index - len(self.kept)
        if place < 0:
            row[:] = self.kept[index]
            return
        video = self.videos[place]
        reading, _ = read_video(video, row, self.stride)
        if reading.fault or reading.digest != self.digests[place]:
            got = reading.fault or "another content"
            raise UbenchError(f"videos must stay as they are while clips are read from them, got {video.name}: {got}")
