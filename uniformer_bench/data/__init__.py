"""Labelled clips: the built-in ones, and videos in a folder or a list."""

from pathlib import Path

from uniformer_bench.data.clips import Clips
from uniformer_bench.data.digits import load_digits_in_motion
from uniformer_bench.data.sources import read_listing
from uniformer_bench.data.videos import CACHE_LIMIT_GB, MAX_BAD, Sampling, Watch, load_videos
from uniformer_bench.errors import UbenchError


def load_clips(
    source: str,
    frames: int,
    size: tuple[int, int],
    seed: int,
    cache: Path | None,
    *,
    root: Path | None = None,
    validation: Path | None = None,
    source_pattern: str | None = None,
    stride: int = 0,
    max_bad: float = MAX_BAD,
    cache_limit_gb: float = CACHE_LIMIT_GB,
    watch: Watch | None = None,
) -> Clips:
    """The clips of `source` at this number of frames and (height, width).

    `source` is "builtin", or what sources.read_listing takes; all but `watch` is plain data, so that another process
    can be told to load the same.
    """
    if source == "builtin":
        if root or validation or source_pattern or stride:
            raise UbenchError(
                "a root, validation clips, a source pattern and a stride are for videos, got builtin clips"
            )
        return load_digits_in_motion(frames=frames, size=size, seed=seed, cache=cache)
    listing = read_listing(Path(source), root=root, validation=validation, source_pattern=source_pattern)
    return load_videos(
        listing,
        Sampling(frames, size, stride),
        seed=seed,
        cache=cache,
        cache_limit_gb=cache_limit_gb,
        max_bad=max_bad,
        watch=watch,
    )
