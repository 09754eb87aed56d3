"""How much larger a hypervolume a candidate is expected to make, over any number of objectives.

A hypervolume is the mean, over directions, of a power of how far the points reach in them: with d on the positive
part of the unit sphere, HV = c E[max over points of min over axes of ((1 - loss) / d)^M] (Zhang and Golovin 2020,
arXiv 2006.04655; Deng and Zhang 2019). What a point adds is then a mean of what it adds by direction, which is as
easy for five objectives as for two.
"""

import functools
import math

import numpy as np
from scipy.stats import norm, qmc

DIRECTIONS = 128


def directions(axes: int, seed: int, count: int = DIRECTIONS) -> np.ndarray:
    """(count, axes) unit vectors spread evenly over the positive part of the sphere."""
    if axes == 1:
        return np.ones((1, 1))
    uniform = qmc.Sobol(axes, seed=seed).random(count)
    normal = np.abs(norm.ppf(0.5 + uniform / 2 * (1 - 1e-9)))
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def reach(losses: np.ndarray, along: np.ndarray) -> np.ndarray:
    """How far points reach: losses (N, M), 1 being worst -> (N, directions), each the M-th power of the least share."""
    axes = range(losses.shape[1])  # one by one: a minimum over a short last axis is slow
    shares = (np.clip(1 - losses[:, [i]], 0, None) / np.clip(along[:, i], 1e-6, None) for i in axes)
    return functools.reduce(np.minimum, shares) ** losses.shape[1]


def volume(losses: np.ndarray, along: np.ndarray) -> float:
    """The share of the unit box that the points dominate, as these directions estimate it."""
    axes = losses.shape[1]
    constant = math.pi ** (axes / 2) / (2**axes * math.gamma(axes / 2 + 1))
    return float(constant * reach(losses, along).max(0, initial=0.0).mean())


def expected_improvement(draws: np.ndarray, front: np.ndarray, along: np.ndarray) -> np.ndarray:
    """What each of N candidates is expected to add to the front, up to a constant.

    `draws` (S, N, M) are losses of the candidates as the model draws them; `front` (F, M) those of what is there.
    """
    best = reach(front, along).max(0, initial=0.0)
    total = np.zeros(draws.shape[1])
    for draw in draws:
        total += np.clip(reach(draw, along) - best, 0, None).mean(1)
    return total / len(draws)
