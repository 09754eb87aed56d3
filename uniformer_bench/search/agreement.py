"""How far two orders of the same trials agree: Kendall's tau with a bootstrap interval over trials.

An agreement is plain data: `tau`, `ci95` and `n`, and a `reason` where one of the first two is unknown (None).
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 4  # trials: fewer are no evidence, whatever their order
RESAMPLES = 2000
PER_STRATUM = 3  # trials of a sample, where costs are spread evenly

Array = NDArray[np.float64]


def agreement(
    x: Sequence[float | None], y: Sequence[float | None], *, seed: int, bands: Sequence[int] | None = None
) -> dict[str, Any]:
    """The agreement of two columns of one value a trial; trials with a None are left out.

    With `bands`, one number a trial, only pairs of trials of one band count.
    """
    known = [i for i, pair in enumerate(zip(x, y, strict=True)) if None not in pair]
    if len(known) < LEAST:
        return {"tau": None, "ci95": None, "n": len(known), "reason": f"at least {LEAST} trials are needed"}
    a, b = (np.array([column[i] for i in known], dtype=float) for column in (x, y))
    of = np.array([bands[i] for i in known]) if bands is not None else np.zeros(len(known))
    same = np.asarray(of[:, None] == of[None], dtype=float)
    tau = float(tau_b(a, b, same, np.ones((1, len(known))))[0])
    if np.isnan(tau):
        return {"tau": None, "ci95": None, "n": len(known), "reason": "every pair of trials is tied"}
    found = _ci95(a, b, same, seed)
    reason = {} if found else {"reason": "the bootstrap finds no spread in one plain order"}
    return {"tau": tau, "ci95": found, "n": len(known), **reason}


def tau_b(x: Array, y: Array, same: Array, weights: Array) -> Array:
    """Kendall's tau-b (1945) over the pairs (i, j) with same[i, j] = 1: concordant minus discordant pairs over the
    geometric mean of those untied in x and those untied in y; NaN where that is 0.

    x, y (N); same (N, N); weights (B, N), how often each trial stands in each of B samples; result (B). A trial is
    tied with its own copy, so that the copies in a bootstrap sample count neither for nor against.
    """
    signs_x, signs_y = (np.sign(v[:, None] - v[None]) * same for v in (x, y))
    both, only_x, only_y = (
        np.einsum("bi,ij,bj->b", weights, pairs, weights, optimize=True)
        for pairs in (signs_x * signs_y, np.abs(signs_x), np.abs(signs_y))
    )
    untied = np.sqrt(only_x * only_y)
    return np.divide(both, untied, out=np.full_like(both, np.nan), where=untied > 0)


def _ci95(x: Array, y: Array, same: Array, seed: int) -> list[float] | None:
    """The middle 95 % of tau over samples of the trials drawn with replacement, or None where they have no spread."""
    n = len(x)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    taus = tau_b(x, y, same, weights)
    low, high = np.quantile(taus[~np.isnan(taus)], [0.025, 0.975])
    return [float(low), float(high)] if high > low else None


def equal_cost_bands(costs: Sequence[float], count: int) -> list[int]:
    """The number of each trial's band, of so many bands with (nearly) as many trials each, the cheapest 0."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], i))
    place = {trial: rank for rank, trial in enumerate(order)}
    return [place[i] * count // len(costs) for i in range(len(costs))]


def top_share(values: Sequence[float], share: float) -> list[int]:
    """The indices of the highest `share` of the values, rounded to whole trials; the earlier first among equals."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return sorted(order[: round(share * len(values))])


def stratified(costs: Sequence[float], size: int, seed: int) -> list[int]:
    """Indices of a sample drawn in turn from strata of equal width in the logarithm of cost, until there are enough.

    A search's survivors crowd where models are cheapest; equal shares of their ranks would be a sample of that corner.
    Costs are above 0. All where there are no more.
    """
    if len(costs) <= size:
        return list(range(len(costs)))
    logs, rng = np.log(np.array(costs, dtype=float)), np.random.default_rng(seed)
    edges = np.linspace(logs.min(), logs.max(), max(2, size // PER_STRATUM) + 1)[1:-1]
    stratum = np.digitize(logs, edges)
    strata = [rng.permutation(np.flatnonzero(stratum == i)) for i in range(len(edges) + 1)]
    drawn = (int(i) for turn in itertools.zip_longest(*strata) for i in turn if i is not None)
    return sorted(itertools.islice(drawn, size))
