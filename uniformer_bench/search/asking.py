"""Where the next trial comes from: what is queued, then the sampler, ours or one of Optuna's."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna

from uniformer_bench.search.pareto import Scale
from uniformer_bench.search.proposals.proposer import START, WARM_START, Known, Proposer
from uniformer_bench.search.study import FAILED, MODEL, Study
from uniformer_bench.space import Space

MAX_UNFIT = 100  # points of the quasi-random sequence in a row whose values do not go together


def known_of(record: Mapping[str, Any]) -> Known:
    """What a finished or paused trial's record says to the sampler."""
    return Known(
        number=record["number"],
        params=record["params"],
        metrics=record["metrics"],
        rungs=tuple(rung["loss"] for rung in record["rungs"]),
        failed=record["state"] in FAILED,
        counts=record["state"] in ("complete", "paused"),
    )


class Asker:
    """Gives trials. The quasi-random start is at least `START` long, or `WARM_START` where another study's trials are
    known, and goes on until the hypervolume's axes are fixed: before that no improvement can be told."""

    def __init__(
        self, study: Study, sampler: str, space: Space, num_classes: int, seed: int, warm: Sequence[Known] = ()
    ) -> None:
        self._study = study
        self._proposer = Proposer(space, num_classes, seed, warm) if sampler == MODEL else None
        self._start = WARM_START if warm else START

    @property
    def _has_begun(self) -> bool:
        return self._study.begun >= self._start

    def next(self, trials: Sequence[Known], taken: set[str], scales: Mapping[str, Scale]) -> optuna.Trial | None:
        """The next trial, to be evaluated unless it is refused or repeated; None where the space is exhausted."""
        if self._proposer is None or self._study.waits:
            return self._study.ask()
        if not self._has_begun or not scales:
            return self._first(self._proposer, self._study.begun)
        found = self._proposer.propose(trials, taken, scales)
        return None if found is None else self._study.ask_for(found.params, found.domains)

    def _first(self, proposer: Proposer, begun: int) -> optuna.Trial | None:
        for index in range(begun, begun + MAX_UNFIT):
            if (found := proposer.first(index)) is not None:
                return self._study.ask_for(found.params, found.domains, index)
        return None

    def outlook(self, trials: Sequence[Known], numbers: Iterable[int], scales: Mapping[str, Scale]) -> dict[int, float]:
        """What each of these paused trials is expected to add to the front; nothing where no model says."""
        if self._proposer is None or not scales or not self._has_begun:
            return {}
        return self._proposer.outlook(trials, list(numbers), scales)
