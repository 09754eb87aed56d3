"""A run's choices as the columns of a regression, and the changes that people ask about as contrasts of them.

A parameter that is a number is one column; any other has a column a choice beside its commonest. Where a trial has no
such parameter (no tube in a global stage), its columns are 0, so that the mixer's column speaks for the commonest tube.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from uniformer_bench.report.text import plain

LEAST_SEEN = 5  # trials with a choice, below which nothing is said of it
STAGE = re.compile(r"stage(\d+)\.(\w+)")

Column = tuple[str, str | None]  # a parameter and a choice of it, None for a number


class Change(NamedTuple):
    """A change in words, the stage it is made in (None: the whole model), and its weight on each column."""

    words: str
    stage: int | None
    weights: tuple[tuple[Column, float], ...]


class Choices(NamedTuple):
    """`rows` are the trials' values by column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[float, ...], ...]
    changes: tuple[Change, ...]


def choices(params: Sequence[dict[str, Any]]) -> Choices:
    """The columns and changes of trials with these parameters; what all do alike has neither."""
    names = sorted({name for each in params for name in each}, key=_natural)
    columns, values, changes = [], [], []
    for name in names:
        given = [each.get(name) for each in params]
        own, filled, said = _number(name, given) if _is_number(given) else _choice(name, given)
        columns += own
        values += filled
        changes += said
    return Choices(tuple(columns), tuple(zip(*values, strict=True)), (*changes, *_moves(columns, changes)))


def _natural(name: str) -> tuple[Any, ...]:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def _is_number(values: Sequence[Any]) -> bool:
    return all(value is None or _value(value) is not None for value in values)


def _value(cell: Any) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _number(name: str, given: Sequence[Any]) -> tuple[list[Column], list[list[float]], list[Change]]:
    numbers = [None if value is None else float(value) for value in given]
    seen = sorted({value for value in numbers if value is not None})
    often = [value for value, n in Counter(numbers).items() if value is not None and n >= LEAST_SEEN]
    if len(seen) < 2:
        return [], [], []
    there = [value for value in numbers if value is not None]
    mean, step = sum(there) / len(there), min(b - a for a, b in pairwise(seen))
    column: Column = (name, None)
    said = [Change(*_more(name, step), ((column, step),))] if len(often) > 1 else []
    return [column], [[0.0 if value is None else value - mean for value in numbers]], said


def _choice(name: str, given: Sequence[Any]) -> tuple[list[Column], list[list[float]], list[Change]]:
    counts = Counter(str(value) for value in given if value is not None)
    usual = min(counts, key=lambda value: (not _plain_choice(name, value), -counts[value], value))
    others = sorted(value for value in counts if value != usual)
    said = [
        Change(*_instead(name, value, usual), (((name, value), 1.0),))
        for value in others
        if min(counts[value], counts[usual]) >= LEAST_SEEN
    ]
    filled = [[float(each is not None and str(each) == value) for each in given] for value in others]
    return [(name, value) for value in others], filled, said


def _plain_choice(name: str, value: str) -> bool:
    """What others are compared with, however rare: local mixers, and FFNs that are there."""
    return (name.rpartition(".")[2], value) in (("mixer", "local"), ("ffn", "yes"))


def _moves(columns: Sequence[Column], changes: Sequence[Change]) -> list[Change]:
    """Each mixer but the local one moved a stage earlier, the stage it leaves made local."""
    told = {change.weights[0][0] for change in changes}
    found = []
    for name, value in columns:
        match = STAGE.fullmatch(name)
        if not match or match[2] != "mixer" or value == "local" or (name, value) not in told:
            continue
        later: Column = (f"stage{int(match[1]) + 1}.mixer", value)
        if later in told:
            words = f"Moving {value} MHRA from stage {int(match[1]) + 1} to stage {match[1]}"
            found.append(Change(words, int(match[1]), (((name, value), 1.0), (later, -1.0))))
    return found


def _placed(name: str) -> tuple[str, int | None, str]:
    """(the parameter, its stage, " in stage 3")."""
    match = STAGE.fullmatch(name)
    return (match[2], int(match[1]), f" in stage {match[1]}") if match else (name, None, "")


def _more(name: str, step: float) -> tuple[str, int | None]:
    what, stage, where = _placed(name)
    if what == "depth":
        words = "One more block" if step == 1 else f"{plain(step)} more blocks"
    else:
        words = f"{plain(step)} more channels" if what == "width" else f"{_spaced(what)} higher by {plain(step)}"
    return words + where, stage


def _instead(name: str, value: str, usual: str) -> tuple[str, int | None]:
    what, stage, where = _placed(name)
    if what == "mixer":
        words = f"{value.capitalize()} instead of {usual} MHRA"
    elif what == "ffn":
        words = "Leaving out the FFN" if value == "no" else f"FFN {value} instead of {usual}"
    elif what in ("kernel", "dpe_kernel"):
        noun = "tube" if what == "kernel" else "DPE"
        words = f"No {noun} instead of {usual}" if value == "none" else f"A {value} {noun} instead of {usual}"
    else:
        words = f"{_spaced(what)} {value} instead of {usual}"
    return words + where, stage


def _spaced(name: str) -> str:
    return {"mlp_ratio": "MLP ratio"}.get(name, name.replace("_", " "))
