"""Weights for any architecture out of those of another: what goes over, what stays, and that functions stay where they
can."""

import functools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests.specs import CLIP, random_spec
from tests.test_evaluate import task  # noqa: F401  # a fixture
from tests.test_training import ALONE, make_clips, make_plan
from uniformer_bench.errors import UbenchError
from uniformer_bench.model import build, clips_like
from uniformer_bench.model.checkpoints import write_pickled
from uniformer_bench.model.inheritance import inherit
from uniformer_bench.search import evaluate as evaluating
from uniformer_bench.search.donors import check_heir, donor_of, start_from
from uniformer_bench.search.evaluate import evaluate
from uniformer_bench.search.retraining import Lesson, Place, Training, train_again
from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec
from uniformer_bench.training.loop import train

STEM = PatchSpec(kernel=(3, 2, 2), stride=(2, 2, 2))


def spec_of(*stages, **whole):
    return ArchSpec(stages=stages, head_dim=4, mlp_ratio=2, stem=STEM, **whole)


def local(width=8, depth=1, kernel=(3, 3, 3), **more):
    return StageSpec(mixer="local", depth=depth, width=width, kernel=kernel, **more)


def attending(width=8, depth=1, mixer="global", **more):
    return StageSpec(mixer=mixer, depth=depth, width=width, **more)


def model_of(spec, seed=0, classes=3):
    """A model whose norms and statistics are not those of the start."""
    torch.manual_seed(seed)
    model = build(spec, classes)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.5, 1.5) if name.endswith(("weight", "var")) else value.uniform_(-0.5, 0.5)
    return model.eval()


def answers(model, seed=0):
    with torch.no_grad():
        return model.eval()(clips_like(model.spec, 2, 4, (16, 16), seed))


def heir_of(spec, donor, classes=3, **how):
    heir = model_of(spec, seed=1, classes=classes)
    share = inherit(heir, donor, **how)
    return heir, share


@pytest.mark.parametrize("seed", range(12))
def test_an_equal_architecture_inherits_everything(seed):
    donor = model_of(random_spec(seed))
    heir, share = heir_of(donor.spec, donor)
    assert share == 1.0
    own = heir.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in donor.state_dict().items() if "batches" not in name)


@pytest.mark.parametrize("seed", range(40))
def test_any_two_architectures_of_as_many_stages_go_together(seed):
    there = random_spec(seed)
    others = (random_spec(1000 + seed + 7 * i) for i in range(100))
    here = next(o for o in others if (len(o.stages), o.in_channels) == (len(there.stages), there.in_channels))
    heir, share = heir_of(here, model_of(there))
    assert 0 < share <= 1
    with torch.no_grad():
        assert heir(clips_like(here, 1, CLIP["frames"], (CLIP["size"],) * 2)).isfinite().all()


@pytest.mark.parametrize("by", ["importance", "order"])
def test_the_weightiest_channels_stay_or_the_first(by):
    donor, kept = model_of(spec_of(local(8), local(8))), [1, 3, 4, 6]
    with torch.no_grad():
        donor.blocks1[0].conv2.weight[kept] *= 100
    heir, share = heir_of(spec_of(local(4), local(8)), donor, by=by)
    rows = kept if by == "importance" else [0, 1, 2, 3]
    assert torch.equal(heir.blocks1[0].pos_embed.weight, donor.blocks1[0].pos_embed.weight[rows])
    assert torch.equal(heir.blocks1[0].norm1.running_var, donor.blocks1[0].norm1.running_var[rows])
    assert torch.equal(heir.patch_embed1.proj.weight, donor.patch_embed1.proj.weight[rows])
    assert torch.equal(heir.patch_embed2.proj.weight, donor.patch_embed2.proj.weight[:, rows])
    inner = heir.blocks1[0].attn.bias
    matches = (donor.blocks1[0].attn.bias[None] == inner[:, None]).nonzero()[:, 1]
    assert len(set(matches.tolist())) == 4  # the inner channels are four of the donor's, chosen by themselves
    whole = donor.blocks1[0].conv1.weight[:, :, 0, 0, 0][matches][:, rows]
    assert torch.equal(heir.blocks1[0].conv1.weight[:, :, 0, 0, 0], whole)
    assert share == 1.0


def test_channels_that_nobody_reads_or_writes_are_dropped_without_a_trace():
    """Of a local network with convolutional embeddings, whose norms look at each channel alone."""
    patch = PatchSpec(kernel=(1, 3, 3), stride=(1, 2, 2), kind="conv")
    there = ArchSpec(stages=(local(8),), stem=patch, mlp_ratio=2)
    donor, dead = model_of(there), [0, 5]
    silent = donor.state_dict()
    with torch.no_grad():
        for name in ("patch_embed1.proj.1.weight", "patch_embed1.proj.1.bias", "blocks1.0.pos_embed.weight",
                     "blocks1.0.pos_embed.bias", "blocks1.0.conv2.weight", "blocks1.0.conv2.bias",
                     "blocks1.0.mlp.fc2.weight", "blocks1.0.mlp.fc2.bias"):  # fmt: skip
            silent[name][dead] = 0
        for name in ("blocks1.0.conv1.weight", "blocks1.0.mlp.fc1.weight", "head.weight"):
            silent[name][:, dead] = 0
        silent["blocks1.0.conv2.weight"][:, dead] = 0  # two channels inside the mixer, and four inside the FFN
        silent["blocks1.0.conv1.weight"][dead] = 0
        silent["blocks1.0.attn.weight"][dead] = 0
        silent["blocks1.0.mlp.fc1.weight"][[1, 2, 8, 9]] = 0
        silent["blocks1.0.mlp.fc2.weight"][:, [1, 2, 8, 9]] = 0
    heir, _ = heir_of(replace(there, stages=(local(6),)), donor)
    torch.testing.assert_close(answers(heir), answers(donor), rtol=1e-5, atol=1e-6)


def test_heads_stay_whole_and_those_that_weigh_most():
    donor = model_of(spec_of(attending(12)))
    attention = donor.blocks1[0].attn
    with torch.no_grad():
        attention.proj.weight[:, 4:12] *= 100  # the second and the third head
    heir, _ = heir_of(spec_of(attending(8)), donor)
    query = attention.qkv.weight[:12]
    own, outer = heir.blocks1[0].attn, heir.patch_embed1.proj.bias
    kept = (donor.patch_embed1.proj.bias[None] == outer[:, None]).nonzero()[:, 1]
    assert torch.equal(own.qkv.weight[:8], query[4:12][:, kept])
    assert torch.equal(own.proj.weight, attention.proj.weight[kept][:, 4:12])


def test_narrower_heads_take_a_part_of_each_and_wider_ones_keep_the_rest_of_their_own():
    donor = model_of(spec_of(attending(8, head_dim=4)))
    narrow, share = heir_of(spec_of(attending(8, head_dim=2)), donor)
    keys = donor.blocks1[0].attn.qkv.weight[8:16]
    found = [(keys == row).all(1).nonzero().item() for row in narrow.blocks1[0].attn.qkv.weight[8:12]]
    assert found == sorted(found)
    assert [row // 4 for row in found] == [0, 0, 1, 1]
    assert share < 1  # two heads of the four have no donor
    wide, share = heir_of(spec_of(attending(8, head_dim=8)), donor)
    fresh = model_of(wide.spec, seed=1).blocks1[0].attn.qkv.weight
    assert torch.equal(wide.blocks1[0].attn.qkv.weight[4:8], fresh[4:8])
    assert share < 1


def test_blocks_are_dropped_and_repeated_evenly():
    donor = model_of(spec_of(local(8, depth=4)))
    biases = [block.attn.bias for block in donor.blocks1]
    for depth, from_block in ((2, (0, 2)), (3, (0, 1, 2)), (6, (0, 0, 1, 2, 2, 3))):
        heir, _ = heir_of(spec_of(local(8, depth=depth)), donor)
        assert all(torch.equal(b.attn.bias, biases[j]) for b, j in zip(heir.blocks1, from_block, strict=True))


def test_a_tube_is_cropped_and_padded_about_its_centre():
    donor = model_of(spec_of(local(8, kernel=(1, 3, 5), dpe_kernel=(1, 3, 3))))
    heir, share = heir_of(spec_of(local(8, kernel=(3, 5, 5), dpe_kernel=3)), donor)
    torch.testing.assert_close(answers(heir), answers(donor))
    assert share == 1.0
    smaller, _ = heir_of(spec_of(local(8, kernel=(1, 1, 3))), donor)
    assert torch.equal(smaller.blocks1[0].attn.weight, donor.blocks1[0].attn.weight[:, :, :, 1:2, 1:4])


def test_local_and_global_share_what_the_paper_calls_v_and_u():
    donor = model_of(spec_of(attending(8)))
    heir, _ = heir_of(spec_of(local(8, kernel=(3, 1, 3))), donor)
    here, there = heir.blocks1[0], donor.blocks1[0]
    assert torch.equal(here.conv1.weight[:, :, 0, 0, 0], there.attn.qkv.weight[16:])
    assert torch.equal(here.conv2.weight[:, :, 0, 0, 0], there.attn.proj.weight)
    assert torch.equal(here.mlp.fc1.weight[:, :, 0, 0, 0], there.mlp.fc1.weight)
    assert torch.equal(here.norm1.weight, there.norm1.weight)
    assert here.attn.weight.unique().tolist() == pytest.approx([1 / 9])
    assert here.attn.bias.abs().max() == 0
    back, _ = heir_of(donor.spec, heir)
    assert torch.equal(back.blocks1[0].attn.qkv.weight[16:], there.attn.qkv.weight[16:])
    fresh = model_of(donor.spec, seed=1).blocks1[0].attn.qkv.weight
    assert torch.equal(back.blocks1[0].attn.qkv.weight[:16], fresh[:16])


def test_split_attention_begins_over_time_as_it_does_and_in_space_as_the_donor():
    donor = model_of(spec_of(attending(8)))
    heir = build(spec_of(attending(8, mixer="split")), 3)
    inherit(heir, donor)
    assert torch.equal(heir.blocks1[0].attn.qkv.weight, donor.blocks1[0].attn.qkv.weight)
    assert heir.blocks1[0].t_attn.qkv.weight.abs().max() == 0
    with torch.no_grad():
        heir.blocks1[0].t_attn.qkv.weight.uniform_(-1, 1)
    other, share = heir_of(heir.spec, heir)
    assert share == 1.0
    assert torch.equal(other.blocks1[0].t_attn.qkv.weight, heir.blocks1[0].t_attn.qkv.weight)


@pytest.mark.parametrize("stage", [local(8, layer_scale=0.5), attending(8, layer_scale=0.5)])
def test_a_learned_scale_that_the_heir_has_not_is_folded_in(stage):
    donor = model_of(spec_of(stage))
    with torch.no_grad():
        donor.blocks1[0].gamma_1.uniform_(0.5, 2)
    heir, _ = heir_of(spec_of(replace(stage, layer_scale=None)), donor)
    torch.testing.assert_close(answers(heir), answers(donor))
    back, _ = heir_of(spec_of(replace(stage, layer_scale=1e-6)), heir)
    torch.testing.assert_close(answers(back), answers(donor))


def test_a_stem_of_another_depth_answers_alike_to_a_still_clip():
    donor = model_of(spec_of(local(8)))
    for depth in (1, 5):
        stem = replace(STEM, kernel=(depth, 2, 2), stride=(1, 2, 2))
        heir, _ = heir_of(replace(donor.spec, stem=stem), donor)
        still = torch.randn(1, 3, 1, 16, 16).expand(1, 3, 9, 16, 16)
        with torch.no_grad():
            found, expected = (model.patch_embed1(still)[:, :, 2] for model in (heir, donor))
        torch.testing.assert_close(found, expected)


def test_what_has_no_donor_stays_as_it_was():
    donor = model_of(spec_of(local(4, dpe_kernel=None, ffn=False)))
    other_stem = PatchSpec(kernel=(3, 4, 4), stride=(2, 2, 2))
    spec = replace(spec_of(local(6)), stem=other_stem)
    heir, share = heir_of(spec, donor, classes=5)
    fresh = model_of(spec, seed=1, classes=5)
    own, first = heir.state_dict(), fresh.state_dict()
    for name in ("patch_embed1.proj.weight", "blocks1.0.pos_embed.weight", "blocks1.0.mlp.fc1.weight", "head.weight"):
        assert torch.equal(own[name], first[name])
    assert torch.equal(own["blocks1.0.conv1.weight"][4:], first["blocks1.0.conv1.weight"][4:])
    assert torch.equal(own["blocks1.0.conv1.weight"][:4, :4], donor.blocks1[0].conv1.weight)
    filled = 2 * 4 + (16 + 4) + (4 * 27 + 4) + (16 + 4) + 2 * 4  # norm1, conv1, tube, conv2, the last norm
    assert share == pytest.approx(filled / sum(p.numel() for p in heir.parameters()))


@pytest.mark.parametrize(
    ("spec", "how", "rule"),
    [
        (spec_of(local(), local()), {}, "as many stages as its donor, got 2 and 1"),
        (spec_of(local(), in_channels=1), {}, "as many channels of clips as its donor, got 1 and 3"),
        (spec_of(local()), {"by": "rank"}, "by must be importance or order, got 'rank'"),
    ],
)
def test_what_cannot_be_inherited_is_named(spec, how, rule):
    with pytest.raises(UbenchError, match=rule):
        heir_of(spec, model_of(spec_of(local())), **how)


# ---------------------------------------------------------------- files


def test_a_donor_is_read_from_a_training_an_export_and_bare_weights(tmp_path):
    """Only from bare weights the width of a head must be assumed, which is 64."""
    spec = spec_of(local(8), attending(8))
    saved = train(make_plan(spec=spec), make_clips(), tmp_path / "donor", world=ALONE)
    save_file(saved.model, tmp_path / "model.safetensors")  # beside it what `ubench export` writes there
    (tmp_path / "config.json").write_text(json.dumps({"spec": spec.to_dict()}))
    for file in (tmp_path / "donor" / "checkpoint.pt", tmp_path / "model.safetensors"):
        donor = donor_of(start_from(file))
        assert donor.spec.id == spec.id
        assert torch.equal(donor.head.weight, saved.model["head.weight"])
    wide = model_of(replace(spec_of(attending(64)), head_dim=64))
    write_pickled(tmp_path / "bare.pth", {"model": wide.state_dict()})
    state = torch.get_rng_state()
    donor = donor_of(start_from(tmp_path / "bare.pth"))
    assert torch.equal(torch.get_rng_state(), state)  # the first trial of a process draws as the others do
    assert donor.spec.stages[0].width == 64
    assert torch.equal(donor.head.weight, wide.head.weight)


def test_files_that_cannot_be_started_from_are_named(tmp_path):
    with pytest.raises(UbenchError, match=r"none\.pth cannot be read: No such file"):
        start_from(tmp_path / "none.pth")
    file = tmp_path / "weights.pth"
    write_pickled(file, model_of(spec_of(attending(64))).state_dict())
    start = start_from(file)
    with pytest.raises(UbenchError, match="as many stages as its donor, got 2 and 1"):
        check_heir(start, spec_of(local(), local()), 3)
    donor_of.cache_clear()
    write_pickled(file, model_of(spec_of(attending(64)), seed=1).state_dict())
    with pytest.raises(UbenchError, match=f"must stay as they were, got sha256 .* began from {start.sha256[:12]}"):
        donor_of(start)
    exported = tmp_path / "model.safetensors"
    exported.write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other"}))
    with pytest.raises(UbenchError, match="must be a whole safetensors file"):
        donor_of(start_from(exported))


def test_a_config_beside_weights_must_be_ours(tmp_path):
    save_file(model_of(spec_of(attending(64))).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other"}))
    with pytest.raises(UbenchError, match=r"config\.json must be what `ubench export` writes, got KeyError"):
        donor_of(start_from(tmp_path / "model.safetensors"))


# ---------------------------------------------------------------- a search from them


def test_a_trial_and_a_finalist_start_from_the_weights(task, tmp_path, monkeypatch):  # noqa: F811  # the fixture
    """Of a donor that tells light from dark a run of next to no rate is as good as it; from nothing it is not."""
    barely = replace(task.recipe, lr=1e-12, epochs=1)
    learned = evaluate_and_keep(task, tmp_path, monkeypatch)
    assert learned == 1.0
    start = start_from(tmp_path / "model.safetensors")
    barely_trained = task._replace(recipe=barely, measure=("accuracy",), start=start)
    assert evaluate(barely_trained).metrics["accuracy"] == 1.0
    assert evaluate(barely_trained._replace(start=None)).metrics["accuracy"] < 1.0
    monkeypatch.setattr("uniformer_bench.search.retraining.turns_of", evaluating.turns_of)
    lesson = Lesson(2, barely, {}, "fp32", "fast", 1, test=False, start=barely_trained.start)
    again = functools.partial(train_again, (Training(0, task.trained, 0, 0.0), lesson, Place("cpu", tmp_path)))
    assert again().validation == 1.0


def evaluate_and_keep(trial, folder, monkeypatch):
    """The accuracy of a trial, whose weights are written to a folder as `ubench export` does."""
    with monkeypatch.context() as patch:
        kept, advanced = [], evaluating._advanced

        def keeping(*arguments):
            kept.append(advanced(*arguments))
            return kept[-1]

        patch.setattr(evaluating, "_advanced", keeping)
        found = evaluate(trial._replace(measure=("accuracy",)))
    save_file(kept[0].model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"spec": trial.trained.to_dict()}))
    return found.metrics["accuracy"]
