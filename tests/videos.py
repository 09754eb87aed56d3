"""Small video files for tests, encoded from arrays."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, clip: np.ndarray, codec: str = "libx264", **container_options: str) -> Path:
    """Encodes `clip` (T, H, W, 3) uint8, H and W even: without loss but for the colour conversion with libx264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        if codec == "libx264":
            stream.options = {"qp": "0", "preset": "ultrafast"}
        for picture in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file with a tenth of a second of silence and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_timed(path: Path, clip: np.ndarray, times: list[int], pix_fmt: str = "yuv420p", sound: bool = False) -> Path:
    """Encodes `clip` (T, H, W, 3) of any size without loss; frame t is shown from times[t] hundredths of a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], pix_fmt
        stream.codec_context.time_base = Fraction(1, 100)
        if sound:
            silence = container.add_stream("aac", rate=16000)
            silent = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            silent.sample_rate = 16000
            container.mux(silence.encode(silent))
            container.mux(silence.encode(None))
        for picture, time in zip(clip, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def rotate(path: Path, quarters: int) -> Path:
    """Says in the header of an .mp4 that it is to be shown turned clockwise by so many quarters.

    In the track header (QuickTime, version 0) the matrix lies 44 bytes into the box: (a b u c d v x y w); a point
    (x, y) is shown at (a x + c y, b x + d y). Clockwise by 90 degrees, y being down, is x' = -y, y' = x.
    """
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[at : at + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    one = 65536
    data[at : at + 36] = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def textured_clip(frames: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """(T, H, W, 3): a grey texture that drifts, another one for each seed."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(30, 220, size, np.uint8)
    moved = [np.roll(picture, (t, 2 * t), (0, 1)) for t in range(frames)]
    return np.repeat(np.stack(moved)[..., None], 3, -1)


def counting_clip(frames: int, size: tuple[int, int] = (16, 16), first: int = 10, step: int = 8) -> np.ndarray:
    """(T, H, W, 3): the grey of frame t is first + step * t."""
    grey = (first + step * np.arange(frames)).astype(np.uint8)
    return np.tile(grey[:, None, None, None], (1, *size, 3))


def write_picture(path: Path, picture: np.ndarray) -> Path:
    """Encodes `picture` (H, W, 3) uint8 as .png, or as .jpg with little loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    png = path.suffix == ".png"
    codec = av.CodecContext.create("png" if png else "mjpeg", "w")
    codec.height, codec.width = picture.shape[:2]
    codec.pix_fmt, codec.time_base = "rgb24" if png else "yuvj444p", Fraction(1)
    codec.options = {} if png else {"qmin": "1", "qmax": "1"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
    path.write_bytes(b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode()]))
    return path
