"""Learning from what is there: another run's trials, as the sampler of a new search knows them.

What was measured under the same terms is a value like any other. What was not, as the latency of another device or the
accuracy on other clips, is an output of its own to the model, which finds out how far the two go together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from uniformer_bench.errors import UbenchError
from uniformer_bench.runs import clip_of, load_records
from uniformer_bench.search.asking import known_of
from uniformer_bench.search.proposals.candidates import suggestion
from uniformer_bench.search.proposals.proposer import CLOSED, Known
from uniformer_bench.search.study import FAILED
from uniformer_bench.space import Space, stored_pick

TAUGHT = ("complete", "pruned", "infeasible", *FAILED)
FIRST = -2  # runs of other studies count down from here: -1 is no run


class Warm(NamedTuple):
    """The trials of another run that fit this space, and a sentence on them for the page."""

    trials: tuple[Known, ...]
    note: str


NOTHING = Warm((), "")


def warm_start(run: Path, identity: Mapping[str, Any], space: Space) -> Warm:
    """What the run in this folder teaches a search of `identity`. Raises UbenchError where that is nothing."""
    found = load_records(run)
    then = found.info.get("identity", {})
    if then == identity:
        raise UbenchError(f"a warm start must be from another question, got the same one in {run}; resume it instead")
    elsewhere = _elsewhere(then, identity)
    taught = [record for record in found.trials if record["state"] in TAUGHT]
    fitting = [record for record in taught if _fits(space, record)]
    if not fitting:
        raise UbenchError(f"a warm start must have trials of this space, got none of {len(taught)} in {run}")
    trials = tuple(_known(record, FIRST - i, elsewhere) for i, record in enumerate(fitting))
    return Warm(trials, _note(run, len(fitting), len(taught), elsewhere))


def _elsewhere(then: Mapping[str, Any], now: Mapping[str, Any]) -> frozenset[str]:
    """The metrics that were measured under other terms."""
    learned = all(then.get(key) == now.get(key) for key in ("data", "recipe", "init"))
    measured = all(then.get(key) == now.get(key) for key in ("device", "protocol"))
    costs = () if measured else ("latency", "throughput", "memory", "training_memory", "energy")
    return frozenset((*(() if learned else ("accuracy",)), *costs))


def _fits(space: Space, record: Mapping[str, Any]) -> bool:
    """Whether the space has this architecture, for the same clip where clips vary in either space."""
    try:
        found = suggestion(space, stored_pick(record["params"]))
    except (KeyError, ValueError):  # a parameter or an option that this space has not
        return False
    return found is not None and found.candidate.clip == (clip_of({}, record) if "clip" in record else None)


def _known(record: Mapping[str, Any], number: int, elsewhere: frozenset[str]) -> Known:
    known = known_of(record)
    return known._replace(
        number=number,
        metrics={key: value for key, value in known.metrics.items() if key not in CLOSED},
        rungs=() if "accuracy" in elsewhere else known.rungs,
        failed=known.failed and "latency" not in elsewhere,
        counts=False,
        elsewhere=elsewhere,
    )


def _note(run: Path, used: int, of: int, elsewhere: frozenset[str]) -> str:
    found = f"The sampler began from {used} of the {of} trials of {run.name}"
    if not elsewhere:
        return f"{found}, measured as here."
    return f"{found}; measured under other terms there: {', '.join(sorted(elsewhere)).replace('_', ' ')}."
