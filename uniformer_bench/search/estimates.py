"""What several noisy trainings say together: a mean with its interval, and the chance to be on the front.

Two noises make an accuracy: the seed (other weights at the start, another order of clips) and the sample (other clips
would have been harder or easier). Less is better in all points here, as in `pareto`.
"""

from collections.abc import Sequence
from math import hypot, log, sqrt
from statistics import mean, variance
from typing import NamedTuple

import numpy as np

from uniformer_bench.measure.accuracy import Z95, Accuracy

DRAWS = 2000


class SeedNoise(NamedTuple):
    """The variance between trainings of one architecture, and the degrees of freedom it is known with."""

    variance: float
    freedom: int


class Estimate(NamedTuple):
    """A number that less is better of, and its 95 % interval: exact where both ends are the value.

    `log` where the spread is even on a logarithm, as that of a time.
    """

    value: float
    low: float
    high: float
    log: bool = False


def seed_noise(groups: Sequence[Sequence[float]]) -> SeedNoise:
    """The seeds' variance, pooled over architectures: a few trainings of one say little, those of ten enough.

    With k_i trainings of architecture i, each group's sum of squares about its own mean has expectation
    (k_i - 1) s^2, so that s^2 = sum of squares / sum of (k_i - 1), as in a one-way analysis of variance. It takes the
    architectures' variances as equal. A group of one adds nothing; without any of two, freedom is 0.
    """
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    squares = sum(variance(group) * (len(group) - 1) for group in several)
    return SeedNoise(squares / freedom if freedom else 0.0, freedom)


def mean_accuracy(values: Sequence[float], clips: int, noise: SeedNoise) -> Estimate:
    """The mean of one architecture's accuracies on the same `clips`, with an interval for both noises.

    - Seed: the mean of k trainings has variance s^2 / k, and s^2 is an estimate, so that the half width is
      t(97.5 %, freedom) s / sqrt(k), with Student's t.
    - Sample: all k saw the same clips, so that k does not lessen it. The share of right answers of one training has
      variance p (1 - p) / clips; Wilson's interval at the mean has its ends. It is an upper bound: what differs from
      training to training on one clip is in s^2 too.

    The two are independent; distances from the mean to the ends are added in quadrature, each side by itself (the
    method of variance estimates recovery, Zou and Donner 2008), which keeps the ends' asymmetry near 0 and 1.
    """
    from scipy.special import stdtrit  # here: only the end of a search needs it, and it loads slowly

    centre = mean(values)
    low, high = Accuracy(round(centre * clips), clips).ci95
    half = float(stdtrit(noise.freedom, 0.975)) * sqrt(noise.variance / len(values)) if noise.freedom else 0.0
    below, above = hypot(half, max(0.0, centre - low)), hypot(half, max(0.0, high - centre))
    return Estimate(centre, max(0.0, centre - below), min(1.0, centre + above))


def chances_on_front(points: Sequence[Sequence[Estimate]], seed: int, draws: int = DRAWS) -> list[float]:
    """For each point, in how many of the draws no other dominates it: the probability that it is on the front.

    Each coordinate is drawn by itself, normal about its value (on a logarithm where `log`) with the standard error
    that its interval's width has. Finalists share their clips, which moves accuracies together and is left out here:
    the chances are a little nearer to even than they should be.
    """
    if not points:
        return []
    rng = np.random.default_rng(seed)
    drawn = np.stack([np.stack([_draw(each, rng, draws) for each in point], axis=-1) for point in points], axis=1)
    mine, other = drawn[:, :, None, :], drawn[:, None, :, :]  # (draws, points, points, objectives)
    dominated = ((other <= mine).all(-1) & (other < mine).any(-1)).any(-1)
    return [float(chance) for chance in 1 - dominated.mean(0)]


def _draw(estimate: Estimate, rng: np.random.Generator, draws: int) -> np.ndarray:
    value, low, high, on_log = estimate
    if on_log:
        value, low, high = log(value), log(low), log(high)
    drawn = rng.normal(value, (high - low) / (2 * Z95), draws)
    return np.exp(drawn) if on_log else drawn
