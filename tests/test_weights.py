"""Weights are loaded strictly, inflated rightly, and what was left out or assumed is said."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.official import CASES, clips_of, state_dict_of
from tests.specs import random_spec
from uniformer_bench.errors import UbenchError
from uniformer_bench.model import build, load_official_state_dict
from uniformer_bench.model.weights import assumed_head_dim, load_weights, spec_from_state_dict
from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec
from uniformer_bench.variants import VARIANTS, variant

SCALES = (None, None, 1e-6, 1e-6)


MIXERS = {"L": "local", "G": "global"}


def _spec(pattern, *, video, head_dim=8, scales=(None,) * 4):
    """A narrow model over images, or the same over clips: tubes 5, DPE, stem and downsampling 3 deep."""
    tube, dpe = ((5, 5, 5), (3, 3, 3)) if video else ((1, 5, 5), (1, 3, 3))
    rows = zip(pattern, (16, 24, 32, 40), scales, strict=False)
    return ArchSpec(
        stages=tuple(
            StageSpec(mixer=MIXERS[m], depth=1, width=w, kernel=tube, dpe_kernel=dpe, layer_scale=s) for m, w, s in rows
        ),
        stem=PatchSpec(kernel=(3, 4, 4) if video else (1, 4, 4), stride=(2, 4, 4) if video else (1, 4, 4)),
        downsample=PatchSpec(kernel=(3, 2, 2) if video else (1, 2, 2), stride=(1, 2, 2)),
        head_dim=head_dim,
        mlp_ratio=2,
    )


def _filled(spec, num_classes=5):
    """A float64 model with the parity cases' weights by name."""
    model = build(spec, num_classes, "reference").double().eval()
    load_official_state_dict(model, state_dict_of({"state_dict": None}, model.state_dict()))
    return model


def _weights_2d(image):
    """The weights as a 2D implementation has them: no axis over time."""
    return {name: value.squeeze(2) if value.ndim == 5 else value for name, value in image.state_dict().items()}


def _inflated(pattern, how, scales=(None,) * 4):
    """(image model, video model with its weights inflated, what was said)."""
    image = _filled(_spec(pattern, video=False, scales=scales))
    video = build(_spec(pattern, video=True, scales=scales), 5, "reference").double().eval()
    return image, video, load_weights(video, _weights_2d(image), inflate=how).notes


def _still(frames, size=32):
    """A picture (1, 3, 1, size, size), and a clip of it, `frames` long."""
    picture = torch.randn(1, 3, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return picture, picture.expand(-1, -1, frames, -1, -1).contiguous()


@torch.no_grad()
def test_averaged_stem_of_a_still_clip_is_the_pictures_but_at_the_border():
    image, video, _ = _inflated("LL", "average")
    picture, clip = _still(8)
    weight, bias = image.patch_embed1.proj.weight[:, :, 0], image.patch_embed1.proj.bias
    expected = F.conv2d(picture[:, :, 0], weight, bias, stride=4)
    found = video.patch_embed1.proj(clip)
    assert found.shape[2] == 4
    for t in (1, 2, 3):
        torch.testing.assert_close(found[:, :, t], expected)
    column = bias[:, None, None]
    torch.testing.assert_close(found[:, :, 0] - column, (expected - column) * 2 / 3)  # one of three frames is padding


@torch.no_grad()
def test_averaged_local_stages_of_a_still_clip_are_the_pictures_far_from_the_borders():
    image, video, _ = _inflated("LL", "average")
    picture, clip = _still(32)
    (embed, blocks), (embed_2d, blocks_2d) = video.stage_modules()[0], image.stage_modules()[0]
    found, expected = blocks(embed(clip)), blocks_2d(embed_2d(picture))[:, :, 0]
    assert found.shape[2] == 16
    # The stem's padding reaches frame 0, DPE (1) and tube (2) carry it to frame 3; from the end they reach 3 frames.
    for t in range(4, 13):
        torch.testing.assert_close(found[:, :, t], expected)
    for t in (3, 13):
        assert (found[:, :, t] - expected).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("scales", [(None,) * 4, SCALES])
@pytest.mark.parametrize("pattern", ["LLLL", "LLGG", "GGGG"])
def test_centred_weights_give_a_still_clip_the_pictures_logits(pattern, scales):
    # Centred kernels see one frame each, and attention over copies of every token is attention over the tokens.
    image, video, _ = _inflated(pattern, "centre", scales)
    picture, clip = _still(6)
    torch.testing.assert_close(video(clip), image(picture), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_official_image_weights_inflated_into_video_s_give_a_still_clip_the_official_logits():
    case = next(case for case in CASES if case["name"] == "image_s_64")
    video = build(variant("s"), case["num_classes"]).double().eval()
    notes = load_weights(video, state_dict_of(case, {}), inflate="centre").notes
    assert notes[0] == "26 2D kernels are inflated over time by centre"  # the stem, 18 DPE, 7 tubes
    logits = video(clips_of(case).expand(-1, -1, 4, -1, -1))
    torch.testing.assert_close(logits, torch.tensor(case["logits"], dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("how", ["average", "centre"])
def test_inflated_kernels_by_hand(how):
    image, video, notes = _inflated("LG", how)
    flat, deep = _weights_2d(image), video.state_dict()
    kernels = ["patch_embed1.proj", "patch_embed2.proj", "blocks1.0.pos_embed", "blocks2.0.pos_embed", "blocks1.0.attn"]
    for kernel in kernels:
        given, found = flat[f"{kernel}.weight"], deep[f"{kernel}.weight"]
        depth = 5 if kernel.endswith("attn") else 3
        assert found.shape[2] == depth
        for t in range(depth):
            share = 1 / depth if how == "average" else float(t == depth // 2)
            torch.testing.assert_close(found[:, :, t], given * share)
    assert notes[0] == f"{len(kernels)} 2D kernels are inflated over time by {how}"
    assert torch.equal(deep["blocks1.0.conv1.weight"][:, :, 0], flat["blocks1.0.conv1.weight"])  # depth one: as it is


def test_3d_weights_are_not_inflated():
    model = _filled(_spec("LG", video=True))
    notes = load_weights(model, model.state_dict()).notes
    assert notes == ("head_dim 8 is assumed: weights do not tell, and with another the outputs are wrong",)


def test_a_head_for_other_classes_is_left_out_with_a_word():
    given = _filled(_spec("L", video=True), num_classes=7).state_dict()
    model = build(_spec("L", video=True), 3)
    fresh = model.head.weight.detach().clone()
    assert load_weights(model, given).notes == (
        "the head for 7 classes is left out: that for 3 stays as it was",
    )  # and nothing of head_dim where nothing attends
    assert torch.equal(model.head.weight, fresh)
    assert torch.equal(model.norm.weight, given["norm.weight"].float())


def test_a_head_for_the_same_classes_is_taken():
    given = _filled(_spec("L", video=True)).state_dict()
    model = build(_spec("L", video=True), 5)
    assert load_weights(model, given).notes == ()
    assert torch.equal(model.head.weight, given["head.weight"].float())


def test_the_token_labelling_head_is_left_out_with_a_word():
    model = _filled(_spec("L", video=True))
    aux = {"aux_head.weight": torch.zeros(5, 16), "aux_head.bias": torch.zeros(5)}
    (note,) = load_weights(model, model.state_dict() | aux).notes
    assert note.startswith("the token-labelling head (aux_head) is left out")


def test_weights_of_another_model_list_what_does_not_fit_on_one_line():
    model = build(_spec("L", video=True), 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = dict(before) | {f"stray{i}\n{'x' * 500}": torch.zeros(1) for i in range(9)}
    del given["norm.bias"]
    given["blocks1.0.attn.weight"] = torch.zeros(16, 1, 3, 3, 3)
    with pytest.raises(UbenchError, match="the weights must be those of L ") as raised:
        load_weights(model, given)
    text = str(raised.value)
    assert "1 missing (norm.bias)" in text
    assert "9 unexpected (stray0 xxx" in text
    assert "and 5 more)" in text
    assert "1 of another shape (blocks1.0.attn.weight (16, 1, 3, 3, 3) for (16, 1, 5, 5, 5))" in text
    assert "\n" not in text
    assert len(text) < 1000
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_head_of_other_width_is_no_head_for_other_classes():
    model = build(_spec("L", video=True), 5)
    with pytest.raises(UbenchError, match=r"1 of another shape \(head.weight \(7, 12\) for \(5, 16\)\)"):
        load_weights(model, model.state_dict() | {"head.weight": torch.zeros(7, 12)})


def test_weights_of_as_many_numbers_in_another_shape_do_not_fit():
    model = build(_spec("L", video=False), 5)
    given = model.state_dict() | {"patch_embed1.proj.weight": torch.zeros(16, 3, 2, 8)}  # for (16, 3, 1, 4, 4)
    with pytest.raises(UbenchError, match="1 of another shape"):
        load_official_state_dict(model, given)


def test_an_unknown_inflation_is_refused():
    with pytest.raises(UbenchError, match="inflate must be average or centre, got 'center', did you mean centre"):
        load_weights(build(_spec("L", video=True), 5), {}, inflate="center")


@pytest.mark.parametrize(
    ("name", "head_dim"),
    [
        ("uniformer_small_in1k.pth", 64),
        ("uniformer_small_plus_in1k.pth", 32),
        ("uniformer_small_plus_dim64_in1k.pth", 64),
        ("uniformer_base_in1k.pth", 64),
        ("uniformer_base_ls_in1k.pth", 64),
        ("uniformer_small_tl_224.pth", 32),
        ("uniformer_small_plus_tl_224.pth", 32),
        ("uniformer_base_tl_224.pth", 32),
        ("uniformer_large_ls_tl_224.pth", 64),
        ("uniformer_small_dim64_tl_224.pth", 64),
        ("uniformer_small_plus_dim64_tl_224.pth", 64),
        ("uniformer_base_dim64_tl_224.pth", 64),
        ("uniformer_small_tl_384.pth", 32),
        ("uniformer_small_plus_tl_384.pth", 32),
        ("uniformer_base_tl_384.safetensors", 32),
        ("uniformer_large_ls_tl_384.pth", 64),
        ("uniformer_base_k400_16x4.pth", 64),
        ("uniformer_mine.pth", None),
        ("best.pth", None),
    ],
)
def test_the_head_dim_of_released_files_is_known_by_name(name, head_dim):
    assert assumed_head_dim(name) == head_dim


def test_another_head_dim_loads_and_is_said():
    # The shapes are the same: without the note nobody would know why the outputs are wrong.
    narrow, wide = (_filled(_spec("LG", video=False, head_dim=d)) for d in (8, 12))
    given, (picture, _) = narrow.state_dict(), _still(1)
    notes = load_weights(wide, given, filename="uniformer_small_plus_in1k.pth").notes
    with torch.no_grad():
        assert (wide(picture) - narrow(picture)).abs().max() > 1e-3
    assert notes == (
        "warning: uniformer_small_plus_in1k.pth was trained with head_dim 32, the model has 12: its outputs are wrong",
    )


def test_the_head_dim_of_a_released_file_is_confirmed():
    model = build(ArchSpec(stages=(StageSpec(mixer="global", depth=1, width=64),), head_dim=32), 5)
    (note,) = load_weights(model, model.state_dict(), filename="uniformer_base_tl_224.pth").notes
    assert note == "head_dim 32, as the official uniformer_base_tl_224.pth was trained with"


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_architecture_of_a_variant_is_read_off_its_weights(name):
    spec = dataclasses.replace(variant(name), drop_path=0.0)  # which weights do not tell
    with torch.device("meta"):
        weights = build(spec, 9).state_dict()
    found = spec_from_state_dict(weights, head_dim=spec.head_dim)
    assert found.spec.id == spec.id
    assert found.num_classes == 9
    assert found.notes[0].startswith(f"strides {spec.stem.stride} and {spec.downsample.stride} are assumed")
    assert f"head_dim {spec.head_dim} is assumed" in found.notes[1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_architecture_of_official_weights_is_read_off_and_they_fit(case):
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in case["state_dict"].items()}
        found = spec_from_state_dict(weights, head_dim=case.get("head_dim", 32))
        load_official_state_dict(build(found.spec, case["num_classes"]), weights)
    assert found.num_classes == case["num_classes"]


@pytest.mark.parametrize("seed", range(30))
def test_weights_fit_the_architecture_read_off_them(seed):
    # One DPE, FFN and mixer a stage, but strides and downsampling that the rule cannot know: shapes must fit anyway.
    spec = random_spec(seed)
    with torch.device("meta"):
        weights = build(spec, 3).state_dict()
        found = spec_from_state_dict(weights, head_dim=1).spec
        load_official_state_dict(build(found, 3), weights)
    assert found.pattern == spec.pattern


def _without(*names, **changed):
    weights = build(_spec("LLL", video=True), 5).state_dict()
    return {name: value for name, value in weights.items() if name not in names} | changed


def test_every_hidden_width_is_read_exactly():
    # 49 x (k / 49) is rounded to just under k for some k.
    assert any(int(49 * (hidden / 49)) != hidden for hidden in range(1, 200))
    weights = _without()
    for hidden in range(1, 200):
        weights |= {"blocks1.0.norm1.weight": torch.zeros(49), "blocks1.0.mlp.fc1.weight": torch.zeros(hidden, 49)}
        assert spec_from_state_dict(weights).spec.resolved_stages[0].hidden == hidden


def test_a_headless_backbone_has_no_classes():
    weights = _filled(_spec("L", video=True)).state_dict()
    del weights["head.weight"]
    assert spec_from_state_dict(weights).num_classes is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"conv1.weight": torch.zeros(3)}, r"names of a UniFormer, .* got 1 unexpected \(conv1.weight\)"),
        ({}, "names of a UniFormer"),
        (_without(cls_token=torch.zeros(1)), r"names of a UniFormer, .* got 1 unexpected \(cls_token\)"),
        (_without("blocks2.0.norm1.weight"), "the weights must hold blocks2.0.norm1.weight, got"),
        (_without("patch_embed2.proj.weight"), "the weights must hold patch_embed2.proj.0.weight, got"),
        (_without(**{"blocks1.0.attn.weight": torch.zeros(())}), r"attn.weight must have 4 or 5 axes, .* got \(\)"),
        (_without(**{"blocks1.0.norm1.weight": torch.zeros(0)}), r"1 axes, none of length 0, got \(0,\)"),
        (_without(**{"patch_embed3.proj.weight": torch.zeros(32, 24, 1, 2, 2)}), "downsampling before every stage"),
    ],
)
def test_weights_of_another_family_have_no_architecture(weights, message):
    with pytest.raises(UbenchError, match=message):
        spec_from_state_dict(weights)
