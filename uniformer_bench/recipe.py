"""How a short run trains, and when it is compared with others on the way: frozen values that need no torch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import nearest


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """AdamW on a cosine that ends within `epochs`; `warmup` is the share of the steps in which the rate rises.

    With `muon_lr` dense layers but the head are Muon's, at that rate: 5 times `lr` suits a short run.
    """

    epochs: float = 3
    batch: int = 32
    lr: float = 0.004
    muon_lr: float | None = None
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    warmup: float = 0.15
    clip_norm: float = 1.0
    drop_path: float | None = None  # in place of the spec's, whose rate is for long runs
    flip: bool = False  # mirror half of the clips left to right, where no class depends on it

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr", "clip_norm"):
            self._check(name, lambda value: value > 0, "a positive number")
        for name in ("weight_decay", "label_smoothing", "warmup"):
            self._check(name, lambda value: 0 <= value < 1, "in [0, 1)")
        if self.muon_lr is not None:
            self._check("muon_lr", lambda value: value > 0, "a positive number")
        if self.drop_path is not None:
            self._check("drop_path", lambda value: 0 <= value < 1, "in [0, 1)")
        if not isinstance(self.batch, int):
            raise UbenchError(f"batch must be an integer, got {self.batch!r} in recipe")
        if not isinstance(self.flip, bool):
            raise UbenchError(f"flip must be true or false, got {self.flip!r} in recipe")

    def _check(self, name: str, holds: Any, rule: str) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not holds(value):
            raise UbenchError(f"{name} must be {rule}, got {value!r} in recipe")

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> "Recipe":
        """A recipe from plain data. Raises UbenchError for a key it does not know."""
        known = [field.name for field in fields(cls)]
        for key in mapping:
            if key not in known:
                raise UbenchError(f"unknown key {key!r} in recipe{nearest(key, known)}")
        return cls(**mapping)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def steps(self, clips: int) -> int:
        """Optimiser steps of the whole run over a training split of this many clips."""
        return max(1, round(self.epochs * clips / self.batch))


@dataclass(frozen=True, kw_only=True)
class Halving:
    """`rungs` are shares of the short run, rising and below 1; `keep` is the share that goes on from each."""

    rungs: tuple[float, ...] = ()
    keep: float = 1 / 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", tuple(self.rungs))
        rising = all(a < b for a, b in zip((0.0, *self.rungs), (*self.rungs, 1.0), strict=True))
        if not rising:
            raise UbenchError(f"rungs must rise between 0 and 1, got {list(self.rungs)} in halving")
        if not 0 < self.keep <= 1:
            raise UbenchError(f"keep must be above 0 and at most 1, got {self.keep!r} in halving")

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> "Halving":
        """From plain data. Raises UbenchError for a key or a value that it does not take."""
        for key in mapping:
            if key not in ("rungs", "keep"):
                raise UbenchError(f"unknown key {key!r} in halving{nearest(key, ('rungs', 'keep'))}")
        numbers = [*mapping.get("rungs", ()), mapping.get("keep", 1 / 3)]
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers):
            raise UbenchError(f"rungs and keep must be numbers, got {dict(mapping)!r} in halving")
        return cls(**mapping)

    def to_dict(self) -> dict[str, Any]:
        return {"rungs": list(self.rungs), "keep": self.keep}


@dataclass(frozen=True, kw_only=True)
class Donor:
    """What a search trains before its trials, for every short run to inherit from: an architecture of this `pattern`,
    as large as the space has them, by the space's recipe over `times` as many epochs as a short run."""

    pattern: str
    times: float = 3

    def __post_init__(self) -> None:
        number = isinstance(self.times, int | float) and not isinstance(self.times, bool) and math.isfinite(self.times)
        if not number or self.times <= 0:
            raise UbenchError(f"times must be a positive number, got {self.times!r} in donor")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
