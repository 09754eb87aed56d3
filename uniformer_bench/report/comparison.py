"""Several runs beside each other, as pure data: each run's answer, what differs between them, what may be compared.

Runs go by letters in the order given; trial numbers are made unique by a step, and shown with the letter.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from uniformer_bench.errors import UbenchError
from uniformer_bench.metrics import METRICS
from uniformer_bench.report.answer import Answer, answer, sentence
from uniformer_bench.report.info import (
    RUN_STEP,
    Axes,
    History,
    Trial,
    choose_axes,
    contenders,
    front_of,
    gain,
    history,
    read_trials,
)
from uniformer_bench.runs import Record, Run, known

LETTERS = "ABCDEF"
FACTS = "space_name objectives constraints sampler seed version input protocol recipe data environment trials_asked"
OF_THE_MOMENT = ("load_average", "memory_available_bytes", "samples", "class_counts", "identity")
# what a metric depends on, by the first words of a fact's name
TERMS = {
    "latency": ("protocol", "input", "environment: cpu", "environment: gpu", "environment: torch", "environment: cuda"),
    "accuracy": ("data: hash", "data: frames", "data: size", "recipe", "seed"),
}


class Side(NamedTuple):
    """A run: its letter, its trials with unique numbers, and what it answers by itself."""

    letter: str
    name: str
    info: dict[str, Any]
    trials: tuple[Trial, ...]
    answer: Answer
    history: History


class Difference(NamedTuple):
    """A fact that is not the same in all runs, with each run's value as JSON, None where a run does not say."""

    fact: str
    values: tuple[str | None, ...]


class Budget(NamedTuple):
    """From this limit on (in the metric's file unit), these are the runs' picks, None where nothing fits."""

    limit: float
    picks: tuple[int | None, ...]


class Comparison(NamedTuple):
    """`unbeaten` is how many front members of each run no other run's front beats; `lede` the picks in a sentence."""

    axes: Axes
    sides: tuple[Side, ...]
    lede: str
    budgets: dict[str, tuple[Budget, ...]]
    differences: tuple[Difference, ...]
    cautions: tuple[str, ...]
    unbeaten: tuple[int, ...]


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """The comparison of two runs or more. Raises UbenchError outside 2 to 6 runs."""
    if not 2 <= len(runs) <= len(LETTERS):
        raise UbenchError(f"a page compares 2 to {len(LETTERS)} runs, got {len(runs)}")
    axes = common_axes(runs)
    sides = tuple(_side(letter, i, run, axes) for i, (letter, run) in enumerate(zip(LETTERS, runs, strict=False)))
    found = differences([run.info for run in runs])
    cautions = (*_cautions(found, axes), *_volume_caution(runs))
    return Comparison(axes, sides, _lede(sides, axes), _budgets(sides), found, cautions, _unbeaten(sides, axes))


def common_axes(runs: Sequence[Run]) -> Axes:
    """What all runs asked for; for a cost that a run has no number of, the first one asked for that all have."""
    objectives = [run.info.get("objectives") or () for run in runs]
    axes = choose_axes([key for key in objectives[0] if all(key in each for each in objectives)])
    filled = [run for run in runs if run.trials]
    wanted = (axes.cost, *(key for each in objectives for key in each), *METRICS)
    costs = (key for key in wanted if key in METRICS and METRICS[key].direction == "minimize")
    return axes._replace(cost=next((key for key in costs if all(_has(run, key) for run in filled)), axes.cost))


def _has(run: Run, key: str) -> bool:
    return any(known((record.get("metrics") or {}).get(key)) is not None for record in run.trials)


def _side(letter: str, i: int, run: Run, axes: Axes) -> Side:
    trials = read_trials(numbered(run.trials, letter, i))
    past = history(run.info.get("hypervolume") or {}, read_trials(run.trials))
    return Side(letter, str(run.info.get("name") or "run"), run.info, trials, answer(trials, axes), past)


def numbered(records: Sequence[Record], letter: str, i: int) -> list[Record]:
    """The records of run `i` as they stand beside others'."""
    return [{**record, "number": record["number"] + i * RUN_STEP, "run": letter} for record in records]


def _lede(sides: Sequence[Side], axes: Axes) -> str:
    """Every run's pick against the first run's."""
    picks = [_pick(side) for side in sides]
    first = picks[0]
    if first is None or not any(picks[1:]):
        return "There are no two picks to compare."
    name = f"the pick of {sides[0].letter}"
    said = [
        f"The pick of {side.letter}: {_lower(sentence(pick, first, axes, name))}"
        for side, pick in zip(sides[1:], picks[1:], strict=True)
        if pick
    ]
    return " ".join(said)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _pick(side: Side) -> Trial | None:
    number = side.answer.choice.pick if side.answer.choice else None
    return next((trial for trial in side.trials if trial.number == number), None)


def _budgets(sides: Sequence[Side]) -> dict[str, tuple[Budget, ...]]:
    keys = [key for key in METRICS if any(key in side.answer.ladders for side in sides)]
    return {key: _steps([side.answer.ladders.get(key, ()) for side in sides]) for key in keys}


def _steps(ladders: Sequence[Sequence[Any]]) -> tuple[Budget, ...]:
    steps: list[Budget] = []
    for limit in sorted({step.limit for ladder in ladders for step in ladder}):
        within = [[step.choice.pick for step in ladder if step.limit <= limit] for ladder in ladders]
        picks = tuple(fitting[-1] if fitting else None for fitting in within)
        if not steps or steps[-1].picks != picks:
            steps.append(Budget(limit, picks))
    return tuple(steps)


def differences(infos: Sequence[Mapping[str, Any]]) -> tuple[Difference, ...]:
    """Every fact of the runs' records that is not the same in all, in the order in which the first has them."""
    flat = [_flat({key: info.get(key) for key in FACTS.split()}) for info in infos]
    facts = dict.fromkeys(fact for each in flat for fact in each)
    rows = [Difference(fact, tuple(each.get(fact) for each in flat)) for fact in facts]
    return tuple(row for row in rows if len(set(row.values)) > 1)


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, each in value.items():
        if key in OF_THE_MOMENT or each is None:
            continue
        if isinstance(each, Mapping):
            found |= _flat(each, f"{path}{key}: ")
        else:
            found[f"{path}{key}"] = json.dumps(each, ensure_ascii=False)
    return found


def _cautions(found: Sequence[Difference], axes: Axes) -> tuple[str, ...]:
    """What the runs' numbers may not be compared for, and why."""
    said = []
    for key in axes:
        unequal = [row.fact for row in found if row.fact.startswith(TERMS.get(key, ()))]
        if unequal:
            label = METRICS[key].label
            said.append(f"{label.capitalize()} was not taken on the same terms: {_listed(unequal)} differ.")
    return tuple(said)


def _listed(facts: Sequence[str], most: int = 5) -> str:
    more = f" and {len(facts) - most} more" if len(facts) > most else ""
    return ", ".join(fact.replace(": ", " ").replace("_", " ") for fact in facts[:most]) + more


def scales_agree(infos: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the runs' hypervolumes have the same reference point and scale."""
    kept = [info.get("hypervolume") or {} for info in infos]
    return len({json.dumps([each.get("scales"), each.get("reference")], sort_keys=True) for each in kept}) == 1


def _volume_caution(runs: Sequence[Run]) -> tuple[str, ...]:
    if scales_agree([run.info for run in runs]):
        return ()
    return ("Hypervolumes have other reference points or scales, and are left out.",)


def _unbeaten(sides: Sequence[Side], axes: Axes) -> tuple[int, ...]:
    fronts = [front_of(contenders(side.trials), axes) for side in sides]
    return tuple(
        sum(not any(_beats(o, t, axes) for j, other in enumerate(fronts) if j != i for o in other) for t in front)
        for i, front in enumerate(fronts)
    )


def _beats(a: Trial, b: Trial, axes: Axes) -> bool:
    gains = [gain(key, a.values[key]) - gain(key, b.values[key]) for key in axes]
    return all(each >= 0 for each in gains) and any(each > 0 for each in gains)
