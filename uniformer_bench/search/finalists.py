"""How a search ends: the front and the baselines are measured by the full protocol and trained again from other seeds.

The best of many noisy looks are lucky ones. What chose a finalist is no evidence for it: its latency is the full
protocol's, its accuracy the mean of trainings that had no part in the choice, and each has its interval. Who stood
behind one that was lucky is asked next. The test split is read here alone. The study keeps what the search went by;
the run's files and its page go by the finalists.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

from uniformer_bench.data.clips import Clips
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.search.contest import Contest, Entrant, Times, measured
from uniformer_bench.search.donors import Start
from uniformer_bench.search.estimates import Estimate, SeedNoise, chances_on_front, mean_accuracy, seed_noise
from uniformer_bench.search.evaluate import trained_spec
from uniformer_bench.search.executors import Crew
from uniformer_bench.search.pareto import to_losses
from uniformer_bench.search.retraining import SPENT, Lesson, Place, Retrained, Scores, Training, retrained
from uniformer_bench.search.run_files import challengers_of, finalists_of, remeasured
from uniformer_bench.space import Space, stored_pick

EACH_S, ALL_S = 2.0, 40.0  # of latency, for one finalist and for all, at most
LATENCY_SHARE = 0.5  # of the time left, where there is little
BUDGET_SHARE = 0.25  # of a time to stop in, kept for the finalists, but no more than they are likely to take
LIKELY = 16  # finalists of a search
ROUNDS = 3  # of trainings: the front, those that take the place of its lucky ones, and those of theirs

Record = Mapping[str, Any]
Row = dict[str, Any]


class Terms(NamedTuple):
    """What finalists are measured and trained by. `seeds` is how many more trainings each gets."""

    space: Space
    clips: Clips
    data: Mapping[str, Any]  # arguments of load_clips
    protocol: Protocol
    seed: int
    seeds: int
    places: tuple[Place, ...]  # one a worker
    crew: Crew
    training_threads: int
    timeout_s: float | None
    start: Start | None = None  # the weights that their trainings inherit from


class Clock(NamedTuple):
    """`left_s` gives the seconds left, infinite where nobody said; `poll` a False where the search shall stop."""

    left_s: Callable[[], float]
    poll: Callable[[], bool]


class Finalists(NamedTuple):
    """Their rows for run.json, and what is missing in them, with the reason."""

    rows: list[Row]
    reason: str | None


def reserve_s(budget_s: float, records: Sequence[Record], seeds: int, workers: int) -> float:
    """The seconds of a budget that the search leaves to its finalists, by how long its trainings take."""
    took = [row["seconds"].get("train", 0.0) for row in records if row["state"] == "complete"]
    training_s = seeds * LIKELY * sum(took) / len(took) / workers if took else 0.0
    return min(BUDGET_SHARE * budget_s, ALL_S + training_s)


def ended(
    records: Sequence[Record], before: Finalists, terms: Terms, clock: Clock, again: int = ROUNDS - 1
) -> Finalists:
    """The finalists with all that the time allows; what `before` has of the same ones is not measured again.

    Where one of them breaks a limit now that it is timed, who stood behind it joins, and all are timed anew, up to
    `again` times.

    Latencies are compared with each other: they are kept where all finalists are the same. A training is kept
    wherever it was, as nothing but its seed decides it.
    """
    struck = _over_limits(before.rows, records, terms)
    left = [record for record in records if record["number"] not in struck]
    chosen = finalists_of(records, terms.space.objectives)
    if not chosen:
        return Finalists([], "no trial is complete")
    asked_already = {record["number"] for record in chosen}
    chosen += [r for r in finalists_of(left, terms.space.objectives) if r["number"] not in asked_already]
    old = {row["trial"]: row for row in before.rows}
    rows = [_row(record, old.get(record["number"], {})) for record in chosen]
    timed, reasons = "latency" in terms.space.measure, []
    if "accuracy" in terms.space.measure:
        asked = timed and not _same_times(rows, before.rows[: len(rows)])
        kept_s = _timing_s(rows, LATENCY_SHARE * clock.left_s()) if asked else 0.0
        until_timing = clock._replace(left_s=lambda: clock.left_s() - kept_s)
        reasons.append(_train_in_rounds(rows, chosen, left, old, terms, until_timing))
    if timed and not _same_times(rows, before.rows):
        reasons.append(_time(rows, chosen, terms, clock))
    over = _over_limits(rows, records, terms) - struck
    if over and again and clock.poll() and clock.left_s() > EACH_S * (len(rows) + len(over)):
        return ended(records, Finalists(rows, None), terms, clock, again - 1)
    _add_chances(rows, chosen, terms)
    return Finalists(rows, "; ".join(dict.fromkeys(reason for reason in reasons if reason)) or None)


def _over_limits(rows: Sequence[Row], records: Sequence[Record], terms: Terms) -> set[int]:
    """The finalists that break a limit by their later numbers."""
    members = {row["trial"] for row in rows}
    found = remeasured([r for r in records if r["number"] in members], rows, terms.space.constraints)
    return {record["number"] for record in found if record["state"] == "infeasible"}


def _row(record: Record, old: Mapping[str, Any]) -> Row:
    """A finalist as the search saw it, with what an earlier end measured."""
    metrics, old = record["metrics"], deepcopy(old)
    return {
        "trial": record["number"],
        **{name: record[name] for name in ("spec_id", "pattern", "baseline")},
        "latency_ms": old.get("latency_ms"),
        "latency_ms_in_search": metrics.get("latency"),
        "stages": old.get("stages"),
        "accuracy": old.get("accuracy"),
        "accuracy_in_search": metrics.get("accuracy"),
        "test_accuracy": old.get("test_accuracy"),
        "on_front": None,
    }


def _same_times(rows: Sequence[Row], before: Sequence[Row]) -> bool:
    """Whether all of `rows` were timed together."""
    return [row["trial"] for row in rows] == [row["trial"] for row in before] and all(r["stages"] for r in rows)


def _time(rows: Sequence[Row], chosen: Sequence[Record], terms: Terms, clock: Clock) -> str | None:
    """Adds latencies to the rows; why not, where not."""
    for row in rows:
        row |= {"latency_ms": None, "stages": None}
    budget_s = _timing_s(rows, clock.left_s())
    if budget_s <= 0:
        return f"latency was not measured again: {SPENT}"
    found = measured(_contest(chosen, terms, budget_s), terms.crew, clock.poll)
    if isinstance(found, str):
        return f"latency was not measured again: {found}"
    for row, times in zip(rows, found, strict=True):
        row |= _times(times)
    return None


def _timing_s(rows: Sequence[Row], most_s: float) -> float:
    """The seconds that the finalists' latencies take."""
    return min(EACH_S * len(rows), ALL_S, most_s)


def _times(times: Times) -> Row:
    stages = [{"name": f"stage{i}", "latency_ms": ms} for i, ms in enumerate(times.stages_ms, 1)]
    return {"latency_ms": dict(times.latency_ms), "stages": stages}


def _contest(chosen: Sequence[Record], terms: Terms, budget_s: float) -> Contest:
    found, place = [terms.space.candidate(stored_pick(record["params"])) for record in chosen], terms.places[0]
    entrants = tuple(Entrant(each.spec, terms.space.clip_of(each)) for each in found)
    protocol = replace(terms.protocol, device=place.device)
    return Contest(entrants, len(terms.clips.classes), protocol, place.turns, budget_s, terms.seed)


def _train_in_rounds(
    rows: list[Row],
    chosen: list[Record],
    records: Sequence[Record],
    old: Mapping[int, Row],
    terms: Terms,
    clock: Clock,
) -> str | None:
    """Trains the finalists, and then those that take the place of the lucky ones, which join them.

    Who does goes by the search's latencies, so that the next end of the same study asks the same. Where time was up or
    the search stopped, only those join whom an earlier end had asked. Says why trainings are missing, where they are.
    """
    reason = _train(rows, chosen, terms, clock)
    for _ in range(ROUNDS - 1):
        untimed = [{**row, "latency_ms": None} for row in rows]
        more = challengers_of(records, untimed, terms.space.objectives)
        more = [record for record in more if record["number"] in old or reason is None]
        if not more:
            break
        chosen += more
        rows += [_row(record, old.get(record["number"], {})) for record in more]
        reason = _train(rows, chosen, terms, clock)  # of all that is missing by now
    return reason


def _train(rows: Sequence[Row], chosen: Sequence[Record], terms: Terms, clock: Clock) -> str | None:
    """Adds the missing trainings' scores to the rows, and what all say together; why some are missing still, where
    they are."""
    for row in rows:
        row["accuracy"] = row["accuracy"] or {"by_seed": {str(terms.seed): row["accuracy_in_search"]}, "failed": {}}
        row["test_accuracy"] = row["test_accuracy"] or {"by_seed": {}}
    asked = [training for row, record in zip(rows, chosen, strict=True) for training in _missing(row, record, terms)]
    found = Retrained({}, None)
    if asked:
        found = retrained(
            asked, _lesson(terms), terms.places, terms.crew,
            timeout_s=terms.timeout_s, left_s=clock.left_s, poll=clock.poll,
        )  # fmt: skip
    by_trial = {row["trial"]: row for row in rows}
    for (trial, seed), scores in found.scores.items():
        _note(by_trial[trial], str(seed), scores)
    _summarise(rows, len(terms.clips.validation.labels), len(terms.clips.test.labels), str(terms.seed))
    left_out = len(asked) - len(found.scores)
    return f"{left_out} of {len(asked)} trainings from other seeds were left out: {found.reason}" if left_out else None


def _missing(row: Row, record: Record, terms: Terms) -> list[Training]:
    """The trainings that this finalist has not had yet."""
    had = {*row["accuracy"]["by_seed"], *row["accuracy"]["failed"]}
    candidate = terms.space.candidate(stored_pick(record["params"]))
    spec = trained_spec(candidate.trained, terms.space.recipe)
    seeds = [terms.seed + i for i in range(1, terms.seeds + 1)]
    took_s = record["seconds"].get("train", 0.0)
    return [Training(row["trial"], spec, seed, took_s, candidate.clip) for seed in seeds if str(seed) not in had]


def _lesson(terms: Terms) -> Lesson:
    classes, recipe, protocol = len(terms.clips.classes), terms.space.recipe, terms.protocol
    threads = terms.training_threads
    return Lesson(classes, recipe, terms.data, protocol.precision, protocol.implementation, threads, start=terms.start)


def _note(row: Row, seed: str, scores: Scores) -> None:
    if scores.reason is not None:
        row["accuracy"]["failed"][seed] = scores.reason
        return
    row["accuracy"]["by_seed"][seed] = scores.validation
    row["test_accuracy"]["by_seed"][seed] = scores.test


def _summarise(rows: Sequence[Row], validation: int, test: int, chosen_by: str) -> None:
    """Adds means and intervals: over the trainings that had no part in the choice, or, where there is none, of it.

    The seeds' variance is pooled over all trainings, for the degrees of freedom: that the search's are the lucky ones
    makes it a little too large.
    """
    for key, clips in (("accuracy", validation), ("test_accuracy", test)):
        noise = seed_noise([list(row[key]["by_seed"].values()) for row in rows])
        for row in rows:
            row[key] |= _mean(row[key]["by_seed"], clips, noise, chosen_by)


def _mean(by_seed: Mapping[str, float], clips: int, noise: SeedNoise, chosen_by: str) -> Row:
    """`trainings` counts those behind the mean, which is that of the search where it is 0."""
    fresh = [value for seed, value in by_seed.items() if seed != chosen_by]
    if not by_seed:
        return {"mean": None, "ci95": None, "trainings": 0, "clips": clips}
    found = mean_accuracy(fresh or list(by_seed.values()), clips, noise)
    return {"mean": found.value, "ci95": [found.low, found.high], "trainings": len(fresh), "clips": clips}


def _add_chances(rows: Sequence[Row], chosen: Sequence[Record], terms: Terms) -> None:
    found = remeasured(chosen, rows, terms.space.constraints)
    within = [i for i, record in enumerate(found) if record["state"] == "complete"]
    points = [_point(found[i], terms.space.objectives) for i in within]
    chances = dict(zip(within, chances_on_front(points, terms.seed), strict=True))
    for i, row in enumerate(rows):
        row["on_front"] = chances.get(i, 0.0)  # none for what breaks a limit


def _point(record: Record, objectives: Sequence[str]) -> list[Estimate]:
    return [_estimate(record, key) for key in objectives]


def _estimate(record: Record, key: str) -> Estimate:
    """A metric as a loss: of a time or a rate the spread is even on a logarithm, what has no interval is exact."""
    value = record["metrics"][key]
    low, high = record["intervals"].get(key) or (value, value)
    if key == "throughput" and "latency" in record["intervals"]:  # the same measurement, upside down
        ends, median = record["intervals"]["latency"], record["metrics"]["latency"]
        low, high = value * median / ends[1], value * median / ends[0]
    if key in ("latency", "throughput"):
        less = (value, low, high) if key == "latency" else (1 / value, 1 / high, 1 / low)
        return Estimate(*less, log=True)
    losses = [to_losses([key], [each])[0] for each in (value, low, high)]
    return Estimate(losses[0], min(losses[1:]), max(losses[1:]))
