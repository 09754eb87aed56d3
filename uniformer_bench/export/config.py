"""config.json: what a model is, what its classes are called and what a clip must go through before it.

Weights in model.safetensors and everything else in config.json is the layout that hubs read; label maps have the
names that they show. Pixels are RGB, 0 to 1 before the mean is taken off.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uniformer_bench
from uniformer_bench.errors import UbenchError
from uniformer_bench.spec import ArchSpec
from uniformer_bench.train import DEVIATION, MEAN

FILE = "config.json"
WEIGHTS = "model.safetensors"


@contextmanager
def ours(path: Path) -> Iterator[None]:
    """Around the reading of a config.json: turns what another's breaks at into a UbenchError that names the file."""
    try:
        yield
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UbenchError(f"{path} must be what `ubench export` writes, got {error!r}") from None


def make_config(
    spec: ArchSpec,
    classes: Sequence[str],
    *,
    frames: int,
    size: tuple[int, int],
    read_size: tuple[int, int],
    views: str = "1x1",
    stride: int = 0,
    trained: bool,
) -> dict[str, Any]:
    """The content of config.json. `read_size` (height, width) is what a video is resized to, `size` the crop."""
    return {
        "library_name": "uniformer_bench",
        "library_version": uniformer_bench.__version__,
        "model_type": "uniformer",
        "architectures": ["UniFormer"],
        "trained": trained,
        "spec_id": spec.id,
        "spec": spec.to_dict(),
        "num_labels": len(classes),
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "label2id": {name: i for i, name in enumerate(classes)},
        "preprocessing": _preprocessing(frames, size, read_size, views, stride),
    }


def _preprocessing(
    frames: int, size: tuple[int, int], read_size: tuple[int, int], views: str, stride: int
) -> dict[str, Any]:
    uniform = "uniform: the frame in the middle of each of `frames` equal parts of the video"
    return {
        "frames": frames,
        "sampling": "dense: every `stride`-th frame about the middle of the video" if stride else uniform,
        "stride": stride or None,  # in frames; with uniform sampling it follows from the video's length
        "resize": list(read_size),  # (height, width) that a video covers with its short side, before the crop
        "size": list(size),  # (height, width) of the crop in the centre
        "interpolation": "area",
        "color": "RGB",
        "rescale": 1 / 255,
        "mean": [MEAN] * 3,
        "std": [DEVIATION] * 3,
        "layout": "(batch, 3, frames, height, width)",
        "views": views,  # moments x places that the measured accuracy was taken over
    }
