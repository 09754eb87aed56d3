"""Reads one video file into a clip of few frames.

A clip is the whole video at T frames, each from the middle of one of T equal parts (the field's sparse sampling),
turned upright, its short side resized and its centre cropped to (H, W); pixels are taken as square. A file is
read whole and as itself, or refused with a reason that does not name the path. A stream without a count of frames
(.mkv, .webm, .gif, .mpg) that was cut short cannot be told from a shorter video, and is read as one.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

MAX_FRAMES = 100_000  # an hour at 28 frames a second: what is longer is not a clip
MAX_PIXELS = 8192 * 8192  # of one frame: what is larger is more likely an attack on memory
# Playlists and scripts, which FFmpeg would follow to other files and hosts, are no videos here.
OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,avi,matroska,webm,mpeg,mpegts,mpegvideo,gif",
}


class UnreadableError(Exception):
    """Why this file cannot be a clip."""


def sample_indices(available: int, frames: int) -> list[int]:
    """The frame in the middle of each of `frames` equal parts of a video; frames repeat where it has fewer."""
    return [(2 * part + 1) * available // (2 * frames) for part in range(frames)]


def read_clip(path: Path, row: np.ndarray) -> int:
    """Samples a video into `row` (T, H, W, 3) uint8 and returns how many frames it has.

    Raises UnreadableError.
    """
    try:
        return _sample(path, row)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__  # the whole message names the path
        raise UnreadableError(f"cannot be decoded: {reason}") from None


def _sample(path: Path, row: np.ndarray) -> int:
    """As read_clip. How many frames there are is known for sure only after decoding: the packets are counted first,
    which is cheap, and the file is decoded again where that was wrong.
    """
    expected = _count_packets(path)
    for _ in range(2):
        wanted = sample_indices(expected, len(row))
        count = 0
        for count, frame in enumerate(_decoded(path), start=1):
            if count - 1 in wanted:
                row[[part for part, index in enumerate(wanted) if index == count - 1]] = _picture(frame, row.shape[1:3])
        if count == 0:
            raise UnreadableError("no frame can be decoded")
        if count == expected:
            return count
        expected = count
    raise UnreadableError("the file changed while it was read")


def _open(path: Path) -> av.container.InputContainer:
    return av.open(os.fspath(path), metadata_errors="replace", options=OPEN_OPTIONS)


def _stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not a picture attached to sound."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.width * stream.height > MAX_PIXELS:
                raise UnreadableError(f"a frame of {stream.width} x {stream.height} pixels is too large")
            stream.codec_context.thread_count = 1
            return stream
    raise UnreadableError("no video in the file")


def _count_packets(path: Path) -> int:
    with _open(path) as container:
        count = 0
        for packet in container.demux(_stream(container)):
            count += packet.size > 0  # the last one is empty: it flushes the decoder
            _check_length(count)
        return count


def _decoded(path: Path) -> Iterator[av.VideoFrame]:
    """All frames in order. Raises UnreadableError at a damaged one, or where most that the header promises miss."""
    with _open(path) as container:
        stream = _stream(container)
        count = 0
        for count, frame in enumerate(container.decode(stream), start=1):
            _check_length(count)
            if frame.is_corrupt:
                raise UnreadableError(f"frame {count - 1} is damaged")
            yield frame
        if 2 * count < stream.frames:  # a header may be a little wrong; one that is this wrong was written for more
            raise UnreadableError(f"only {count} of {stream.frames} frames can be decoded")


def _check_length(count: int) -> None:
    if count > MAX_FRAMES:
        raise UnreadableError(f"more than {MAX_FRAMES} frames: cut it into clips")


def _picture(frame: av.VideoFrame, size: tuple[int, ...]) -> np.ndarray:
    """The frame upright, resized and cropped to (H, W, 3) RGB."""
    quarters = round(frame.rotation / 90) % 4  # anticlockwise, as in numpy
    height, width = size if quarters % 2 == 0 else size[::-1]
    scale = max(height / frame.height, width / frame.width)
    high, wide = max(height, round(frame.height * scale)), max(width, round(frame.width * scale))
    resized = frame.reformat(wide, high, "rgb24", interpolation="AREA", threads=1).to_ndarray()
    top, left = (high - height) // 2, (wide - width) // 2
    return np.rot90(resized[top : top + height, left : left + width], quarters)
