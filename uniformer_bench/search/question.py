"""What a search is asked, what it may use, and what earlier starts of it left."""

from pathlib import Path
from typing import Any, NamedTuple

from uniformer_bench.data.clips import Clips
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.search.donors import Start
from uniformer_bench.search.finalists import Finalists
from uniformer_bench.search.pareto import Scale
from uniformer_bench.search.proposals.proposer import Known
from uniformer_bench.space import Space


class Question(NamedTuple):
    """What a search asks: everything that its trials depend on."""

    space: Space
    clips: Clips
    data: dict[str, Any]  # arguments of load_clips, for the workers
    protocol: Protocol
    seed: int
    sampler: str
    start: Start | None = None  # the weights that every short run inherits from


class Means(NamedTuple):
    """What a search may use; changing it changes no number."""

    devices: tuple[str, ...]  # one entry a worker
    training_threads: int
    turns: Path
    checkpoints: Path  # of paused trials
    trials: int
    deadline_s: float | None
    timeout_s: float | None
    finalist_seeds: int = 2  # more trainings of each finalist
    warm: tuple[Known, ...] = ()  # another study's trials, for the sampler to begin with
    donor: Path | None = None  # where the weights of the space's donor lie, once it is trained


class Before(NamedTuple):
    """What earlier starts of a study left in its files: seconds searched, the hypervolume's axes, the finalists."""

    elapsed_s: float
    scales: dict[str, Scale]
    finalists: Finalists
