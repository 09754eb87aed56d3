"""The gradient to a stem's weight is PyTorch's in float64, at every vector width; whom our kernel serves."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.kernels import MACHINES, compiled_for
from uniformer_bench.model import llvm, stem_cpu
from uniformer_bench.model.stem import stem_conv3d, stem_serves

pytestmark = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")

# (B, C_in, T, H, W), channels out, kernel, stride, padding
STEMS = [
    ((2, 3, 8, 16, 16), 16, (3, 4, 4), (2, 4, 4), (1, 0, 0)),  # the tiny space's and the paper's
    ((3, 1, 1, 5, 7), 5, (3, 2, 2), (1, 2, 2), (1, 0, 0)),  # one frame: two of three planes of taps meet padding only
    ((1, 2, 4, 7, 9), 33, (1, 3, 5), (1, 2, 3), (0, 1, 0)),  # rows of ten taps, padded height, floats left over
    ((2, 4, 5, 6, 6), 24, (5, 1, 1), (2, 1, 1), (2, 0, 0)),  # longer than two strides
]


def stem_of(shape, width, kernel, stride, padding):
    """A convolution, clips for it, and a gradient of what it gives."""
    torch.manual_seed(0)
    conv = nn.Conv3d(shape[1], width, kernel, stride, padding)
    clips = torch.randn(shape).contiguous(memory_format=torch.channels_last_3d)
    return conv, clips, torch.randn_like(conv(clips))


def gradients(function, conv, clips, grad):
    """Of function(clips, conv) to the weight and the bias."""
    return torch.autograd.grad(function(clips, conv), [conv.weight, conv.bias], grad)


def pytorch(clips, conv):
    return F.conv3d(clips, conv.weight, conv.bias, conv.stride, conv.padding)


def error(found, truth):
    return ((found - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize("stem", STEMS, ids=str)
@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_gradients_are_pytorchs_in_float64(stem, machine):
    conv, clips, grad = stem_of(*stem)
    assert stem_serves(clips, conv)
    with compiled_for(machine, stem_cpu):
        found = gradients(stem_conv3d, conv, clips, grad)
    truth = gradients(pytorch, conv.double(), clips.double(), grad.double())
    assert [error(*pair) < 1e-6 for pair in zip(found, truth, strict=True)] == [True, True]


def test_the_result_is_the_convolutions():
    conv, clips, _ = stem_of(*STEMS[0])
    assert torch.equal(stem_conv3d(clips, conv), pytorch(clips, conv))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_the_work(threads, monkeypatch):
    monkeypatch.setattr(stem_cpu, "MACS_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    conv, clips, grad = stem_of(*STEMS[0])
    truth = gradients(pytorch, conv, clips, grad)[0]
    found = gradients(stem_conv3d, conv, clips, grad)[0]
    assert error(found, truth) < 1e-6
    assert torch.equal(found, gradients(stem_conv3d, conv, clips, grad)[0])


def test_under_autocast_the_gradient_is_float32_and_close():
    conv, clips, grad = stem_of(*STEMS[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = stem_conv3d(clips, conv)
    assert narrow.dtype == torch.bfloat16
    found = torch.autograd.grad(narrow, conv.weight, grad.bfloat16())[0]
    assert found.dtype == torch.float32
    assert error(found, gradients(pytorch, conv, clips, grad)[0]) < 0.02


def test_second_derivatives_are_pytorchs():
    conv, clips, grad = stem_of(*STEMS[0])
    conv, clips, grad = conv.double(), clips.double(), grad.double().requires_grad_()
    seconds = []
    for function in (stem_conv3d, pytorch):
        first = torch.autograd.grad(function(clips, conv), conv.weight, grad, create_graph=True)[0]
        seconds.append(torch.autograd.grad(first.square().sum(), grad)[0])
    assert error(*seconds) < 1e-12


def test_whom_it_does_not_serve():
    conv, clips, _ = stem_of(*STEMS[0])
    assert not stem_serves(clips.clone().requires_grad_(), conv), "someone asks for a gradient to the clips"
    assert not stem_serves(clips.double(), conv)
    assert not stem_serves(clips[:0], conv)
    assert not stem_serves(clips, nn.Conv3d(3, 16, (3, 4, 4), (2, 4, 4), (1, 0, 1))), "padded in width"
    assert not stem_serves(clips, nn.Conv3d(3, 16, 3, padding="same"))
    for other in ({"dilation": 2}, {"groups": 3}, {"padding": (1, 0, 0), "padding_mode": "circular"}):
        assert not stem_serves(clips, nn.Conv3d(3, 18, 2, **other)), other
    with torch.no_grad():
        assert not stem_serves(clips, conv), "nothing is recorded"
    assert not stem_serves(clips, conv.requires_grad_(False)), "the weight is frozen"
