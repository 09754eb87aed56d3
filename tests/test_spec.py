"""A spec: what it accepts, what it says of the rest, and what makes two of them one architecture."""

import dataclasses

import pytest

from tests.specs import random_spec
from uniformer_bench.errors import SpecError
from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec, as_triple
from uniformer_bench.variants import VARIANTS, variant


def stage(**values):
    return {"mixer": "local", "depth": 1, "width": 16, **values}


def spec(*stages, **values):
    return {"head_dim": 8, **values, "stages": list(stages)}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (spec(stage(), stage(kernel=[4, 5, 5])), r"kernel must be odd, got \(4, 5, 5\) in stages\[1\]"),
        (spec(stage(kernel=[3, 3])), r"kernel must be a positive integer or three .* got \[3, 3\] in stages\[0\]"),
        (spec(stage(dpe_kernel=2)), r"dpe_kernel must be odd, got \(2, 2, 2\) in stages\[0\]"),
        (spec(stage(mixer="sideways")), r"mixer must be one of local, global, split, got 'sideways' in stages\[0\]"),
        (spec(stage(depth=0)), r"depth must be a positive integer, got 0 in stages\[0\]"),
        (spec(stage(width=True)), r"width must be a positive integer, got True in stages\[0\]"),
        (spec(stage(ffn="no")), r"ffn must be true or false, got 'no' in stages\[0\]"),
        (spec(stage(mlp_ratio=-1)), r"mlp_ratio must be a positive number, got -1 in stages\[0\]"),
        (spec(stage(layer_scale=0)), r"layer_scale must be a positive number, got 0 in stages\[0\]"),
        (spec(stage(mixer="global", head_dim=0)), r"head_dim must be a positive integer, got 0 in stages\[0\]"),
        (
            spec(stage(mixer="global", width=20)),
            r"head_dim must divide width, got head_dim 8 and width 20 in stages\[0\]",
        ),
        (spec(stage(mlp_ratio=0.01)), r"mlp_ratio x width must be at least 1, got 0.01 x 16 in stages\[0\]"),
        (spec(stage(kernle=3)), r"unknown key 'kernle' in stages\[0\], did you mean kernel"),
        (spec({"mixer": "local", "depth": 1}), r"width must be given in stages\[0\]"),
        (spec("LLGG"), r"stages\[0\] must be a mapping, got 'LLGG'"),
        (spec(stage(), drop_path=1), r"drop_path must be in \[0, 1\), got 1"),
        (spec(stage(), in_channels=0), "in_channels must be a positive integer, got 0"),
        (spec(stage(), stem={"kernel": 3}), "stride must be given in stem"),
        (spec(stage(), stem={"kernel": 0, "stride": 1}), "kernel must be a positive integer .* got 0 in stem"),
        (
            spec(stage(), stem={"kernel": 3, "stride": 2, "kind": "round"}),
            "kind must be patch or conv, got 'round' in stem",
        ),
        (
            spec(stage(), stem={"kernel": 3, "stride": 2, "layers": 2}),
            "layers must be 1 where kind is patch, got 2 in stem",
        ),
        (
            spec(stage(width=17), stem={"kernel": 3, "stride": 2, "kind": "conv", "layers": 2}),
            r"2 conv layers must halve the width evenly, got width 17 in stages\[0\]",
        ),
        (spec(), "stages must hold at least one stage, got none"),
        ({"head_dim": 8}, "stages must be a list of stages, got None"),
        (["local"], r"the spec must be a mapping, got \['local'\]"),
    ],
)
def test_a_broken_rule_is_named_with_value_and_place(mapping, message):
    with pytest.raises(SpecError, match=message):
        ArchSpec.from_dict(mapping)


def test_the_defaults_are_those_of_uniformer_s():
    bare = ArchSpec.from_dict({"stages": [{"mixer": "local", "depth": 3, "width": 64}]})
    assert (bare.stem.kernel, bare.stem.stride, bare.stem.padding) == ((3, 4, 4), (2, 4, 4), (1, 0, 0))
    assert (bare.downsample.kernel, bare.head_dim, bare.mlp_ratio, bare.drop_path) == ((1, 2, 2), 64, 4, 0)
    assert (bare.stages[0].kernel, bare.stages[0].dpe_kernel, bare.stages[0].ffn) == ((5, 5, 5), (3, 3, 3), True)


@pytest.mark.parametrize("given", [*map(random_spec, range(40)), *(row.spec for row in VARIANTS.values())])
def test_plain_data_gives_the_spec_back(given, tmp_path):
    import yaml

    assert ArchSpec.from_dict(given.to_dict()) == given
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(given.to_dict()))
    loaded = ArchSpec.load(tmp_path / "spec.yaml")
    assert loaded == given
    assert loaded.id == given.id


def test_what_is_inactive_is_no_part_of_a_spec():
    base = spec(stage(), stage(mixer="global"))
    assert ArchSpec.from_dict(base) == ArchSpec.from_dict(spec(stage(head_dim=4), stage(mixer="global", kernel=9)))
    assert ArchSpec.from_dict(spec(stage(ffn=False, mlp_ratio=3))) == ArchSpec.from_dict(spec(stage(ffn=False)))
    alone = ArchSpec.from_dict(spec(stage()))
    other_downsample = dataclasses.replace(alone, downsample=PatchSpec(kernel=3, stride=2))
    assert alone.id == other_downsample.id == dataclasses.replace(alone, head_dim=4).id
    assert alone.id == dataclasses.replace(alone, drop_path=0.5).id  # one block has no depth to drop over
    assert dataclasses.replace(alone, mlp_ratio=4.0).id == alone.id


@pytest.mark.parametrize(
    "change",
    [
        {"mixer": "split"},
        {"depth": 2},
        {"width": 24},
        {"kernel": 3},
        {"dpe_kernel": None},
        {"ffn": False},
        {"mlp_ratio": 3},
        {"layer_scale": 0.1},
    ],
)
def test_what_is_active_changes_the_id(change):
    assert ArchSpec.from_dict(spec(stage(), stage())).id != ArchSpec.from_dict(spec(stage(), stage(**change))).id


def test_grids_follow_the_convolution_formula():
    assert variant("s").grids(16, 224) == ((8, 56, 56), (8, 28, 28), (8, 14, 14), (8, 7, 7))
    assert variant("s").grids(5, (64, 96))[0] == (3, 16, 24)  # ceil(5 / 2) by the stem's padding


def test_a_clip_too_small_for_the_strides_is_refused():
    with pytest.raises(SpecError, match=r"must leave a token .* got 16x16x16 which is 8x0x0 at stages\[3\]"):
        variant("s").grids(16, 16)


def test_one_odd_number_is_a_cube():
    assert StageSpec(mixer="local", depth=1, width=8, kernel=7).kernel == (7, 7, 7) == as_triple("kernel", 7)


def test_pattern_has_a_letter_a_stage():
    assert variant("b").pattern == "LLGG"
