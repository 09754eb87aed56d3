"""What an architecture is: a frozen, validated value of plain data, importable without torch.

Axes are always (time, height, width). A value holds only what is active in it: a tube on a global
stage is dropped when the stage is made, so two specs are equal exactly when they build the same model.
"""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniformer_bench.errors import SpecError
from uniformer_bench.files import nearest

Triple = tuple[int, int, int]

MIXERS = ("local", "global", "split")


def as_triple(name: str, value: object) -> Triple:
    """One integer for all three axes, or three. Raises SpecError for anything else."""
    axes = (value,) * 3 if isinstance(value, int) else value
    if not isinstance(axes, tuple | list) or len(axes) != 3 or not all(_is_positive_int(a) for a in axes):
        raise SpecError(f"{name} must be a positive integer or three (time, height, width), got {value!r}")
    return (axes[0], axes[1], axes[2])


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_positive_int(name: str, value: object) -> None:
    if not _is_positive_int(value):
        raise SpecError(f"{name} must be a positive integer, got {value!r}")


def _check_positive_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise SpecError(f"{name} must be a positive number, got {value!r}")


def _odd_triple(name: str, value: object) -> Triple:
    triple = as_triple(name, value)
    if any(axis % 2 == 0 for axis in triple):
        raise SpecError(f"{name} must be odd, got {triple}")
    return triple


def _check_keys(mapping: object, cls: type, what: str) -> dict[str, Any]:
    if not isinstance(mapping, dict):
        raise SpecError(f"{what} must be a mapping, got {mapping!r}")
    known = [field.name for field in dataclasses.fields(cls)]
    for key in mapping:
        if key not in known:
            raise SpecError(f"unknown key {key!r} in {what}{nearest(key, known)}")
    return mapping


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """How a stage is entered: the stem, or the downsampling between two stages.

    `patch` is one convolution and a LayerNorm; `conv` is `layers` convolutions, each with this kernel
    and stride and a BatchNorm, GELU between them, the width doubling up to the stage's (the stem of
    the image model S+). An axis is padded (k - 1) // 2 where its kernel exceeds its stride.
    """

    kernel: Triple
    stride: Triple
    kind: str = "patch"
    layers: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", as_triple("kernel", self.kernel))
        object.__setattr__(self, "stride", as_triple("stride", self.stride))
        _check_positive_int("layers", self.layers)
        if self.kind not in ("patch", "conv"):
            raise SpecError(f"kind must be patch or conv, got {self.kind!r}")
        if self.kind == "patch" and self.layers != 1:
            raise SpecError(f"layers must be 1 where kind is patch, got {self.layers}")

    @property
    def padding(self) -> Triple:
        """Zeros on either side of (time, height, width)."""
        t, h, w = ((k - 1) // 2 if k > s else 0 for k, s in zip(self.kernel, self.stride, strict=True))
        return (t, h, w)

    def out_grid(self, grid: Triple) -> Triple:
        """The (T, H, W) after one convolution over `grid`; an axis is 0 or less where it does not fit."""
        axes = zip(grid, self.kernel, self.stride, self.padding, strict=True)
        t, h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in axes)
        return (t, h, w)

    def channels(self, c_in: int, width: int) -> tuple[int, ...]:
        """Channels before, between and after the convolutions, as (3, 32, 64) for the stem of S+."""
        return (c_in, *(width >> (self.layers - 1 - i) for i in range(self.layers)))


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One resolution of the pyramid: `depth` equal blocks of one `width`.

    `kernel` is the local mixer's tube, `head_dim` the others'; `mlp_ratio` needs `ffn`. None for
    `head_dim` or `mlp_ratio` means the architecture's; `dpe_kernel` None leaves the position embedding
    out; `layer_scale` is the initial value of the residual branches' learned scale, None for no scale.
    """

    mixer: str
    depth: int
    width: int
    kernel: Triple | None = None
    head_dim: int | None = None
    mlp_ratio: float | None = None
    dpe_kernel: Triple | None = (3, 3, 3)
    ffn: bool = True
    layer_scale: float | None = None

    def __post_init__(self) -> None:
        if self.mixer not in MIXERS:
            raise SpecError(f"mixer must be one of {', '.join(MIXERS)}, got {self.mixer!r}")
        _check_positive_int("depth", self.depth)
        _check_positive_int("width", self.width)
        if not isinstance(self.ffn, bool):
            raise SpecError(f"ffn must be true or false, got {self.ffn!r}")
        self._normalise("kernel", self.mixer == "local", lambda k: _odd_triple("kernel", (5, 5, 5) if k is None else k))
        self._normalise("dpe_kernel", self.dpe_kernel is not None, lambda k: _odd_triple("dpe_kernel", k))
        if self.head_dim is not None:
            _check_positive_int("head_dim", self.head_dim)
        for name in ("mlp_ratio", "layer_scale"):
            if getattr(self, name) is not None:
                _check_positive_number(name, getattr(self, name))
        self._normalise("head_dim", self.mixer != "local", lambda d: d)
        self._normalise("mlp_ratio", self.ffn, lambda r: r)

    def _normalise(self, name: str, active: bool, convert: Any) -> None:
        object.__setattr__(self, name, convert(getattr(self, name)) if active else None)

    @property
    def heads(self) -> int:
        """Attention heads of a resolved global or split stage."""
        assert self.head_dim is not None, "heads of a local or unresolved stage"
        return self.width // self.head_dim

    @property
    def hidden(self) -> int:
        """Channels inside the FFN of a resolved stage; 0 without one."""
        return int(self.width * self.mlp_ratio) if self.mlp_ratio is not None else 0


VIDEO_STEM = PatchSpec(kernel=(3, 4, 4), stride=(2, 4, 4))
VIDEO_DOWNSAMPLE = PatchSpec(kernel=(1, 2, 2), stride=(1, 2, 2))


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """A whole architecture. The number of classes belongs to the task, not to it.

    `drop_path` is the rate of the last block; it rises linearly from 0 at the first (paper, appendix C).
    Raises SpecError with the rule, the value and the stage.
    """

    stages: tuple[StageSpec, ...]
    in_channels: int = 3
    stem: PatchSpec = VIDEO_STEM
    downsample: PatchSpec = VIDEO_DOWNSAMPLE
    head_dim: int = 64
    mlp_ratio: float = 4
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise SpecError("stages must hold at least one stage, got none")
        _check_positive_int("in_channels", self.in_channels)
        _check_positive_int("head_dim", self.head_dim)
        _check_positive_number("mlp_ratio", self.mlp_ratio)
        rate = self.drop_path
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise SpecError(f"drop_path must be in [0, 1), got {self.drop_path!r}")
        for i, stage in enumerate(self.resolved_stages):
            self._check_stage(i, stage)

    def _check_stage(self, i: int, stage: StageSpec) -> None:
        if stage.head_dim is not None and stage.width % stage.head_dim:
            got = f"head_dim {stage.head_dim} and width {stage.width} in stages[{i}]"
            raise SpecError(f"head_dim must divide width, got {got}")
        if stage.ffn and stage.hidden < 1:
            got = f"{stage.mlp_ratio} x {stage.width} in stages[{i}]"
            raise SpecError(f"mlp_ratio x width must be at least 1, got {got}")
        patch = self.embedding(i)
        if stage.width % (1 << (patch.layers - 1)):
            got = f"width {stage.width} in stages[{i}]"
            raise SpecError(f"{patch.layers} conv layers must halve the width evenly, got {got}")

    def embedding(self, i: int) -> PatchSpec:
        """What stands before stage i: the stem for the first, else the downsampling."""
        return self.stem if i == 0 else self.downsample

    @functools.cached_property  # a search asks for it several times of thousands of candidates
    def resolved_stages(self) -> tuple[StageSpec, ...]:
        """The stages with the architecture's head_dim and mlp_ratio filled in where they are active."""
        return tuple(
            dataclasses.replace(
                stage,
                head_dim=stage.head_dim or self.head_dim,
                mlp_ratio=stage.mlp_ratio or self.mlp_ratio,
            )
            for stage in self.stages
        )

    @property
    def pattern(self) -> str:
        """A letter a stage, as LLGG; S for split."""
        return "".join(stage.mixer[0].upper() for stage in self.stages)

    def grids(self, frames: int, size: int | tuple[int, int]) -> tuple[Triple, ...]:
        """The (T, H, W) of every stage for a clip. Raises SpecError where the clip is too small."""
        height, width = (size, size) if isinstance(size, int) else size
        clip = grid = (frames, height, width)
        grids = []
        for i in range(len(self.stages)):
            patch = self.embedding(i)
            for _ in range(patch.layers):
                grid = patch.out_grid(grid)
            if min(grid) < 1:
                got = f"{_x(clip)} which is {_x(grid)} at stages[{i}]"
                raise SpecError(f"a clip must leave a token at every stage, got {got}")
            grids.append(grid)
        return tuple(grids)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, complete and readable, without what is inactive. from_dict restores an equal spec."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        plain["stages"] = [_without_defaults(stage) for stage in plain["stages"]]
        for name in ("stem", "downsample"):
            if plain[name]["kind"] == "patch":
                plain[name] = {"kernel": plain[name]["kernel"], "stride": plain[name]["stride"]}
        return plain

    @classmethod
    def from_dict(cls, mapping: object) -> "ArchSpec":
        """A spec from plain data, as a YAML file gives it. Raises SpecError with the place."""
        values = dict(_check_keys(mapping, cls, "the spec"))
        if not isinstance(values.get("stages"), list | tuple):
            raise SpecError(f"stages must be a list of stages, got {values.get('stages')!r}")
        values["stages"] = tuple(_stage_from(i, stage) for i, stage in enumerate(values["stages"]))
        for name in ("stem", "downsample"):
            if name in values:
                values[name] = _patch_from(name, values[name])
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> "ArchSpec":
        """A spec from a YAML file."""
        from uniformer_bench.yaml_text import read_yaml  # here, because a spec in Python needs no YAML

        return cls.from_dict(read_yaml(Path(path)))

    @functools.cached_property
    def id(self) -> str:
        """Ten hexadecimal digits over everything that is active in the architecture, and over nothing else."""
        text = json.dumps(self._canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def _canonical(self) -> dict[str, Any]:
        stages = []
        for stage in self.resolved_stages:
            plain = vars(stage) | {"mlp_ratio": stage.hidden}  # 4 and 4.0 are one architecture
            stages.append({key: value for key, value in plain.items() if value is not None})
        blocks = sum(stage.depth for stage in self.stages)
        return {
            "in_channels": self.in_channels,
            "stem": vars(self.stem),
            "downsample": vars(self.downsample) if len(self.stages) > 1 else None,
            "drop_path": float(self.drop_path) if blocks > 1 else 0.0,
            "stages": stages,
        }


def _x(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid))


def _without_defaults(stage: dict[str, Any]) -> dict[str, Any]:
    optional = {"head_dim": None, "mlp_ratio": None, "layer_scale": None, "kernel": None, "ffn": True}
    return {key: value for key, value in stage.items() if key not in optional or value != optional[key]}


def _stage_from(i: int, mapping: object) -> StageSpec:
    values = _check_keys(mapping, StageSpec, f"stages[{i}]")
    for key in ("mixer", "depth", "width"):
        if key not in values:
            raise SpecError(f"{key} must be given in stages[{i}]")
    try:
        return StageSpec(**values)
    except SpecError as error:
        raise SpecError(f"{error} in stages[{i}]") from None


def _patch_from(name: str, mapping: object) -> PatchSpec:
    values = _check_keys(mapping, PatchSpec, name)
    for key in ("kernel", "stride"):
        if key not in values:
            raise SpecError(f"{key} must be given in {name}")
    try:
        return PatchSpec(**values)
    except SpecError as error:
        raise SpecError(f"{error} in {name}") from None
