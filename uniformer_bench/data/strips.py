"""Clips as pictures: the frames side by side, as small PNGs that a page can carry."""

import base64
from fractions import Fraction

import av
import numpy as np

from uniformer_bench.data.clips import Clips


def sample_strips(clips: Clips, classes: int = 14) -> list[dict[str, str]]:
    """{"name", "image"} for the first training clip of each of the first classes; `image` is a data URI."""
    strips = []
    for label, name in enumerate(clips.classes[:classes]):
        found = np.flatnonzero(clips.train.labels == label)
        if len(found):
            strips.append({"name": name, "image": png_uri(np.concatenate(list(clips.train.clips[found[0]]), axis=1))})
    return strips


def png_uri(picture: np.ndarray) -> str:
    """A data URI of an RGB picture (H, W, 3) uint8."""
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height = picture.shape[1], picture.shape[0]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1)
    packets = codec.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
    data = b"".join(bytes(packet) for packet in packets)
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
