"""The parity cases: logits computed once with the official code, weights filled in by official name."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec
from uniformer_bench.variants import variant

DATA = Path(__file__).parent / "data"
FILES = ("official_video.json", "official_image.json")
CASES = [case for name in FILES for case in json.loads((DATA / name).read_text())]


def official_value(name: str, shape: list[int]) -> np.ndarray:
    """The weight of that official name, as it was when the logits were computed."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("running_mean"):
        return 0.1 * rng.standard_normal(shape)
    if len(shape) >= 2:
        return rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    if name.endswith("weight"):
        return rng.uniform(0.5, 1.5, shape)
    return 0.1 * rng.standard_normal(shape)


def spec_of(case: dict) -> ArchSpec:
    """The architecture of a case."""
    if "model" in case:
        return variant({"uniformer_small": "image_s", "uniformer_small_plus": "image_s_plus"}[case["model"]])
    mixers = {"L": "local", "G": "split" if case["split"] else "global"}
    rows = zip(case["pattern"], case["depth"], case["embed_dim"], strict=True)
    depth = 3 if case["std"] else 1
    return ArchSpec(
        stages=tuple(StageSpec(mixer=mixers[m], depth=d, width=w) for m, d, w in rows),
        downsample=PatchSpec(kernel=(depth, 2, 2), stride=(1, 2, 2)),
        head_dim=case["head_dim"],
        mlp_ratio=case["mlp_ratio"],
    )


def state_dict_of(case: dict, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The official weights: names and shapes from the case, or where it has none, from our own model."""
    shapes = dict(case["state_dict"]) if case["state_dict"] else {k: list(v.shape) for k, v in own.items()}
    return {name: torch.from_numpy(np.asarray(official_value(name, shape))) for name, shape in shapes.items()}


def clips_of(case: dict) -> torch.Tensor:
    """The input clips (B, 3, T, H, W); an image is a clip of one frame."""
    clips = torch.from_numpy(np.random.default_rng(20220112).standard_normal(case["input_shape"]))
    return clips.unsqueeze(2) if clips.ndim == 4 else clips
