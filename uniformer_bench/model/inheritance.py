"""Weights for any architecture out of those of another, a wider, deeper or otherwise mixed one, say an official one.

Widths are sliced, blocks dropped or repeated evenly, kernels of depthwise convolutions cropped or padded about the
centre. Local and global MHRA are one formula in the paper (section 3.2: R = A V(X), then U), so between them V, U and
all that is not the mixer's go over; an affinity does not, and a tube begins as the mean over it, which is what an
attention that attends to nothing in particular does. What there is no donor for stays as it was initialised.

One choice of channels per stage holds for all that reads or writes the residual stream: embedding, DPE, norms, the
outer side of mixers and FFNs, the next embedding or the head. The inner channels of a mixer or an FFN are chosen block
by block, those of attention head by head.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import nearest
from uniformer_bench.model.uniformer import UniFormer
from uniformer_bench.spec import PatchSpec, StageSpec

ORDERS = ("importance", "order")  # by the norm of what reads and writes a channel, or the first ones
RESIDUAL, INNER, TEMPORAL, HIDDEN = "residual", "inner", "temporal", "hidden"  # kinds of channels of a block

# What a block's parts are in the paper's terms, with the channels of their leading axes.
_AXES: dict[str, tuple[str, ...]] = {
    "dpe": (RESIDUAL,), "norm1": (RESIDUAL,), "norm2": (RESIDUAL,), "t_norm": (RESIDUAL,),
    "gamma_1": (RESIDUAL,), "gamma_2": (RESIDUAL,), "tube": (INNER,),
    "query": (INNER, RESIDUAL), "key": (INNER, RESIDUAL), "value": (INNER, RESIDUAL), "u": (RESIDUAL, INNER),
    "t_query": (TEMPORAL, RESIDUAL), "t_key": (TEMPORAL, RESIDUAL), "t_value": (TEMPORAL, RESIDUAL),
    "t_u": (RESIDUAL, TEMPORAL), "fc1": (HIDDEN, RESIDUAL), "fc2": (RESIDUAL, HIDDEN),
}  # fmt: skip

Weights = Mapping[str, Tensor]
Index = Tensor  # (channels of the heir,) of int64: which of the donor's each is; -1 for none


@torch.no_grad()
def inherit(model: UniFormer, donor: UniFormer, *, by: str = "importance") -> float:
    """Fills `model` in place from `donor`, both on the CPU; gives the share of its parameters that came from there.

    Raises UbenchError where the stages or the channels of the clips are not as many, and for an unknown `by`.
    """
    if by not in ORDERS:
        raise UbenchError(f"by must be importance or order, got {by!r}{nearest(by, ORDERS)}")
    here, there = model.spec, donor.spec
    for what, own, given in (
        ("stages", len(here.stages), len(there.stages)),
        ("channels of clips", here.in_channels, there.in_channels),
    ):
        if own != given:
            raise UbenchError(f"an heir must have as many {what} as its donor, got {own} and {given}")
    return _filled(model, donor, by) / sum(p.numel() for p in model.parameters())


def _filled(model: UniFormer, donor: UniFormer, by: str) -> int:
    """How many parameters were filled."""
    own, given = model.state_dict(), donor.state_dict()  # the tensors themselves, not copies
    stages = list(zip(model.spec.resolved_stages, donor.spec.resolved_stages, strict=True))
    outer = [_residual(given, i, giver, heir.width, by) for i, (heir, giver) in enumerate(stages)]
    before, filled = torch.arange(donor.spec.in_channels), 0
    for i, (heir, giver) in enumerate(stages):
        patches, name = (model.spec.embedding(i), donor.spec.embedding(i)), f"patch_embed{i + 1}."
        filled += _embedding(_under(own, name), _under(given, name), patches, (before, outer[i]))
        for j in range(heir.depth):
            names = f"blocks{i + 1}.{j}.", f"blocks{i + 1}.{j * giver.depth // heir.depth}."
            filled += _block(_under(own, names[0]), _under(given, names[1]), (heir, giver), outer[i], by)
        before = outer[i]
    return filled + _head(own, given, before)


def _under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


# ---------------------------------------------------------------- which channels


def _chosen(score: Tensor, count: int, by: str) -> Index:
    """`count` channels in the donor's order, -1 for those that are more than it has."""
    kept = min(count, len(score))
    found = (
        score.argsort(descending=True, stable=True)[:kept].sort().values if by == "importance" else torch.arange(kept)
    )
    return torch.cat([found, torch.full((count - kept,), -1)])


def _score(parts: Mapping[str, Tensor], kind: str, size: int) -> Tensor:
    """(size,) how much the channels of a kind weigh: the squared norm in each matrix or kernel, as a share of it."""
    total = torch.zeros(size)
    for name, value in parts.items():
        role, _, what = name.partition(".")
        if what == "weight" and value.ndim > 1 and kind in _AXES[role]:
            axis = _AXES[role].index(kind)
            squares = value.float().square().transpose(0, axis).flatten(1).sum(1)
            total += squares / squares.sum().clamp_min(1e-30)
    return total


def _residual(given: Weights, i: int, giver: StageSpec, width: int, by: str) -> Index:
    """The channels of a stage that all its blocks and its neighbours share."""
    total = torch.zeros(giver.width)
    for j in range(giver.depth):
        total += _score(_parts(_under(given, f"blocks{i + 1}.{j}.")), RESIDUAL, giver.width)
    return _chosen(total, width, by)


def _inner(score: Tensor, heir: StageSpec, giver: StageSpec, by: str) -> Index:
    """The channels inside a mixer. Between attentions heads stay whole, or as whole as the heir's are wide."""
    if "local" in (heir.mixer, giver.mixer):
        return _chosen(score, heir.width, by)
    assert heir.head_dim is not None, "attention without heads"
    in_heads = score.view(giver.heads, -1)
    heads = _chosen(in_heads.sum(1), heir.heads, by)
    rows = [_chosen(in_heads[head], heir.head_dim, by) for head in heads]
    shifted = (torch.where(row >= 0, row + head * in_heads.shape[1], -1) for head, row in zip(heads, rows, strict=True))
    return torch.cat([row if head >= 0 else torch.full_like(row, -1) for head, row in zip(heads, shifted, strict=True)])


# ---------------------------------------------------------------- what goes over


def _parts(block: Weights) -> dict[str, Tensor]:
    """Views of a block's tensors by role: pointwise weights (out, in), kernels (C, 1, t, h, w), all else (C,)."""
    return {name: value for key, tensor in block.items() for name, value in _views(key, tensor)}


def _views(key: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    module, _, what = key.rpartition(".")
    if not module:
        yield f"{key}.scale", tensor.flatten()  # gamma_1 and gamma_2
    elif module.endswith("qkv"):
        before = "t_" if module.startswith("t_") else ""
        yield from zip((f"{before}{role}.{what}" for role in ("query", "key", "value")), tensor.chunk(3), strict=True)
    elif module == "pos_embed" or (module == "attn" and what in ("weight", "bias")):
        yield f"{'dpe' if module == 'pos_embed' else 'tube'}.{what}", tensor
    elif what != "num_batches_tracked":
        yield f"{_ROLES.get(module, module)}.{what}", _pointwise(tensor)


def _pointwise(tensor: Tensor) -> Tensor:
    """(out, in, 1, 1, 1) as (out, in); what has fewer axes as it is."""
    return _pointwise(tensor[..., 0]) if tensor.ndim > 2 else tensor


_ROLES = {"conv1": "value", "conv2": "u", "attn.proj": "u", "t_attn.proj": "t_u", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}


def _block(own: Weights, given: Weights, stages: tuple[StageSpec, StageSpec], outer: Index, by: str) -> int:
    heir, giver = stages
    parts, gifts = _parts(own), _without_lost_scales(_parts(given), _parts(own))
    index = {RESIDUAL: outer, HIDDEN: _chosen(_score(gifts, HIDDEN, giver.hidden), heir.hidden, by)}
    for kind in (INNER, TEMPORAL):
        index[kind] = _inner(_score(gifts, kind, giver.width), heir, giver, by)
    if "tube.weight" in parts and "tube.weight" not in gifts:
        _fill_with_mean(parts["tube.weight"], parts["tube.bias"])
    for scale in {"gamma_1.scale", "gamma_2.scale"} & (parts.keys() - gifts.keys()):
        parts[scale].fill_(1)  # or a branch that was trained without one would begin all but shut
    filled = 0
    for name in parts.keys() & gifts.keys():
        role, _, what = name.partition(".")
        axes = _AXES[role] if what == "weight" else _AXES[role][:1]
        gift = _about_centre(gifts[name], parts[name]) if name in ("dpe.weight", "tube.weight") else gifts[name]
        copied = _copy(parts[name], gift, [index[kind] for kind in axes])
        filled += 0 if what.startswith("running") else copied
    return filled


def _without_lost_scales(gifts: dict[str, Tensor], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A learned scale that the heir does not have, folded into what it scales."""
    found = dict(gifts)
    for scale, role in (("gamma_1.scale", "u"), ("gamma_2.scale", "fc2")):
        if scale in gifts and scale not in parts and f"{role}.weight" in gifts:
            found[f"{role}.weight"] = gifts[f"{role}.weight"] * gifts[scale][:, None]
            found[f"{role}.bias"] = gifts[f"{role}.bias"] * gifts[scale]
    return found


def _fill_with_mean(tube: Tensor, bias: Tensor) -> None:
    tube.fill_(1 / tube[0].numel())
    bias.zero_()


def _about_centre(kernel: Tensor, own: Tensor) -> Tensor:
    """(C, 1, t, h, w) cropped, or padded with zeros, to the kernel of `own`; all are odd."""
    margins = [(n - k) // 2 for n, k in zip(own.shape[2:], kernel.shape[2:], strict=True)]
    return F.pad(kernel, [margin for margin in reversed(margins) for _ in range(2)])


def _embedding(own: Weights, given: Weights, patches: tuple[PatchSpec, PatchSpec], ends: tuple[Index, Index]) -> int:
    """Convolutions of one kind, number and size in space; in time the response to a still clip stays."""
    heir, giver = patches
    if (heir.kind, heir.layers, heir.kernel[1:]) != (giver.kind, giver.layers, giver.kernel[1:]):
        return 0
    steps = [3 * layer for layer in range(heir.layers)]
    names = ["proj"] if heir.kind == "patch" else [f"proj.{step}" for step in steps]
    norms = ["norm"] if heir.kind == "patch" else [f"proj.{step + 1}" for step in steps]
    between = (_chosen(torch.zeros(len(given[f"{n}.bias"])), len(own[f"{n}.bias"]), "order") for n in names[:-1])
    channels, filled = [ends[0], *between, ends[1]], 0
    for name, norm, (before, after) in zip(names, norms, pairwise(channels), strict=True):
        gift = _to_depth(given[f"{name}.weight"], heir.kernel[0])
        filled += _copy(own[f"{name}.weight"], gift, [after, before]) + _copy_norm(own, given, norm, after)
        filled += _copy(own[f"{name}.bias"], given[f"{name}.bias"], [after])
    return filled


def _to_depth(kernel: Tensor, depth: int) -> Tensor:
    """(out, in, t, h, w) over another number of frames, with the same response where all frames are equal."""
    if kernel.shape[2] == depth:
        return kernel
    return kernel.sum(2, keepdim=True).repeat(1, 1, depth, 1, 1) / depth


def _copy_norm(own: Weights, given: Weights, name: str, index: Index) -> int:
    filled = 0
    for what in ("weight", "bias", "running_mean", "running_var"):
        if (key := f"{name}.{what}") in own and key in given:
            copied = _copy(own[key], given[key], [index])
            filled += 0 if what.startswith("running") else copied
    return filled


def _head(own: Weights, given: Weights, index: Index) -> int:
    """The last norm, and the classifier where it has as many classes."""
    filled = _copy_norm(own, given, "norm", index)
    if "head.weight" in given and len(given["head.weight"]) == len(own["head.weight"]):
        own["head.bias"].copy_(given["head.bias"])
        filled += own["head.bias"].numel() + _copy(own["head.weight"].T, given["head.weight"].T, [index])
    return filled


def _copy(own: Tensor, given: Tensor, axes: Sequence[Index]) -> int:
    """Fills the places of `own` that have a donor on each of the leading axes; how many numbers these are."""
    places = [(index >= 0).nonzero()[:, 0] for index in axes]
    for axis, (index, place) in enumerate(zip(axes, places, strict=True)):
        given = given.index_select(axis, index[place])
    own[torch.meshgrid(*places, indexing="ij")] = given.to(own.dtype)
    return given.numel()
