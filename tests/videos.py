"""Small video files for tests, encoded from arrays."""

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


def counting_clip(frames: int, size: tuple[int, int] = (16, 16), first: int = 10, step: int = 8) -> np.ndarray:
    """(T, H, W, 3): the grey of frame t is first + step * t."""
    grey = (first + step * np.arange(frames)).astype(np.uint8)
    return np.tile(grey[:, None, None, None], (1, *size, 3))
