"""An architecture as numbers for a model of the space: what it is made of, stage by stage, and what that costs."""

import math

import numpy as np

from uniformer_bench.cost import Cost
from uniformer_bench.spec import ArchSpec, StageSpec

MIXERS = ("local", "global", "split")


def features(spec: ArchSpec, cost: Cost, frames: int, size: tuple[int, int]) -> np.ndarray:
    """One row of numbers, as long for every architecture of the same number of stages.

    Costs are on a logarithm, where a factor is a step; what a stage has not is 0.
    """
    whole = [math.log(cost.macs), math.log(cost.params), math.log(frames), math.log(size[0] * size[1])]
    stages = [_stage(stage, spec) for stage in spec.stages]
    shares = [[part.macs / cost.macs, part.params / cost.params, math.log(part.macs)] for part in cost.stages]
    return np.array([*whole, spec.mlp_ratio, *(x for row in (*stages, *shares) for x in row)], dtype=float)


def _stage(stage: StageSpec, spec: ArchSpec) -> list[float]:
    tube = stage.kernel or (0, 0, 0)
    dpe = stage.dpe_kernel or (0, 0, 0)
    ratio = (spec.mlp_ratio if stage.mlp_ratio is None else stage.mlp_ratio) if stage.ffn else 0.0
    return [
        *(float(stage.mixer == mixer) for mixer in MIXERS),
        float(stage.depth),
        math.log(stage.width),
        float(tube[0]),
        math.sqrt(tube[1] * tube[2]),
        float(dpe[0]),
        math.sqrt(dpe[1] * dpe[2]),
        float(ratio),
        math.log(stage.head_dim or spec.head_dim),
    ]


class Standard:
    """Shifts and scales rows so that over a sample each column has mean 0 and deviation 1; constant ones vanish."""

    def __init__(self, sample: np.ndarray) -> None:
        deviation = sample.std(0)
        self.kept = deviation > 1e-9
        self.mean, self.deviation = sample.mean(0)[self.kept], deviation[self.kept]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(N, all columns) -> (N, the kept ones)."""
        return (rows[:, self.kept] - self.mean) / self.deviation
