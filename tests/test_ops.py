"""The fast operators give the reference's results, in every precision, and say why each was chosen."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.specs import CLIP, random_spec
from uniformer_bench.cost import cost
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.model import attention, build, clips_like, linear
from uniformer_bench.model.inference import for_inference, inference_form
from uniformer_bench.model.ops import FAST, REFERENCE
from uniformer_bench.model.patches import patch_conv3d, patches_serve
from uniformer_bench.spec import ArchSpec, StageSpec
from uniformer_bench.variants import find_variant

CLASSES = 5
MACS = 6_000_000  # of a clip, at most: 100 architectures within seconds


def small_specs(count):
    specs = map(random_spec, itertools.count())
    return list(itertools.islice((s for s in specs if cost(s, num_classes=CLASSES, **CLIP).macs < MACS), count))


def lively(spec):
    """A reference model whose norms, scales and divided attention are far from where they start, and clips."""
    model = build(spec, CLASSES, "reference").double().eval()
    generator = torch.Generator().manual_seed(1)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(0.5 + drawn if tensor.ndim == 1 else (drawn - 0.5) * 2 / tensor[0].numel() ** 0.5)
    return model, clips_like(spec, 2, CLIP["frames"], (CLIP["size"],) * 2).double()


def twin(model, implementation):
    other = build(model.spec, CLASSES, implementation).to(next(model.parameters()).dtype)
    other.load_state_dict(model.state_dict())
    return other.train(model.training)


def outcome(model, clips, dtype):
    """Logits and the gradients of all parameters, one flat float64 vector each.

    Weights stay float32 below it, as in training under autocast.
    """
    wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    model, clips = copy.deepcopy(model).to(wide), clips.to(wide)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != wide):
        logits = model(clips)
    logits.double().square().sum().backward()
    trained = [p for p in model.parameters() if p.grad is not None and not (has_padded_taps(p) and p.shape[1] > 1)]
    gradients = [p.grad.flatten().double() for p in trained]
    if model.ops == REFERENCE and dtype != wide:
        gradients = [g * torch.nan if has_padded_taps(p) else g for p, g in zip(trained, gradients, strict=True)]
    return logits.detach().double(), torch.cat(gradients)


def has_padded_taps(parameter):
    """oneDNN leaves taps that meet padding only unwritten in bfloat16 (torch 2.13): in either implementation for dense
    kernels, which are left out here, and in the reference alone for depthwise ones, which stand here as NaN."""
    return parameter.ndim == 5 and 3 in parameter.shape[2:]


def distance(found, expected):
    """Of the whole vector, relative."""
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("spec", small_specs(100), ids=lambda spec: spec.id)
def test_fast_is_the_reference_on_random_architectures(spec):
    reference, clips = lively(spec)
    fast = twin(reference, "fast")
    truth = outcome(reference, clips, torch.float64)
    for found, expected in zip(outcome(fast, clips, torch.float64), truth, strict=True):
        assert distance(found, expected) < 1e-9
    for found, expected in zip(outcome(fast, clips, torch.float32), truth, strict=True):
        assert distance(found, expected) < 1e-4
    for dtype in (torch.bfloat16, torch.float16):
        pairs = zip(outcome(fast, clips, dtype), outcome(reference, clips, dtype), truth, strict=True)
        for found, plain, expected in pairs:  # both err by roundings; ours are not larger ones
            plain = torch.where(plain.isnan(), expected, plain)
            assert distance(found, expected) < 2 * distance(plain, expected) + 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("spec", small_specs(12), ids=lambda spec: spec.id)
def test_inference_form_gives_the_same_logits(spec):
    model, clips = lively(spec)
    fast = twin(model, "fast")
    form = inference_form(fast)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in form.modules())
    with torch.no_grad():
        expected = model(clips)
        before = clips.clone()
        assert distance(form(clips), expected) < 1e-9
        assert torch.equal(clips, before)
        assert distance(fast(clips), expected) < 1e-9  # the model itself is as it was
        assert distance(form.float()(clips.float()), expected) < 1e-4


def test_inference_form_of_layer_scale_and_split_stages():
    stages = tuple(StageSpec(mixer=m, depth=1, width=8, head_dim=4, layer_scale=0.1) for m in ("local", "split"))
    model, clips = lively(ArchSpec(stages=stages, mlp_ratio=2))
    form = inference_form(twin(model, "fast"))
    assert all(name.split(".")[-1] not in ("gamma_1", "gamma_2") for name, _ in form.named_parameters())
    with torch.no_grad():
        assert distance(form(clips), model(clips)) < 1e-9


def test_only_fast_models_have_an_inference_form():
    model, _ = lively(random_spec(0))
    assert for_inference(model) is model
    assert for_inference(twin(model, "fast")) is not model
    with pytest.raises(UbenchError, match="eval mode, got one in training mode"):
        inference_form(twin(model, "fast").train())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_by_rows_is_softmax_attention(dtype):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 600, 3, 2, 32, generator=generator).to(dtype)  # 600 tokens: the last rows are fewer
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double()).transpose(1, 2)
    found = attention.attention(qkv)
    assert (found.double() - expected).abs().max() < (1e-5 if dtype == torch.float32 else 2e-2)
    if dtype in linear.SERVED:
        rows = attention.by_rows(q, k, v).transpose(1, 2)
        assert (rows.double() - expected).abs().max() < (1e-5 if dtype == torch.float32 else 2e-2)
        assert torch.equal(found, rows) or not linear.ahead(dtype)


@pytest.fixture
def onednn(monkeypatch):
    """oneDNN's products also on a processor where PyTorch's are chosen."""
    if torch.backends.mkldnn.is_available():
        monkeypatch.setattr(linear, "SERVED", (torch.float32,))
        monkeypatch.setattr(linear, "MKL_IS_WHOLE", False)


def test_linear_can_be_differentiated_twice(onednn):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 48, generator=generator).requires_grad_() for n in (9, 32))
    found = []
    for product in (linear.linear, F.linear):
        (grad,) = torch.autograd.grad(product(x, weight, None).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), weight)[0])
    assert distance(*found) < 1e-5


@pytest.mark.parametrize(("columns", "rows"), [(48, 32), (32, 48), (4, 4)])
def test_linear_gradients_are_those_of_torch(columns, rows, onednn):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 5, columns), (rows, columns), (rows,)
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    grad = torch.randn(2, 5, rows, generator=generator)
    pairs = [torch.autograd.grad(f(*leaves), leaves, grad) for f in (linear.linear, F.linear)]
    for found, expected in zip(*pairs, strict=True):
        assert distance(found, expected) < 1e-5


def test_patches_side_by_side_are_a_product():
    conv = nn.Conv3d(3, 5, (2, 2, 2), (2, 2, 2))
    x = torch.randn(2, 3, 4, 6, 2, generator=torch.Generator().manual_seed(0))
    assert patches_serve(x, conv)
    assert distance(patch_conv3d(x, conv), conv(x)) < 1e-5
    assert not patches_serve(x[..., :5, :], conv)  # a rest is left out by a convolution
    assert not patches_serve(x, nn.Conv3d(3, 5, 3, 2, 1))


def test_each_choice_says_why(monkeypatch):
    fp32, bf16 = torch.float32, torch.bfloat16
    monkeypatch.setattr(linear, "SERVED", (fp32, bf16))
    monkeypatch.setattr(linear, "MKL_IS_WHOLE", False)
    cases = [
        (attention.choose("cuda", bf16, 1568, False, 64), "fused", "cuda"),
        (attention.choose("cpu", fp32, 1568, False, 64), "by_rows", "1568 tokens"),
        (attention.choose("cpu", fp32, 1568, True, 64), "fused", "whole affinity"),
        (attention.choose("cpu", fp32, 1568, True, 16), "tiled", "16 channels"),
        (attention.choose("cpu", fp32, 100_000, True, 16), "fused", "whole affinity"),
        (attention.choose("cpu", bf16, 64, False, 64), "explicit", "bfloat16"),
        (attention.choose("cpu", fp32, 100_000, False, 64), "fused", "whole affinity"),
        (linear.choose("cuda", fp32, 4096, False), "torch", "cuda"),
        (linear.choose("cpu", torch.float64, 4096, False), "torch", "float64"),
        (linear.choose("cpu", bf16, 4096, True), "torch", "bfloat16"),
        (linear.choose("cpu", fp32, 64, True), "torch", "64 weights"),
        (linear.choose("cpu", fp32, 4096, True), "onednn", "vectors"),
    ]
    for choice, name, reason in cases:
        assert choice.name == name
        assert choice.why.startswith(name + ": ")
        assert reason in choice.why
    monkeypatch.setattr(linear, "SERVED", (fp32,))  # AVX-512 without bfloat16
    assert linear.choose("cpu", fp32, 4096, False).name == "onednn"
    assert "in bfloat16 is no faster" in linear.choose("cpu", bf16, 4096, False).why
    assert attention.choose("cpu", bf16, 1568, False, 64).name == "explicit"
    monkeypatch.setattr(linear, "MKL_IS_WHOLE", True)
    assert "takes GELU in" in linear.choose("cpu", fp32, linear.LARGEST_BESIDE_MKL, False).why
    for weights, recorded in ((linear.LARGEST_BESIDE_MKL + 1, False), (4096, True)):
        assert linear.choose("cpu", fp32, weights, recorded).why.startswith("torch: MKL")
    assert attention.choose("cpu", fp32, 1568, False, 64).name == "fused"
    monkeypatch.setattr(linear, "SERVED", ())
    assert linear.choose("cpu", fp32, 4096, True).name == "torch"
    assert attention.choose("cpu", fp32, 1568, False, 64).name == "fused"


@pytest.mark.parametrize("batch", [1, 2])
def test_a_blocks_memory_is_channels_last_to_pytorch(batch, monkeypatch):
    """Also at batch 1, whose axis may have any stride: where PyTorch does not see it, each convolution copies twice."""
    seen = []
    convolution = F.conv3d

    def watched(x, *arguments, **named):
        found = convolution(x, *arguments, **named)
        seen.append((x.stride(), found.is_contiguous(memory_format=torch.channels_last_3d), x.shape))
        return found

    monkeypatch.setattr(F, "conv3d", watched)
    spec = find_variant("micro").spec
    model = inference_form(build(spec, 5).eval())
    with torch.inference_mode(), thread_count(2):  # on one, convolutions this small are not oneDNN's
        model(clips_like(spec, batch, 8, (32, 32)))
    assert len(seen) > sum(stage.depth for stage in spec.stages)
    for stride, channels_last, (_, c, t, h, w) in seen[1:]:
        assert channels_last
        assert stride == (c * t * h * w, 1, c * h * w, c * w, c)


def test_residual_sums_are_in_place_only_where_nothing_is_recorded():
    x, branch = torch.ones(2), torch.ones(2, requires_grad=True)
    assert FAST.add(x, branch) is not branch
    with torch.no_grad():
        assert FAST.add(x, branch) is branch
    assert torch.equal(branch, torch.full((2,), 2.0))
    assert torch.equal(REFERENCE.add(x, branch), torch.full((2,), 3.0))
