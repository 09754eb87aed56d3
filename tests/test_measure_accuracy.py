"""Accuracy by hand, and Wilson's interval against its own equation."""

import numpy as np
import pytest
import torch
from torch import nn

from uniformer_bench.data.clips import Split
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.accuracy import Z95, Accuracy, accuracy


class _FirstPixel(nn.Module):
    """Answers with the class that the first pixel of a clip names; 9 gives logits that are no numbers."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.modes, self.batches = [], []

    def forward(self, x):
        self.modes.append((self.training, x.dtype))
        self.batches.append(len(x))
        first = x[:, 0, 0, 0, 0].long()
        logits = nn.functional.one_hot(first.clamp(max=4), 5).to(x.dtype) * self.one
        return torch.where((first == 9).unsqueeze(1), torch.nan, logits)


def _split(pixels, labels):
    clips = np.zeros((len(pixels), 2, 3, 3, 3), dtype=np.uint8)
    clips[:, 0, 0, 0, 0] = pixels
    clips.flags.writeable = False  # as a memory-mapped file is
    return Split(clips, np.asarray(labels, dtype=np.int64))


def _measure(model, split, **options):
    return accuracy(model, split, to_input=lambda c: c.permute(0, 4, 1, 2, 3).float(), device="cpu", **options)


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_counts_right_answers_whatever_the_batch(batch):
    model = _FirstPixel()
    assert _measure(model, _split([0, 1, 2, 3, 4], [0, 1, 1, 3, 0]), batch=batch) == Accuracy(3, 5)
    assert max(model.batches) <= batch


def test_logits_that_are_not_finite_are_wrong():
    assert _measure(_FirstPixel(), _split([9, 1], [0, 1])) == Accuracy(1, 2)


def test_the_model_is_evaluated_and_left_as_it_was():
    for training in (True, False):
        model = _FirstPixel().train(training)
        _measure(model, _split([1], [1]))
        assert model.training is training
        assert model.modes == [(False, torch.float32)]
    model = _FirstPixel().train()
    with pytest.raises(ZeroDivisionError):
        accuracy(model, _split([1], [1]), to_input=lambda c: 1 / 0, device="cpu")
    assert model.training


def test_clips_take_the_model_s_precision():
    model = _FirstPixel().to(torch.bfloat16)
    assert _measure(model, _split([1], [1])).value == 1.0
    assert model.modes == [(False, torch.bfloat16)]


def test_no_clips_are_refused():
    with pytest.raises(UbenchError, match="at least one clip, got none"):
        _measure(_FirstPixel(), _split([], []))


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (1, 10), (5, 10), (10, 10), (300, 640)])
def test_wilson_s_ends_are_where_the_score_test_stops_rejecting(correct, total):
    result = Accuracy(correct, total)
    low, high = result.ci95
    assert 0 <= low <= result.value <= high <= 1
    for end in (low, high):  # (p - end)^2 = z^2 end (1 - end) / n
        assert (result.value - end) ** 2 == pytest.approx(Z95**2 * end * (1 - end) / total, abs=1e-12)
