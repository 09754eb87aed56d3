"""RandAugment and random erasing of clips, by Kornia: alike in all frames of a clip, on the clips' own device.

RandAugment (Cubuk et al. 2020, arXiv 1909.13719) draws operations for a batch, and how strong each is for every clip,
up to a magnitude of 10; random erasing (Zhong et al. 2020, arXiv 1708.04896) makes a box of a clip grey. The released
video models were trained with four operations of magnitude 7 and erasing in a quarter of the clips (SlowFast's
`rand-m7-n4-mstd0.5-inc1`, which has timm's ranges; these are their nearest here).
"""

import functools
from typing import Any

import torch
from torch import Tensor

from uniformer_bench.errors import UbenchError
from uniformer_bench.train import MEAN


def augmented(clips: Tensor, operations: int, magnitude: float, erasing: float) -> Tensor:
    """uint8 (B, T, H, W, 3) -> the same of augmented clips; draws from torch's random state.

    Raises UbenchError where Kornia is not installed.
    """
    if not operations and not erasing:
        return clips
    x = clips.permute(0, 1, 4, 2, 3).to(torch.float32) / 255
    for part in _parts(operations, magnitude, erasing):
        x = part(x)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()


@functools.cache
def _parts(operations: int, magnitude: float, erasing: float) -> tuple[Any, ...]:
    """What clips (B, T, 3, H, W) of 0 to 1 go through."""
    library, both = _kornia(), {"data_format": "BTCHW", "same_on_frame": True}
    parts = []
    if operations:
        parts.append(library.VideoSequential(*_operations(library, magnitude / 10), random_apply=operations, **both))
    if erasing:
        parts.append(library.VideoSequential(library.RandomErasing(p=erasing, value=MEAN), **both))
    return tuple(parts)


def _operations(library: Any, share: float) -> list[Any]:
    """RandAugment's, at a share of the greatest magnitude."""
    factor, shear, way = (1 - 0.9 * share, 1 + 0.9 * share), 17 * share, (-0.45 * share, 0.45 * share)
    return [
        library.RandomAutoContrast(p=1.0),
        library.RandomEqualize(p=1.0),
        library.RandomInvert(p=1.0),
        library.RandomRotation(30 * share, p=1.0),
        library.RandomPosterize((8 - 4 * share, 8.0), p=1.0),
        library.RandomSolarize((1 - share, 1.0), (0.0, 0.0), p=1.0),
        library.RandomSaturation(factor, p=1.0),
        library.RandomContrast(factor, p=1.0),
        library.RandomBrightness(factor, p=1.0),
        library.RandomSharpness(share, p=1.0),
        library.RandomShear((-shear, shear, 0.0, 0.0), p=1.0),
        library.RandomShear((0.0, 0.0, -shear, shear), p=1.0),
        library.RandomTranslate(way, None, p=1.0),
        library.RandomTranslate(None, way, p=1.0),
    ]


def _kornia() -> Any:
    try:
        import kornia.augmentation as library
    except ImportError:
        raise UbenchError(
            "RandAugment and erasing need Kornia, got none; pip install 'uniformer_bench[augment]'"
        ) from None
    return library
