"""Mixup and cutmix of clips, and the random crop: what a batch goes through before the model.

Two clips are mixed over all their frames alike, and their classes in the share of the pixels (Zhang et al. 2018,
arXiv 1710.09412; Yun et al. 2019, arXiv 1905.04899). Everything is drawn from one generator on the CPU.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(clips: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """uint8 (B, T, H', W', 3) -> (B, T, H, W, 3), cropped at a place of its own for each clip."""
    height, width = size
    down, across = clips.shape[2] - height, clips.shape[3] - width
    if down == across == 0:
        return clips
    tops = torch.randint(down + 1, (len(clips),), generator=generator).tolist()
    lefts = torch.randint(across + 1, (len(clips),), generator=generator).tolist()
    cropped = [c[:, t : t + height, x : x + width] for c, t, x in zip(clips, tops, lefts, strict=True)]
    return torch.stack(cropped)


def mix(
    x: Tensor, labels: Tensor, classes: int, *, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(mixed clips (B, 3, T, H, W), targets (B, classes) that sum to 1), one draw for the batch.

    Where both are on, each is as likely as the other.
    """
    targets = F.one_hot(labels, classes).to(torch.float32)
    if mixup == cutmix == 0:
        return x, targets
    order = torch.randperm(len(x), generator=generator).to(x.device)
    cuts = mixup == 0 or (cutmix > 0 and torch.rand((), generator=generator).item() < 0.5)
    share = _beta(cutmix if cuts else mixup, generator)
    if cuts:
        x, share = _cut(x, x[order], share, generator)
    else:
        x = torch.lerp(x[order], x, share)
    return x, torch.lerp(targets[order], targets, share)


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A draw from Beta(alpha, alpha), as a share of two gamma draws."""
    gammas = torch._standard_gamma(torch.full((2,), float(alpha), dtype=torch.float64), generator=generator)
    return (gammas[0] / gammas.sum()).item()


def _cut(x: Tensor, other: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """`x` with a box of `other` in all frames, and the share of `x` that is left: near `share`, less where the box
    meets the border."""
    height, width = x.shape[3:]
    side = math.sqrt(1 - share) / 2
    at = torch.rand(2, generator=generator).tolist()
    spans = [
        (max(0, round((place - side) * length)), min(length, round((place + side) * length)))
        for place, length in zip(at, (height, width), strict=True)
    ]
    (top, bottom), (left, right) = spans
    inside = torch.zeros(height, width, dtype=torch.bool, device=x.device)
    inside[top:bottom, left:right] = True
    return torch.where(inside, other, x), 1 - (bottom - top) * (right - left) / (height * width)
