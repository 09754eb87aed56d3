"""Weights under official names into our models: strict, and clear about what does not fit or was left out.

An image is a clip of one frame, so 2D weights are 3D ones of depth one; a deeper kernel takes them inflated.
What weights cannot tell (head_dim, strides) is assumed, and the assumption is a note that travels with them.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import nearest
from uniformer_bench.model.uniformer import UniFormer
from uniformer_bench.spec import VIDEO_DOWNSAMPLE, ArchSpec, PatchSpec, StageSpec, Triple

USUAL_HEAD_DIM = 64  # of the paper's models
AUX_HEAD = "aux_head."  # what the image models trained with token labelling have beside the classifier

# What the released files were trained with, the first row that matches: the factories in Sense-X/UniFormer,
# image_classification/models/uniformer.py and token_labeling/tlt/models/uniformer.py (the 384 models are those of
# 224, issue 128), and every config of video_classification/exp.
_OFFICIAL_HEAD_DIMS = (
    (r"uniformer_(small|small_plus|base)_dim64(_|$)", 64),
    (r"uniformer_small_plus(_|$)", 32),
    (r"uniformer_(small|base)_tl_", 32),
    (r"uniformer_large_ls(_|$)", 64),
    (r"uniformer_(small|base|base_ls)_(in1k|k400|k600|sth|ucf101|hmdb51)", 64),
)

_AUX_HEAD_NOTE = (
    "the token-labelling head (aux_head) is left out: the official evaluation adds to the logits half of its largest "
    "over the tokens"
)


class Loaded(NamedTuple):
    """What to know of weights that were loaded, a sentence each."""

    notes: tuple[str, ...]


class Inferred(NamedTuple):
    """The architecture that weights are of, their classes (None without a head) and what was assumed."""

    spec: ArchSpec
    num_classes: int | None
    notes: tuple[str, ...]


def load_official_state_dict(model: UniFormer, state_dict: Mapping[str, Tensor]) -> None:
    """Copies weights under official names into `model`.

    2D weights of the image models fit where the kernel's depth is one. Raises UbenchError listing
    what is missing, unexpected and of another shape; the model is then unchanged.
    """
    own = model.state_dict()
    given = {name: _to_shape(value, own.get(name)) for name, value in state_dict.items()}
    shapes = {n: (tuple(given[n].shape), tuple(own[n].shape)) for n in own.keys() & given.keys()}
    problems = _list("missing", own.keys() - given.keys()) + _list("unexpected", given.keys() - own.keys())
    problems += _list("of another shape", (f"{n} {a} for {b}" for n, (a, b) in shapes.items() if a != b))
    if problems:
        own_name = f"{model.spec.pattern} {model.spec.id}"
        raise UbenchError(f"the weights must be those of {own_name}, got {'; '.join(problems)}")
    model.load_state_dict(given)


def load_weights(
    model: UniFormer, state_dict: Mapping[str, Tensor], *, inflate: str = "average", filename: str | None = None
) -> Loaded:
    """Copies weights under official names into `model`, and says what it made of them.

    A classifier for other classes and a token-labelling head are left out; 2D kernels become deeper ones by
    `inflate`: "average" repeats them over time, divided by the depth (as the official code does), "centre" has
    them in the middle of zeros. All else as load_official_state_dict, which raises. A released file is known by
    `filename`. Raises UbenchError for an unknown `inflate`.
    """
    if inflate not in _INFLATIONS:
        raise UbenchError(f"inflate must be average or centre, got {inflate!r}{nearest(inflate, _INFLATIONS)}")
    own = model.state_dict()
    given = {name: value for name, value in state_dict.items() if not name.startswith(AUX_HEAD)}
    labelled = len(given) < len(state_dict)
    flat = [name for name, value in given.items() if name in own and _is_flat(value, own[name])]
    given |= {name: _INFLATIONS[inflate](given[name], own[name].shape[2]) for name in flat}
    (_, width), head = own["head.weight"].shape, _head_shape(given)
    other_head = len(head) == 2 and head != (model.num_classes, width) and head[1] == width
    if other_head:
        given |= {name: own[name] for name in ("head.weight", "head.bias")}
    load_official_state_dict(model, given)
    notes = [f"the head for {head[0]} classes is left out: that for {model.num_classes} stays as it was"] * other_head
    notes += [_AUX_HEAD_NOTE] * labelled
    notes += [f"{len(flat)} 2D kernels are inflated over time by {inflate}"] * bool(flat)
    head_dims = {stage.head_dim for stage in model.spec.resolved_stages if stage.head_dim}
    return Loaded((*notes, *head_dim_notes(head_dims, filename)))


def assumed_head_dim(filename: str) -> int | None:
    """The head_dim that the released file of that name was trained with; None where the name is no such file's."""
    return next((dim for pattern, dim in _OFFICIAL_HEAD_DIMS if re.match(pattern, filename.split(".")[0])), None)


def head_dim_notes(head_dims: Iterable[int], filename: str | None = None) -> tuple[str, ...]:
    """What a model of these head dimensions should say of weights from that file; nothing where none attends."""
    dims = sorted(set(head_dims))
    if not dims:
        return ()
    trained, has = assumed_head_dim(filename or ""), " and ".join(map(str, dims))
    if trained is None:
        return (f"head_dim {has} is assumed: weights do not tell, and with another the outputs are wrong",)
    if dims != [trained]:
        return (f"warning: {filename} was trained with head_dim {trained}, the model has {has}: its outputs are wrong",)
    return (f"head_dim {has}, as the official {filename} was trained with",)


def spec_from_state_dict(
    weights: Mapping[str, Tensor], *, head_dim: int | None = None, filename: str | None = None
) -> Inferred:
    """The architecture of weights under official names, 2D or 3D, read off names and shapes.

    Not in them, so assumed: head_dim, by the name of a released file or else 64; strides equal to the kernel in space
    (2 where convolutions overlap) and in time 2 at a stem deeper than one frame, else 1; no stochastic depth; layer
    scale from 1e-6. The first block speaks for its stage: the strict loader finds what differs. Raises UbenchError for
    names of another family.
    """
    head_dim = head_dim or assumed_head_dim(filename or "") or USUAL_HEAD_DIM
    foreign = [name for name in weights if name.startswith(("cls_token", "norm_cls.", "cls_upsample."))]
    count = len({name.split(".")[0] for name in weights if name.startswith("patch_embed")})
    if foreign or not count:
        got = "; ".join(_list("unexpected", foreign or weights))
        raise UbenchError(f"weights must have the names of a UniFormer, patch_embed1.proj and so on, got {got}")
    embeddings = [_embedding_of(weights, i) for i in range(1, count + 1)]
    if len(set(embeddings[1:])) > 1:
        raise UbenchError(f"the downsampling before every stage must be the same, got {embeddings[1:]}")
    stem, downsample = embeddings[0], embeddings[-1] if count > 1 else VIDEO_DOWNSAMPLE
    stages = tuple(_stage_of(weights, i) for i in range(1, count + 1))
    channels = _shape(weights, _first_convolution(weights, 1), 4, 5)[1]
    spec = ArchSpec(stages=stages, in_channels=channels, stem=stem, downsample=downsample, head_dim=head_dim)
    assumed = f"strides {stem.stride} and {downsample.stride} are assumed: weights do not tell"
    dims = {stage.head_dim for stage in spec.resolved_stages if stage.head_dim}
    return Inferred(spec, next(iter(_head_shape(weights)), None), (assumed, *head_dim_notes(dims, filename)))


def _shape(weights: Mapping[str, Tensor], name: str, *axes: int) -> tuple[int, ...]:
    """The shape of a weight that must be there and have so many axes."""
    if name not in weights:
        raise UbenchError(f"the weights must hold {name}, got {'; '.join(_list('others', weights))}")
    shape = tuple(weights[name].shape)
    if len(shape) not in axes or 0 in shape:
        raise UbenchError(f"{name} must have {' or '.join(map(str, axes))} axes, none of length 0, got {shape}")
    return shape


def _first_convolution(weights: Mapping[str, Tensor], i: int) -> str:
    single = f"patch_embed{i}.proj.weight"
    return single if single in weights else f"patch_embed{i}.proj.0.weight"


def _kernel(weights: Mapping[str, Tensor], name: str) -> Triple:
    """(t, h, w) of a 3D kernel; (1, h, w) of a 2D one."""
    shape = _shape(weights, name, 4, 5)
    return (shape[2] if len(shape) == 5 else 1, shape[-2], shape[-1])


def _embedding_of(weights: Mapping[str, Tensor], i: int) -> PatchSpec:
    name = _first_convolution(weights, i)
    kernel = _kernel(weights, name)
    in_time = 2 if i == 1 and kernel[0] > 1 else 1
    if name.endswith("proj.weight"):
        return PatchSpec(kernel=kernel, stride=(in_time, kernel[1], kernel[2]))
    layers = sum(re.fullmatch(rf"patch_embed{i}\.proj\.\d+\.running_mean", key) is not None for key in weights)
    return PatchSpec(kernel=kernel, stride=(in_time, 2, 2), kind="conv", layers=layers)


def _stage_of(weights: Mapping[str, Tensor], i: int) -> StageSpec:
    block = f"blocks{i}.0"
    (width,) = _shape(weights, f"{block}.norm1.weight", 1)
    attends, ffn = f"{block}.attn.qkv.weight" in weights, f"{block}.mlp.fc1.weight" in weights
    dpe = f"{block}.pos_embed.weight"
    return StageSpec(
        mixer="split" if f"{block}.t_attn.qkv.weight" in weights else "global" if attends else "local",
        depth=len({name.split(".")[1] for name in weights if name.startswith(f"blocks{i}.")}),
        width=width,
        kernel=None if attends else _kernel(weights, f"{block}.attn.weight"),
        mlp_ratio=_ratio(_shape(weights, f"{block}.mlp.fc1.weight", 2, 4, 5)[0], width) if ffn else None,
        dpe_kernel=_kernel(weights, dpe) if dpe in weights else None,
        ffn=ffn,
        layer_scale=1e-6 if f"{block}.gamma_1" in weights else None,
    )


def _ratio(hidden: int, width: int) -> float:
    """The mlp_ratio for which int(width * ratio) is `hidden`, though the quotient may be rounded down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _head_shape(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """(classes, channels); nothing where there is no head."""
    return tuple(weights["head.weight"].shape) if "head.weight" in weights else ()


def _is_flat(value: Tensor, own: Tensor) -> bool:
    """Whether `value` is the 2D kernel (C_out, C_in, h, w) of a kernel of several frames (C_out, C_in, t, h, w)."""
    return value.ndim == 4 and own.ndim == 5 and own.shape[2] > 1 and value.shape == own[:, :, 0].shape


def _repeated(kernel: Tensor, depth: int) -> Tensor:
    return kernel.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth


def _centred(kernel: Tensor, depth: int) -> Tensor:
    deep = torch.zeros_like(kernel).unsqueeze(2).repeat(1, 1, depth, 1, 1)
    deep[:, :, depth // 2] = kernel
    return deep


_INFLATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {"average": _repeated, "centre": _centred}


def _to_shape(value: Tensor, own: Tensor | None) -> Tensor:
    """A 2D convolution's weight (or scale) gets the depth axis of the 3D one, where that is one long."""
    if own is not None and value.ndim == 4 and value.unsqueeze(2).shape == own.shape:
        return value.unsqueeze(2)
    return value


def _list(what: str, names: Iterable[str]) -> list[str]:
    """'12 missing (a, b, c, d and 8 more)' on one line, however many and long the names of a foreign file are."""
    ordered = sorted(names)
    if not ordered:
        return []
    shown = ", ".join(" ".join(name.split())[:100] for name in ordered[:4])
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return [f"{len(ordered)} {what} ({shown}{more})"]
