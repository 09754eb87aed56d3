"""Reads one video file into a clip of few frames.

A clip is the whole video at T frames, each from the middle of one of T equal parts (the field's uniform, or sparse,
sampling), or every n-th frame about its middle (dense sampling). Frames are counted, not timed, as the paper's code
does: a variable rate changes nothing. They are turned upright, the short side resized and the centre cropped to
(H, W); pixels are taken as square. A file is read whole and as itself, or refused with a reason that does not name
the path. What cannot be told: bits that were changed yet still decode, as they do in VP9, and a file cut short
whose header has neither a count of frames nor a duration (.gif, .mpg).
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition

MAX_FRAMES = 100_000  # an hour at 28 frames a second: what is longer is not a clip
MAX_PIXELS = 8192 * 8192  # of one frame: what is larger is more likely an attack on memory
MAX_SECONDS = 600.0  # of decoding one file
# Playlists and scripts, which FFmpeg would follow to other files and hosts, are no videos here.
OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,avi,matroska,webm,mpeg,mpegts,mpegvideo,gif",
}


class UnreadableError(Exception):
    """Why this file cannot be a clip."""


class Facts(NamedTuple):
    """How many frames a clip's file holds, their size as stored, and frames a second and seconds where it says."""

    frames: int
    width: int
    height: int
    rate: float | None
    seconds: float | None


def sample_indices(available: int, frames: int, stride: int = 0) -> list[int]:
    """Which of a video's frames to take; frames repeat where it has too few.

    Stride 0: the frame in the middle of each of `frames` equal parts. Else every `stride`-th frame about the middle
    of the video, the last one again and again where it ends before.
    """
    if stride == 0:
        return [(2 * part + 1) * available // (2 * frames) for part in range(frames)]
    start = max(0, (available - (frames - 1) * stride - 1) // 2)
    return [min(start + stride * step, available - 1) for step in range(frames)]


def read_clip(path: Path, row: np.ndarray, stride: int = 0) -> Facts:
    """Samples a video into `row` (T, H, W, 3) uint8 and says what it is.

    Raises UnreadableError.
    """
    try:
        return _sample(path, row, stride)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__  # the whole message names the path
        raise UnreadableError(f"cannot be decoded: {reason}") from None


def _sample(path: Path, row: np.ndarray, stride: int) -> Facts:
    """As read_clip. How many frames there are is known for sure only after decoding: the header is believed at first,
    or the packets counted where it does not say, and the file is decoded again where that was wrong.
    """
    expected = 0
    for _ in range(2):
        with _open(path) as container:
            stream = _stream(container)
            expected = expected or stream.frames or _count_packets(path)
            wanted: dict[int, list[int]] = {}
            for part, index in enumerate(sample_indices(expected, len(row), stride)):
                wanted.setdefault(index, []).append(part)
            count, frame = 0, None
            for count, frame in enumerate(_decoded(container, stream), start=1):
                if parts := wanted.get(count - 1):
                    row[parts] = upright(frame, row.shape[1:3])
            if frame is None:
                raise UnreadableError("no frame can be decoded")
            if count == expected:
                return _facts(container, stream, count, frame)
        expected = count
    raise UnreadableError("the file changed while it was read")


def _facts(container: av.container.InputContainer, stream: av.VideoStream, count: int, frame: av.VideoFrame) -> Facts:
    rate = float(stream.average_rate) if stream.average_rate else None
    seconds = _promised_seconds(container, stream) or (count / rate if rate else None)
    return Facts(count, frame.width, frame.height, rate, seconds)


def _open(path: Path) -> av.container.InputContainer:
    return av.open(os.fspath(path), metadata_errors="replace", options=OPEN_OPTIONS, timeout=MAX_SECONDS)


def _stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not a picture attached to sound."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.width * stream.height > MAX_PIXELS:
                raise UnreadableError(f"a frame of {stream.width} x {stream.height} pixels is too large")
            stream.codec_context.thread_count = 1  # files are read side by side
            return stream
    raise UnreadableError("no video in the file")


def _count_packets(path: Path) -> int:
    with _open(path) as container:
        count = 0
        for packet in container.demux(_stream(container)):
            count += packet.size > 0  # the last one is empty: it flushes the decoder
            _check_length(count)
        return count


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """All frames in order. Raises UnreadableError at a damaged one, or where much that the header promises misses."""
    deadline = time.monotonic() + MAX_SECONDS
    count, last = 0, 0
    for count, frame in enumerate(container.decode(stream), start=1):
        _check_length(count)
        if time.monotonic() > deadline:
            raise UnreadableError(f"decoding takes longer than {MAX_SECONDS:g} s: cut it into clips")
        if frame.is_corrupt:
            raise UnreadableError(f"frame {count - 1} is damaged")
        last = max(last, (frame.pts or 0) + frame.duration)  # in units of the time base, as fractions are slow
        yield frame
    if 2 * count < stream.frames:  # a header may be a little wrong; one that is this wrong was written for more
        raise UnreadableError(f"only {count} of {stream.frames} frames can be decoded")
    promised = None if stream.frames else _promised_seconds(container, stream)
    end = float(last * (stream.time_base or 0))
    if promised and count and end * (count + 1) / count < 0.9 * promised:  # the last frame is shown for a while, too
        raise UnreadableError(f"only {end:.3g} of {promised:.3g} s can be decoded")


def _promised_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """How long the header says that the video is; of sound and video together it says nothing of the video."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _check_length(count: int) -> None:
    if count > MAX_FRAMES:
        raise UnreadableError(f"more than {MAX_FRAMES} frames: cut it into clips")


def upright(frame: av.VideoFrame, size: tuple[int, ...]) -> np.ndarray:
    """The frame turned as its header says, resized so that it covers `size` and cropped to it: (H, W, 3) RGB."""
    quarters = round(frame.rotation / 90) % 4  # anticlockwise, as in numpy
    height, width = size if quarters % 2 == 0 else size[::-1]
    scale = max(height / frame.height, width / frame.width)
    high, wide = max(height, round(frame.height * scale)), max(width, round(frame.width * scale))
    resized = frame.reformat(wide, high, "rgb24", interpolation="AREA", threads=1).to_ndarray()
    top, left = (high - height) // 2, (wide - width) // 2
    return np.rot90(resized[top : top + height, left : left + width], quarters)
