"""The paper's models and small ones of ours, one row each: values, not code.

Published figures are those printed by the authors: parameters in millions, "GFLOPs" that are
multiply-accumulates counted by fvcore, of one view (their READMEs and paper, arXiv 2201.04676, tables 2 and 3;
at other numbers of frames the video README prints four views: 70, 438, 161, 1036).
"""

from dataclasses import dataclass
from typing import Any

from uniformer_bench.cost import cost
from uniformer_bench.errors import UbenchError
from uniformer_bench.files import nearest
from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec, Triple


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named architecture, the input it is usually measured at, and what was published of it."""

    name: str
    spec: ArchSpec
    frames: int
    size: int
    num_classes: int
    published_params_m: float | None = None
    published_gmacs: float | None = None
    published_at_frames: tuple[tuple[int, float], ...] = ()  # GMACs at other numbers of frames


def _stages(
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    tube: Triple = (5, 5, 5),
    dpe: Triple = (3, 3, 3),
    scales: tuple[float | None, ...] = (None,) * 4,
) -> tuple[StageSpec, ...]:
    """The paper's pattern, LLGG."""
    mixers = ("local", "local", "global", "global")
    rows = zip(mixers, depths, widths, scales, strict=True)
    return tuple(
        StageSpec(mixer=m, depth=d, width=w, kernel=tube, dpe_kernel=dpe, layer_scale=s) for m, d, w, s in rows
    )


_IMAGE_STEM = PatchSpec(kernel=(1, 4, 4), stride=(1, 4, 4))
_IMAGE_CONV_STEM = PatchSpec(kernel=(1, 3, 3), stride=(1, 2, 2), kind="conv", layers=2)
_IMAGE_CONV_DOWNSAMPLE = PatchSpec(kernel=(1, 3, 3), stride=(1, 2, 2), kind="conv")
_WIDTHS = (64, 128, 320, 512)


def _video(depths: tuple[int, ...], drop_path: float) -> ArchSpec:
    return ArchSpec(stages=_stages(depths, _WIDTHS), drop_path=drop_path)


def _small(depths: tuple[int, ...], widths: tuple[int, ...]) -> ArchSpec:
    stem = PatchSpec(kernel=(3, 2, 2), stride=(2, 2, 2))
    return ArchSpec(stages=_stages(depths, widths, tube=(3, 3, 3)), stem=stem, head_dim=16, mlp_ratio=2)


def _image(
    depths: tuple[int, ...],
    widths: tuple[int, ...] = _WIDTHS,
    *,
    head_dim: int = 64,
    conv_stem: bool = False,
    scales: tuple[float | None, ...] = (None,) * 4,
) -> ArchSpec:
    stages = _stages(depths, widths, tube=(1, 5, 5), dpe=(1, 3, 3), scales=scales)
    if conv_stem:
        return ArchSpec(stages=stages, stem=_IMAGE_CONV_STEM, downsample=_IMAGE_CONV_DOWNSAMPLE, head_dim=head_dim)
    return ArchSpec(stages=stages, stem=_IMAGE_STEM, head_dim=head_dim)


_ROWS = (
    Variant(name="micro", spec=_small((1, 1, 1, 1), (16, 32, 48, 64)), frames=8, size=32, num_classes=12),
    Variant(name="tiny", spec=_small((1, 2, 2, 1), (32, 64, 96, 128)), frames=8, size=32, num_classes=12),
    Variant(
        name="s",
        spec=_video((3, 4, 8, 3), 0.1),
        frames=16,
        size=224,
        num_classes=400,
        published_params_m=21.4,
        published_gmacs=41.8,
        published_at_frames=((8, 17.5), (32, 109.6)),
    ),
    Variant(
        name="b",
        spec=_video((5, 8, 20, 7), 0.3),
        frames=16,
        size=224,
        num_classes=400,
        published_params_m=49.8,
        published_gmacs=96.7,
        published_at_frames=((8, 40.25), (32, 259.0)),
    ),
    Variant(
        name="image_s",
        spec=_image((3, 4, 8, 3)),
        frames=1,
        size=224,
        num_classes=1000,
        published_params_m=22,
        published_gmacs=3.6,
    ),
    Variant(
        name="image_s_plus",
        spec=_image((3, 5, 9, 3), conv_stem=True, head_dim=32),
        frames=1,
        size=224,
        num_classes=1000,
        published_params_m=24,
        published_gmacs=4.2,
    ),
    Variant(
        name="image_s_plus_dim64",
        spec=_image((3, 5, 9, 3), conv_stem=True),
        frames=1,
        size=224,
        num_classes=1000,
        published_params_m=24,
        published_gmacs=4.2,
    ),
    Variant(
        name="image_b",
        spec=_image((5, 8, 20, 7)),
        frames=1,
        size=224,
        num_classes=1000,
        published_params_m=50,
        published_gmacs=8.3,
    ),
    Variant(
        name="image_b_ls",
        spec=_image((5, 8, 20, 7), scales=(None, None, 1e-6, 1e-6)),
        frames=1,
        size=224,
        num_classes=1000,
        published_params_m=50,
        published_gmacs=8.3,
    ),
    Variant(
        name="image_l",
        spec=_image((5, 10, 24, 7), (128, 192, 448, 640), scales=(1e-6,) * 4),
        frames=1,
        size=224,
        num_classes=1000,
        published_params_m=100,
        published_gmacs=12.6,
    ),
)

VARIANTS = {row.name: row for row in _ROWS}


def find_variant(name: str) -> Variant:
    """The row of that name. Raises UbenchError with the near names."""
    if name not in VARIANTS:
        raise UbenchError(f"unknown variant {name!r}{nearest(name, VARIANTS)}")
    return VARIANTS[name]


def variant(name: str) -> ArchSpec:
    """The architecture of that name."""
    return find_variant(name).spec


def variant_rows() -> list[dict[str, Any]]:
    """Every variant with its cost at the input it is usually measured at, as plain data."""
    return [_row(v) for v in VARIANTS.values()]


def _row(v: Variant) -> dict[str, Any]:
    total = cost(v.spec, frames=v.frames, size=v.size, num_classes=v.num_classes)
    plain = {"variant": v.name, "spec_id": v.spec.id, "pattern": v.spec.pattern, "num_classes": v.num_classes}
    at = {"frames": v.frames, "size": v.size, "params": total.params, "macs": total.macs, "flops": total.flops}
    return plain | at | {"published_params_m": v.published_params_m, "published_gmacs": v.published_gmacs}
