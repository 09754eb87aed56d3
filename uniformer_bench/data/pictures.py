"""Reads a folder of pictures, the frames of a clip in the order of the numbers in their names, as a video is read.

Only the frames that are sampled are opened: the others change nothing.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import av
import numpy as np

from uniformer_bench.data.video import MAX_PIXELS, Facts, UnreadableError, sample_indices, upright

CODECS = {".jpg": "mjpeg", ".jpeg": "mjpeg", ".png": "png"}
PICTURE_SUFFIXES = tuple(CODECS)
MAX_BYTES = 1 << 28  # of one picture
JPEG_END = b"\xff\xd9"


def read_pictures(folder: Path, row: np.ndarray, stride: int = 0) -> tuple[Facts, str]:
    """Samples a folder of pictures into `row` (T, H, W, 3) uint8; returns what it is and the hash of those pictures.

    Raises UnreadableError, and OSError where a picture cannot be opened.
    """
    files = sorted(
        (entry for entry in folder.iterdir() if entry.suffix.lower() in CODECS and not entry.name.startswith(".")),
        key=_by_number,
    )
    if not files:
        raise UnreadableError("a folder without pictures (.jpg or .png)")
    digest, last, frame = hashlib.sha256(f"{len(files)}".encode()), -1, None
    for part, index in enumerate(sample_indices(len(files), len(row), stride)):
        if index != last:
            data = _bytes(files[index])
            digest.update(hashlib.sha256(data).digest())
            frame, last = _decode(files[index], data), index
        assert frame is not None
        row[part] = upright(frame, row.shape[1:3])
    assert frame is not None
    return Facts(len(files), frame.width, frame.height, None, None), digest.hexdigest()


def _by_number(path: Path) -> list[tuple[int, str]]:
    """frame10 after frame9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"([0-9]+)", path.name)]


def _bytes(path: Path) -> bytes:
    if not path.is_file():  # a pipe would wait for ever
        raise UnreadableError(f"{path.name} is not a regular file")
    if path.stat().st_size > MAX_BYTES:
        raise UnreadableError(f"{path.name} is larger than {MAX_BYTES} bytes")
    return path.read_bytes()


def _decode(path: Path, data: bytes) -> av.VideoFrame:
    codec: Any = av.CodecContext.create(CODECS[path.suffix.lower()], "r")
    codec.options = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(MAX_PIXELS)}
    if codec.name == "mjpeg" and JPEG_END not in data[-4096:]:  # the decoder would make up what is missing
        raise UnreadableError(f"{path.name} was cut short")
    try:
        frames = [*codec.decode(av.Packet(data)), *codec.decode(None)] if data else []  # no data would mean the end
    except (av.error.FFmpegError, ValueError, MemoryError) as error:
        raise UnreadableError(f"{path.name} cannot be decoded: {getattr(error, 'strerror', None)}") from None
    if not frames or frames[0].is_corrupt:
        raise UnreadableError(f"{path.name} is damaged")
    return frames[0]
