"""An exported folder read back: the model, its configuration, and the labels of a video file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from uniformer_bench.data.video import UnreadableError, read_clip
from uniformer_bench.errors import UbenchError
from uniformer_bench.export.config import FILE, WEIGHTS, ours
from uniformer_bench.files import read_text
from uniformer_bench.model.checkpoints import read_checkpoint
from uniformer_bench.model.uniformer import UniFormer, build
from uniformer_bench.spec import ArchSpec
from uniformer_bench.train import to_input
from uniformer_bench.training.testing import ONE_VIEW, views_of


class Exported(NamedTuple):
    """A trained model, ready to answer, and what config.json says of it."""

    model: UniFormer
    config: dict[str, Any]


def load_exported(folder: str | Path) -> Exported:
    """The model in a folder that `ubench export` made. Raises UbenchError where there is none, or no weights."""
    folder = Path(folder)
    with ours(folder / FILE):
        config = json.loads(read_text(folder / FILE))
        spec, classes = ArchSpec.from_dict(config["spec"]), int(config["num_labels"])
    if not (folder / WEIGHTS).exists():
        raise UbenchError(f"{folder} must hold {WEIGHTS}, got an architecture without trained weights")
    model = build(spec, classes)
    model.load_state_dict(read_checkpoint(folder / WEIGHTS))
    return Exported(model.eval(), config)


def predict(exported: Exported, video: str | Path, top: int = 5) -> list[tuple[str, float]]:
    """The likeliest labels of a video file with their probabilities: read as the clips of training were.

    Raises UbenchError for a file that cannot be read.
    """
    at = exported.config["preprocessing"]
    clip = np.empty((at["frames"], *at["resize"], 3), np.uint8)
    try:
        read_clip(Path(video), clip, at["stride"] or 0)
    except UnreadableError as error:
        raise UbenchError(f"{video} {error}") from None
    (crop,) = views_of(torch.from_numpy(clip[None]), tuple(at["size"]), ONE_VIEW)
    with torch.inference_mode():
        probabilities = exported.model(to_input(crop))[0].softmax(0)
    best = probabilities.topk(min(top, len(probabilities)))
    labels = exported.config["id2label"]
    return [(labels[str(i)], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
