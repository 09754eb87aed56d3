"""Labelled clips: the built-in ones, and folders of video files."""

from pathlib import Path

from uniformer_bench.data.clips import Clips
from uniformer_bench.data.digits import load_digits_in_motion
from uniformer_bench.data.folder import load_folder


def load_clips(source: str, frames: int, size: tuple[int, int], seed: int, cache: Path | None) -> Clips:
    """The clips of `source`, "builtin" or a folder of videos, at this number of frames and (height, width)."""
    if source == "builtin":
        return load_digits_in_motion(frames=frames, size=size, seed=seed, cache=cache)
    return load_folder(Path(source), frames=frames, size=size, seed=seed, cache=cache)
