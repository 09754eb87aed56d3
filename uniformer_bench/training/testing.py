"""What a trained model is worth on a split: top-1, top-5 and mean-class accuracy with intervals, by class, over views.

A view is the same video at other moments (temporal) or cropped elsewhere (spatial); the probabilities of all views
are averaged before the answer is read. A clip whose logits are not all finite is counted as wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from uniformer_bench.data.clips import Split
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.accuracy import Accuracy
from uniformer_bench.train import to_input


class Views(NamedTuple):
    """How many moments and how many places; 1 x 1 is the clip that training sees, cropped in the centre."""

    temporal: int = 1
    spatial: int = 1

    def __str__(self) -> str:
        return f"{self.temporal}x{self.spatial}"


ONE_VIEW = Views()


def parse_views(text: str) -> Views:
    """'4x3' is 4 moments at 3 places each. Raises UbenchError for anything else."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 0 < int(part) <= 100 for part in parts):
        raise UbenchError(f"views must be moments x places such as 4x3, got {text!r}")
    return Views(int(parts[0]), int(parts[1]))


@dataclass(frozen=True)
class Accuracies:
    """The right answers on a split, first and within the first five, and those of each class that has clips."""

    top1: Accuracy
    top5: Accuracy
    by_class: dict[str, Accuracy]

    @property
    def mean_class(self) -> tuple[float, tuple[float, float]]:
        """The mean of the classes' accuracies, and its 95 % interval from theirs (Zou and Donner 2008: each class's
        distance to its Wilson limits, added as independent ones are)."""
        rows, k = list(self.by_class.values()), len(self.by_class)
        mean = sum(row.value for row in rows) / k
        below = sqrt(sum((row.value - row.ci95[0]) ** 2 for row in rows)) / k
        above = sqrt(sum((row.ci95[1] - row.value) ** 2 for row in rows)) / k
        return mean, (max(0.0, mean - below), min(1.0, mean + above))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; accuracies are fractions."""
        mean, interval = self.mean_class
        return {
            "clips": self.top1.total,
            "top1": _plain(self.top1),
            "top5": _plain(self.top5),
            "mean_class": {"value": mean, "ci95": list(interval)},
            "by_class": {name: _plain(row) for name, row in self.by_class.items()},
        }


def _plain(row: Accuracy) -> dict[str, Any]:
    return {"value": row.value, "ci95": list(row.ci95), "correct": row.correct, "total": row.total}


def accuracies(
    model: nn.Module,
    split: Split,
    classes: tuple[str, ...],
    *,
    size: tuple[int, int],
    views: Views = ONE_VIEW,
    device: str = "cpu",
    batch: int = 32,
    dense: bool = False,
) -> Accuracies:
    """Tests on clips that were read at `views.temporal` times the model's frames, and at `size` (height, width) or
    larger. The model is left on the device and in eval mode. Raises UbenchError for a split without clips, and for
    several places in clips without a margin.
    """
    labels = torch.from_numpy(np.array(split.labels))
    if len(labels) == 0:
        raise UbenchError("a test must have at least one clip, got none")
    model.to(device).eval()
    ranks = []
    for start in range(0, len(labels), batch):
        clips = torch.from_numpy(np.array(split.clips[start : start + batch]))
        with torch.inference_mode():
            seen = views_of(clips, size, views, dense)
            found = [model(to_input(view.to(device))).float().softmax(1) for view in seen]
        ranks.append(_ranks(torch.stack(found).mean(0).cpu(), labels[start : start + batch]))
    return _accuracies(torch.cat(ranks), labels, classes)


def _ranks(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How many classes are at least as likely as the right one, itself left out; the worst where any is not finite."""
    own = probabilities.gather(1, labels[:, None])
    ranks = (probabilities >= own).sum(1) - 1
    return torch.where(probabilities.isfinite().all(1), ranks, probabilities.shape[1])


def _accuracies(ranks: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Accuracies:
    right, total = ranks == 0, len(labels)
    by_class = {
        name: Accuracy(int(right[labels == i].sum()), int((labels == i).sum()))
        for i, name in enumerate(classes)
        if (labels == i).any()
    }
    return Accuracies(Accuracy(int(right.sum()), total), Accuracy(int((ranks < 5).sum()), total), by_class)


def views_of(clips: Tensor, size: tuple[int, int], views: Views, dense: bool = False) -> Iterator[Tensor]:
    """The views (B, T, H, W, 3) of clips (B, temporal x T, H', W', 3).

    Moments interleave, the v-th has every `temporal`-th frame from the v-th on; with `dense` sampling they follow each
    other, so that a view has the stride of training. Places are spread evenly from end to
    end along the longer side, one place is the centre. Raises UbenchError for several places without a margin.
    """
    height, width = size
    down, across = clips.shape[2] - height, clips.shape[3] - width
    along_width = clips.shape[3] >= clips.shape[2]
    if views.spatial > 1 and (across if along_width else down) == 0:
        raise UbenchError(f"{views.spatial} places need clips larger than the crop: train with a zoom above 1")
    frames = clips.shape[1] // views.temporal
    for moment in range(views.temporal):
        among = slice(moment * frames, (moment + 1) * frames) if dense else slice(moment, None, views.temporal)
        for place in range(views.spatial):
            share = place / (views.spatial - 1) if views.spatial > 1 else 0.5
            top = round(down * (0.5 if along_width else share))
            left = round(across * (share if along_width else 0.5))
            yield clips[:, among, top : top + height, left : left + width]
