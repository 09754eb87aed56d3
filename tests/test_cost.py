"""The closed form: derived by hand for a toy, published for the paper's models, and equal to the built model."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.specs import CLIP, random_spec
from uniformer_bench.cost import cost
from uniformer_bench.model import build, clips_like
from uniformer_bench.spec import ArchSpec, StageSpec
from uniformer_bench.variants import VARIANTS, variant


def test_a_toy_by_hand():
    local = StageSpec(mixer="local", depth=1, width=8, kernel=(1, 3, 3), dpe_kernel=None, mlp_ratio=2)
    toy = cost(ArchSpec(stages=(local,)), frames=2, size=8, num_classes=5)
    tokens, embed = 1 * 2 * 2, 3 * 8 * 48  # (2, 8, 8) / (2, 4, 4) tokens; 3x4x4 = 48 taps
    block_macs = tokens * (8 * 8 + 8 * 9 + 8 * 8 + 2 * 8 * 16)  # pointwise, tube, pointwise, FFN
    assert toy.macs == tokens * embed + block_macs + 8 * 5
    assert toy.flops == 2 * toy.macs
    embed_params = embed + 8 + 16
    block_params = 16 + 72 + 80 + 72 + 16 + (8 * 16 + 16) + (16 * 8 + 8)
    assert toy.params == embed_params + block_params + 16 + 8 * 5 + 5
    assert [stage.grid for stage in toy.stages] == [(1, 2, 2)]


@pytest.mark.parametrize(
    ("name", "frames", "params", "gmacs"),
    [
        ("s", 8, 21_400_400, 17.5663),
        ("s", 16, 21_400_400, 41.6625),
        ("s", 32, 21_400_400, 109.4453),
        ("b", 16, 49_813_200, 96.5539),
        ("b", 32, 49_813_200, 258.2513),
        ("image_s", 1, 21_545_256, 3.6318),
        ("image_s_plus", 1, 24_032_552, 4.2010),
        ("image_b", 1, 49_776_552, 8.2490),
        ("image_b_ls", 1, 49_796_520, 8.2490),
    ],
)
def test_the_published_models(name, frames, params, gmacs):
    found = cost(variant(name), frames=frames, size=224, num_classes=VARIANTS[name].num_classes)
    assert found.params == params
    assert round(found.macs / 1e9, 4) == gmacs


@pytest.mark.parametrize("row", [row for row in VARIANTS.values() if row.published_gmacs], ids=lambda row: row.name)
def test_what_was_published_is_what_we_count_but_for_normalisations_and_digits(row):
    """docs/published.md tells of image_l: its parameters are those of a model with a second head, its GFLOPs wrong."""
    second_head = 640 * 1000 + 1000 if row.name == "image_l" else 0
    for frames, gmacs in ((row.frames, row.published_gmacs), *row.published_at_frames):
        found = cost(row.spec, frames=frames, size=row.size, num_classes=row.num_classes)
        printed = 0.05 if row.published_params_m % 1 else 0.5  # half of the last digit, in millions
        assert abs((found.params + second_head) / 1e6 - row.published_params_m) <= printed
        assert (abs(found.macs / 1e9 / gmacs - 1) < 0.01) == (row.name != "image_l")


def test_training_and_bytes_of_a_toy_by_hand():
    """8 tokens of width 4 in a local block with scales, then 2 in a global one without FFN."""
    block = {"depth": 1, "width": 4, "dpe_kernel": (1, 1, 3)}
    local = StageSpec(mixer="local", kernel=(1, 1, 3), layer_scale=1e-6, mlp_ratio=2, **block)
    toy = ArchSpec(stages=(local, StageSpec(mixer="global", ffn=False, **block)), head_dim=4)
    found = cost(toy, frames=2, size=(8, 16), num_classes=5)
    n = 1 * 2 * 4  # tokens of the first stage; 2 of the second
    stem, first = found.stages[0].blocks
    stem_macs = n * 4 * 3 * 48
    assert stem.training_macs == 2 * stem_macs  # forward and weight; nobody wants the clip's gradient
    block_macs = n * 4 * 3 + n * 4 * (4 + 3 + 4) + 2 * n * 4 * 8  # DPE; pointwise, tube, pointwise; FFN
    assert (first.macs, first.training_macs) == (block_macs, 3 * block_macs)
    # read: clip 3x2x8x16 and the norm's input; written: both outputs; weights: 4x3x48 + 4, the norm's 8
    assert stem.moved_bytes == 4 * (768 + 32 + 32 + 32 + 576 + 4 + 8)
    x = 4 * n  # elements of an activation
    dpe = 2 * x + 3 * x + (12 + 4)
    mixer = (2 * x + 16) + 2 * (2 * x + 16 + 4) + (2 * x + 12 + 4) + (2 * x + 4) + 3 * x  # norm, pointwise, tube, scale
    ffn = (2 * x + 16) + (3 * x + 32 + 8) + 4 * x + (3 * x + 32 + 4) + (2 * x + 4) + 3 * x  # norm, fc1, GELU, fc2
    assert first.moved_bytes == 4 * (dpe + mixer + ffn)
    assert first.intensity == 2 * block_macs / first.moved_bytes
    _, second = found.stages[1].blocks
    attention_macs = 2 * 4 * 3 + 2 * 4 * 16 + 2 * 2 * 2 * 4  # DPE, qkv and projection, the two products
    assert (second.macs, second.training_macs) == (attention_macs, 3 * attention_macs)
    y = 2 * 4
    fused = 3 * y + y  # q, k and v are read, the context is written; the affinity is neither
    whole = (5 * y + 16) + (2 * y + 8) + (4 * y + 48 + 12) + fused + (2 * y + 16 + 4) + 3 * y
    assert second.moved_bytes == 4 * whole
    assert found.head.training_macs == 3 * 4 * 5
    assert found.head.moved_bytes == 4 * ((2 * y + 16) + (y + 4) + (4 + 20 + 5 + 5))


def test_bytes_follow_the_precision_and_the_batch():
    full, half, shared = (cost(variant("micro"), frames=8, size=32, num_classes=5, **options)
                          for options in ({}, {"bytes_per_element": 2}, {"batch": 4}))  # fmt: skip
    assert half.moved_bytes * 2 == full.moved_bytes
    assert full.activation_bytes == half.activation_bytes == shared.activation_bytes
    spared = full.moved_bytes - shared.moved_bytes
    assert spared == pytest.approx(4 * full.params * 3 / 4, abs=len(shared.stages) * 2 + 1)  # whole bytes a block
    assert full.intensity < shared.intensity


def test_uniformer_s_forward_and_backward():
    found = cost(variant("s"), frames=16, size=224, num_classes=400)
    stem = found.stages[0].blocks[0].macs
    assert found.training_macs == 3 * found.macs - stem
    assert found.training_flops == 249_512_828_928  # 249.5 G, which no released counter says


def test_uniformer_l_without_its_token_labelling_head():
    found = cost(variant("image_l"), frames=1, size=224, num_classes=1000)
    assert found.params == 100_103_888 - 641_000  # the second head, 640 x 1000 + 1000


class WrittenBytes(TorchDispatchMode):
    """Counts what the operators named in cost.py write, as they run."""

    OPERATORS = ("convolution", "addmm", "native_layer_norm", "native_batch_norm", "gelu", "bmm")

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        name = function._schema.name.removeprefix("aten::").removeprefix("_").removesuffix("_legit_no_training")
        if name in self.OPERATORS:
            written = result[0] if isinstance(result, tuple) else result
            self.total += written.numel() * 4
        return result


@pytest.mark.parametrize("seed", range(25))
def test_the_model_has_the_parameters_and_writes_the_bytes(seed):
    spec = random_spec(seed)
    with torch.device("meta"):
        model = build(spec, 7, "reference").eval()
    found = cost(spec, **CLIP, num_classes=7)
    assert found.params == sum(p.numel() for p in model.parameters())
    for i, (stage, modules) in enumerate(zip(found.stages, model.stage_modules(), strict=True)):
        assert stage.params == sum(p.numel() for module in modules for p in module.parameters()), i
    clips = clips_like(spec, 1, CLIP["frames"], (CLIP["size"], CLIP["size"])).to("meta")
    counter = WrittenBytes()
    with torch.no_grad(), counter:
        model(clips)
    affinity = _affinity_bytes(spec)
    assert found.activation_bytes == counter.total - affinity


class MovedBytes(TorchDispatchMode):
    """Counts what operators read and write, as they run; attention is left to the test."""

    INPUTS = {  # noqa: RUF012  # nothing changes it
        "convolution": 3, "addmm": 3, "native_layer_norm": 5, "native_batch_norm": 5, "gelu": 1, "add": 2, "mul": 2,
        "mean": 1,
    }  # fmt: skip

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        name = function._schema.name.removeprefix("aten::").removeprefix("_").removesuffix("_legit_no_training")
        is_number = name in ("add", "mul") and not isinstance(arguments[1], torch.Tensor)  # q x head_dim ** -0.5
        if name in self.INPUTS and not is_number:
            written = result[0] if isinstance(result, tuple) else result
            read = [value for value in arguments[: self.INPUTS[name]] if isinstance(value, torch.Tensor)]
            self.total += 4 * (written.numel() + sum(value.numel() for value in read))
        return result


@pytest.mark.parametrize("seed", range(25))
def test_the_model_moves_the_bytes(seed):
    spec = random_spec(seed)
    with torch.device("meta"):
        model = build(spec, 7, "reference").eval()
    clips = clips_like(spec, 1, CLIP["frames"], (CLIP["size"], CLIP["size"])).to("meta")
    counter = MovedBytes()
    with torch.no_grad(), counter:
        model(clips)
    assert cost(spec, **CLIP, num_classes=7).moved_bytes == counter.total + _fused_bytes(spec)


def _fused_bytes(spec):
    """q, k, v and the context of every attention."""
    total = 0
    for stage, (t, h, w) in zip(spec.resolved_stages, spec.grids(**CLIP), strict=True):
        attentions = {"local": 0, "global": 1, "split": 2}[stage.mixer]
        total += stage.depth * attentions * 4 * t * h * w * stage.width
    return 4 * total


def _affinity_bytes(spec):
    """q k^T, which the reference writes and cost.py leaves out, as fused attention does not write it."""
    total = 0
    for stage, grid in zip(spec.resolved_stages, spec.grids(**CLIP), strict=True):
        t, h, w = grid
        if stage.mixer == "global":
            total += stage.depth * stage.heads * (t * h * w) ** 2
        elif stage.mixer == "split":
            total += stage.depth * stage.heads * (h * w * t * t + t * (h * w) ** 2)
    return 4 * total


def test_parts_add_up():
    found = cost(variant("s"), frames=16, size=224, num_classes=400)
    assert found.params == sum(s.params for s in found.stages) + found.head.params
    for key in ("macs", "training_macs", "moved_bytes", "activation_bytes"):
        parts = sum(getattr(block, key) for stage in found.stages for block in stage.blocks)
        assert getattr(found, key) == parts + getattr(found.head, key)
    assert found.stages[2].intensity == 2 * found.stages[2].macs / found.stages[2].moved_bytes
