"""How often a model is right on a split, with the interval that so many clips allow.

A clip whose logits are not all finite is counted as wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from uniformer_bench.data.clips import Split
from uniformer_bench.errors import UbenchError

Z95 = 1.959964  # of the standard normal, two-sided


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `total` clips."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        return self.correct / self.total

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson's score interval (1927), which stays in [0, 1] and holds near its ends."""
        n, p, z2 = self.total, self.value, Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 * sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))  # rounding at 0 and n


def accuracy(
    model: nn.Module,
    split: Split,
    *,
    to_input: Callable[[Tensor], Tensor],
    device: str,
    batch: int = 64,
    at_batch: Callable[[], None] = lambda: None,
) -> Accuracy:
    """Counts right answers, `batch` clips at a time, on the device where the model is and in its precision.

    `to_input` turns uint8 (B, T, H, W, 3) into normalised (B, 3, T, H, W). Whether the model was training
    is as before. `at_batch` is called between batches: it may wait, as for a measurement next door. Raises
    UbenchError for a split without clips.
    """
    total = len(split.labels)
    if total == 0:
        raise UbenchError("accuracy must be measured on at least one clip, got none")
    was_training, dtype = model.training, next(model.parameters()).dtype
    model.eval()
    correct = 0
    try:
        for start in range(0, total, batch):
            at_batch()
            clips, labels = (torch.tensor(array[start : start + batch], device=device) for array in split)
            with torch.inference_mode():
                correct += _correct(model(to_input(clips).to(dtype)), labels)
    finally:
        model.train(was_training)
    return Accuracy(correct, total)


def _correct(logits: Tensor, labels: Tensor) -> int:
    return int(((logits.argmax(1) == labels) & logits.isfinite().all(1)).sum())
