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
    assert found.macs == sum(b.macs for s in found.stages for b in s.blocks) + found.head.macs
