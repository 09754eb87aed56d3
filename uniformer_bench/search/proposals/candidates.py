"""What may be suggested: architectures with the parameters that storage has them by, each within the limits of closed
forms; a quasi-random sequence of them, and the neighbours of one."""

import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from scipy.stats import qmc

from uniformer_bench.errors import SpecError
from uniformer_bench.space import Candidate, Choice, Domain, Pick, Range, Space, random_pick, stored


class Suggestion(NamedTuple):
    """An architecture and the parameters that make it, as storage has them: labels of choices, numbers of ranges.

    `domains` are what those were picked from.
    """

    candidate: Candidate
    params: dict[str, Any]
    domains: dict[str, Domain]


def suggestion(space: Space, pick: Pick) -> Suggestion | None:
    """What `pick` makes; None where its values do not go together."""
    params: dict[str, Any] = {}
    domains: dict[str, Domain] = {}

    def noted(name: str, domain: Domain) -> Any:
        value, domains[name] = pick(name, domain), domain
        params[name] = stored(domain, value)
        return value

    try:
        return Suggestion(space.candidate(noted), params, domains)
    except SpecError:
        return None


class QuasiRandom:
    """A scrambled Sobol sequence over a space: point `i` is the same however often one has stopped on the way.

    Every name that a space may ask for has an axis of its own, so that stages are spread one by one; what an
    architecture does not ask for is left unused.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._names = _names_of(space)
        self._seed = seed

    def __call__(self, index: int) -> Suggestion | None:
        """The point of that index, from 0."""
        sequence = qmc.Sobol(max(1, len(self._names)), seed=self._seed)
        if index:  # SciPy fails on going 0 forward
            sequence.fast_forward(index)
        at = dict(zip(self._names, sequence.random(1)[0], strict=False))
        return suggestion(self._space, lambda name, domain: _option(domain, at[name]))


def _option(domain: Domain, share: float) -> Any:
    return domain.options[min(int(share * len(domain.options)), len(domain.options) - 1)]


def _names_of(space: Space) -> list[str]:
    """All names that a space may ask for, in the order it first does."""
    if space.architectures:
        return ["architecture"]
    stages = enumerate(space.stages, 1)
    in_stages = [
        f"stage{i}.{key}" for i, stage in stages for key, of in stage.items() if isinstance(of, Choice | Range)
    ]
    return [*space.vary, *in_stages]


def random_suggestions(space: Space, rng: random.Random) -> Iterator[Suggestion]:
    """Random ones without end, less those whose values do not go together."""
    while True:
        if (found := suggestion(space, random_pick(rng))) is not None:
            yield found


def neighbour(space: Space, params: Mapping[str, Any], rng: random.Random) -> Suggestion | None:
    """A suggestion that differs from `params` in a value or two; what becomes active by that is drawn at random."""
    changed = set(rng.sample(sorted(params), min(len(params), rng.choice((1, 1, 2, 3)))))

    def pick(name: str, domain: Domain) -> Any:
        if name not in params:
            return rng.choice(domain.options)
        labels = domain.labels if isinstance(domain, Choice) else domain.options
        at = labels.index(params[name])
        return _other(domain, at, rng) if name in changed else domain.options[at]

    return suggestion(space, pick)


def _other(domain: Domain, at: int, rng: random.Random) -> Any:
    """Another option: of a range mostly the next one."""
    others = [i for i in range(len(domain.options)) if i != at]
    near = [i for i in others if abs(i - at) == 1]
    return domain.options[rng.choice(near if isinstance(domain, Range) and rng.random() < 0.7 else others)]
