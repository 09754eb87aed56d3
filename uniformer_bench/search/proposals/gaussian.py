"""A Gaussian process over architectures with several outputs that go together.

The outputs are, say, the loss at a rung and the accuracy at the end; what is known of one says something of the
others, for an architecture (matrices `linear` and `smooth`) and within one run of it, luck included (`own`):

    cov(y[x, s], y[x', t]) = linear[s, t] <x, x'> / d + smooth[s, t] exp(-|x - x'|^2 / (2 d length^2))
                           + own[s, t] where both are of one run

That is a linear model of coregionalisation (Alvarez, Rosasco and Lawrence 2012, arXiv 1106.6251). Its parameters are
where the marginal likelihood, with a weak prior, is highest (Rasmussen and Williams 2006, chapter 5).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

JITTER = 1e-4  # of the variance: numbers that agree to more than 1 % of their spread are rare
START = (0.5, 0.6, 0.6)  # standard deviations of linear, smooth and own, of outputs whose deviation is 1
ALIKE = 0.7  # correlation of the outputs that a fit starts from
STEPS = 25  # of the optimiser, from where the last fit ended


class Seen(NamedTuple):
    """Values that are known: `x` (N, d) architectures, `output` (N,) which, `run` (N,) in which run, `y` (N,)."""

    x: np.ndarray
    output: np.ndarray
    run: np.ndarray
    y: np.ndarray


class Belief(NamedTuple):
    """Mean and standard deviation of an output at each of N architectures, in its own unit."""

    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class Parameters:
    """`factors` (3, T, T) are Cholesky factors of linear, smooth and own for T outputs; `log_length` one number."""

    factors: Tensor
    log_length: Tensor

    @staticmethod
    def start(outputs: int) -> "Parameters":
        alike = torch.full((outputs, outputs), ALIKE, dtype=torch.float64).fill_diagonal_(1.0)
        root = torch.linalg.cholesky(alike)
        return Parameters(torch.stack([deviation * root for deviation in START]), torch.zeros((), dtype=torch.float64))


class _Data(NamedTuple):
    """What is seen as tensors, each output shifted and scaled to mean 0 and deviation 1."""

    x: Tensor
    output: Tensor
    run: Tensor
    y: Tensor
    shift: np.ndarray
    scale: np.ndarray


class Process:
    """The process given what is seen. `parameters` are fitted from `parameters`, or taken as they are."""

    def __init__(self, seen: Seen, outputs: int, parameters: Parameters | None = None, *, fitted: bool = True) -> None:
        self._data = _tensors(seen, outputs)
        begin = parameters or Parameters.start(outputs)
        self.parameters = _fit(begin, self._data) if fitted else begin
        self._factor = _factor(self.parameters, self._data)
        self._weights = torch.cholesky_solve(self._data.y[:, None], self._factor)[:, 0]

    def believe(self, x: np.ndarray, output: int, run: np.ndarray | None = None) -> Belief:
        """Belief in `output` at architectures `x` (N, d): in what they are good for, without the luck of a run.

        With `run` (N,): in what those runs will come to, luck included.
        """
        data, at = self._data, torch.from_numpy(np.ascontiguousarray(x))
        runs = NO_RUN if run is None else torch.from_numpy(run)
        cross = _covariance(self.parameters, (at, torch.tensor([output]), runs), (data.x, data.output, data.run))
        mean = cross @ self._weights
        spread = torch.linalg.solve_triangular(self._factor, cross.T, upper=False).square().sum(0)
        variance = (_prior(self.parameters, at, output, own=run is not None) - spread).clamp_min(1e-9)
        scale, shift = float(data.scale[output]), float(data.shift[output])
        return Belief(mean.numpy() * scale + shift, variance.sqrt().numpy() * scale)


def _tensors(seen: Seen, outputs: int) -> _Data:
    shift, scale = np.zeros(outputs), np.ones(outputs)
    for i in range(outputs):
        values = seen.y[seen.output == i]
        if len(values):
            shift[i] = values.mean()
        if len(values) > 1:
            scale[i] = max(float(values.std()), 1e-9)
    y = (seen.y - shift[seen.output]) / scale[seen.output]
    x, output, run = (torch.from_numpy(np.ascontiguousarray(a)) for a in (seen.x, seen.output, seen.run))
    return _Data(x, output, run, torch.from_numpy(y), shift, scale)


Place = tuple[Tensor, Tensor, Tensor]  # architectures, outputs, runs; one output or run is that of all
NO_RUN = torch.tensor([-1])


def _covariance(parameters: Parameters, a: Place, b: Place) -> Tensor:
    linear, smooth, own = (matrix[a[1]][:, b[1]] for matrix in parameters.factors @ parameters.factors.mT)
    width = max(1, a[0].shape[1])
    products = a[0] @ b[0].T / width
    squares = a[0].square().sum(1)[:, None] / width + b[0].square().sum(1)[None] / width - 2 * products
    near = torch.exp(-0.5 * squares.clamp_min(0) * torch.exp(-2 * parameters.log_length))
    same = (a[2][:, None] == b[2][None]).double()
    return linear * products + smooth * near + own * same


def _prior(parameters: Parameters, x: Tensor, output: int, *, own: bool) -> Tensor:
    matrices = parameters.factors @ parameters.factors.mT
    at = matrices[:, output, output]
    return at[0] * x.square().sum(1) / max(1, x.shape[1]) + at[1] + (at[2] if own else 0.0)


def _factor(parameters: Parameters, data: _Data) -> Tensor:
    place = (data.x, data.output, data.run)
    covariance = _covariance(parameters, place, place)
    return torch.linalg.cholesky(covariance + JITTER * torch.eye(len(data.y), dtype=torch.float64))


def _fit(begin: Parameters, data: _Data) -> Parameters:
    """The parameters of the highest marginal likelihood times prior, near `begin`."""
    start = Parameters.start(begin.factors.shape[1])

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        vector = torch.from_numpy(at).requires_grad_()
        now = _unpacked(vector, begin.factors.shape)
        away = (now.factors - start.factors).square().sum() / 0.5**2 + now.log_length.square()
        value = _negative_log_likelihood(now, data) + 0.5 * away
        return float(value.detach()), torch.autograd.grad(value, vector)[0].numpy()

    packed = torch.cat([begin.factors.flatten(), begin.log_length[None]]).numpy()
    try:
        found = minimize(loss, packed, jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    except RuntimeError:  # not positive definite: too bold a step, and what was before will do
        return begin
    return _unpacked(torch.from_numpy(found.x), begin.factors.shape) if np.isfinite(found.x).all() else begin


def _unpacked(vector: Tensor, shape: torch.Size) -> Parameters:
    return Parameters(vector[:-1].reshape(shape).tril(), vector[-1])


def _negative_log_likelihood(parameters: Parameters, data: _Data) -> Tensor:
    factor = _factor(parameters, data)
    weights = torch.cholesky_solve(data.y[:, None], factor)[:, 0]
    return 0.5 * data.y @ weights + factor.diagonal().log().sum() + 0.5 * len(data.y) * math.log(2 * math.pi)
