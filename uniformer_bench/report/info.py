"""What a report says of a run, as pure data: its trials, fates, times and hypervolume.

Values are in the units of files (accuracy a fraction, latency in ms); only finite numbers are values.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from uniformer_bench.metrics import METRICS
from uniformer_bench.runs import Record, choice_text, clip_of, known
from uniformer_bench.space import Clip

COUNTED = ("complete", "pruned", "infeasible", "oom", "diverged", "timeout", "crashed")
BESIDE = ("refused", "repeated", "interrupted")
RUN_STEP = 10**9  # between the numbers of two runs on one page

Interval = tuple[float, float]


class Rung(NamedTuple):
    """Where a short run was looked at: the training loss after so many epochs, and the seconds since the last rung."""

    epochs: float
    loss: float | None
    seconds: float | None


class Trial(NamedTuple):
    """One trial: `values` by metric key, `intervals` where measured, `params` as cells, `seconds` by phase.

    `stage_ms` are the stages' latencies where they were recorded, `run` the letter of its run on a page of several.
    """

    number: int
    state: str = "complete"
    reason: str | None = None
    baseline: str | None = None
    spec_id: str = ""
    pattern: str = ""
    front: bool = False
    values: dict[str, float] = {}  # noqa: RUF012 (never changed)
    intervals: dict[str, Interval] = {}  # noqa: RUF012
    params: dict[str, Any] = {}  # noqa: RUF012
    seconds: dict[str, float] = {}  # noqa: RUF012
    finished_s: float | None = None
    spec: dict[str, Any] | None = None
    rungs: tuple[Rung, ...] = ()
    stage_ms: tuple[float, ...] = ()
    run: str = ""
    finalist: bool = False
    clip: Clip | None = None  # its own, where clips vary

    @property
    def label(self) -> str:
        """Its number as a person says it, with its run's letter on a page of several."""
        return f"{self.run}{self.number % RUN_STEP}"

    def has(self, *keys: str) -> bool:
        """Whether every one of these metrics is known."""
        return all(key in self.values for key in keys)


class Axes(NamedTuple):
    """The two metrics a page speaks of first: what is wanted, and what it costs."""

    quality: str
    cost: str


class Cause(NamedTuple):
    """A message that trials ended with, and which."""

    message: str
    numbers: tuple[int, ...]


class Fate(NamedTuple):
    """How many trials ended in a state, and what they said."""

    state: str
    total: int
    causes: tuple[Cause, ...]


class History(NamedTuple):
    """Hypervolume after each trial; `level` is that of the baselines alone, where it is known."""

    points: tuple[tuple[float, int, float], ...]
    level: float | None


def read_trials(records: Iterable[Record]) -> tuple[Trial, ...]:
    """The trials by number."""
    return tuple(sorted((_trial(record) for record in records), key=lambda trial: trial.number))


def _trial(record: Record) -> Trial:
    spec = record.get("spec") if isinstance(record.get("spec"), dict) else None
    return Trial(
        number=int(record["number"]),
        state=str(record.get("state")),
        reason=record.get("reason"),
        baseline=record.get("baseline"),
        spec_id=str(record.get("spec_id") or ""),
        pattern="".join(str(stage.get("mixer", "?"))[:1].upper() for stage in (spec or {}).get("stages", [])),
        front=bool(record.get("front")),
        values={k: v for k in METRICS if (v := known((record.get("metrics") or {}).get(k))) is not None},
        intervals=_intervals(record.get("intervals") or {}),
        params={k: choice_text(v) for k, v in (record.get("params") or {}).items()},
        seconds={k: v for k, raw in (record.get("seconds") or {}).items() if (v := known(raw)) is not None},
        finished_s=known(record.get("finished_s")),
        spec=spec,
        rungs=_rungs(record.get("rungs")),
        stage_ms=_stage_ms(record.get("stages")),
        run=str(record.get("run") or ""),
        finalist=bool(record.get("finalist")),
        clip=clip_of({}, record) if record.get("clip") else None,
    )


def _rungs(raw: object) -> tuple[Rung, ...]:
    """The record's `rungs`, by epochs; what has no epochs is left out."""
    rows = [row for row in raw if isinstance(row, dict)] if isinstance(raw, list) else []
    found = [(known(row.get("epochs")), known(row.get("loss")), known(row.get("seconds"))) for row in rows]
    return tuple(sorted((Rung(e, a, s) for e, a, s in found if e is not None), key=lambda rung: rung.epochs))


def _stage_ms(raw: object) -> tuple[float, ...]:
    """The record's `stages`, as a profile has them; none where one stage's time is not known."""
    rows = raw if isinstance(raw, list) else []
    found = [known(row.get("latency_ms")) if isinstance(row, dict) else None for row in rows]
    return tuple(ms for ms in found if ms is not None) if None not in found else ()


def _intervals(raw: dict[str, Any]) -> dict[str, Interval]:
    pairs = {key: raw[key] for key in METRICS if isinstance(raw.get(key), list | tuple) and len(raw[key]) == 2}
    ends = {key: (known(low), known(high)) for key, (low, high) in pairs.items()}
    return {key: (low, high) for key, (low, high) in ends.items() if low is not None and high is not None}


def choose_axes(objectives: Iterable[str]) -> Axes:
    """Quality is accuracy or the first objective that is maximised; cost the first other one, or latency."""
    keys = [key for key in objectives if key in METRICS]
    wanted = [key for key in keys if METRICS[key].direction == "maximize"]
    quality = "accuracy" if "accuracy" in keys or not wanted else wanted[0]
    costs = [key for key in keys if key != quality]
    return Axes(quality, costs[0] if costs else "latency")


def gain(key: str, value: float) -> float:
    """`value` with the sign that makes more better."""
    return value if METRICS[key].direction == "maximize" else -value


def contenders(trials: Sequence[Trial]) -> Sequence[Trial]:
    """The finalists, whose accuracy is that of trainings that did not choose them; where there are none, all trials."""
    return [trial for trial in trials if trial.finalist] or trials


def front_of(trials: Iterable[Trial], axes: Axes) -> tuple[Trial, ...]:
    """The complete trials that no other beats in both metrics, cheapest first; of equal ones the first."""
    known_both = [t for t in trials if t.state == "complete" and t.has(*axes)]
    known_both.sort(key=lambda t: (-gain(axes.cost, t.values[axes.cost]), -gain(axes.quality, t.values[axes.quality])))
    front: list[Trial] = []
    for trial in known_both:
        best = gain(axes.quality, front[-1].values[axes.quality]) if front else float("-inf")
        if gain(axes.quality, trial.values[axes.quality]) > best:
            front.append(trial)
    return tuple(front)


def fates(trials: Iterable[Trial]) -> tuple[Fate, ...]:
    """Every state that occurs, in the order of COUNTED and BESIDE, with its messages, the commonest first."""
    by_state: dict[str, list[Trial]] = {state: [] for state in (*COUNTED, *BESIDE)}
    for trial in trials:
        by_state.setdefault(trial.state, []).append(trial)
    return tuple(Fate(state, len(group), _causes(group)) for state, group in by_state.items() if group)


def _causes(trials: list[Trial]) -> tuple[Cause, ...]:
    numbers: dict[str, list[int]] = {}
    for trial in trials:
        if trial.reason:
            numbers.setdefault(trial.reason, []).append(trial.number)
    causes = [Cause(message, tuple(found)) for message, found in numbers.items()]
    return tuple(sorted(causes, key=lambda cause: (-len(cause.numbers), cause.numbers)))


def phases(trials: Iterable[Trial]) -> tuple[tuple[str, float], ...]:
    """Seconds by phase over all trials, in the order in which trials first have them."""
    total: dict[str, float] = {}
    for trial in trials:
        for phase, seconds in trial.seconds.items():
            total[phase] = total.get(phase, 0.0) + seconds
    return tuple(total.items())


class RungRow(NamedTuple):
    """A rung: how many trials reached it and were stopped there, their least loss, and the seconds it took."""

    epochs: float
    reached: int
    stopped: int
    best: float | None
    seconds: float


def rungs(trials: Iterable[Trial]) -> tuple[RungRow, ...]:
    """Every rung that a trial reached, by epochs. A pruned trial was stopped at its last one."""
    climbed = [trial for trial in trials if trial.rungs]
    return tuple(_rung_row(epochs, climbed) for epochs in sorted({r.epochs for t in climbed for r in t.rungs}))


def _rung_row(epochs: float, climbed: list[Trial]) -> RungRow:
    at = [rung for trial in climbed for rung in trial.rungs if rung.epochs == epochs]
    stopped = sum(t.state == "pruned" and t.rungs[-1].epochs == epochs for t in climbed)
    best = min((rung.loss for rung in at if rung.loss is not None), default=None)
    return RungRow(epochs, len(at), stopped, best, sum(rung.seconds or 0.0 for rung in at))


def history(hypervolume: dict[str, Any], trials: Iterable[Trial]) -> History:
    """Hypervolume over time. The baselines' level is known where they finished before every other trial."""
    rows = [tuple(known(cell) for cell in row) for row in hypervolume.get("history") or [] if len(row) == 3]
    points = tuple(sorted((s, int(n), v) for s, n, v in rows if s is not None and n is not None and v is not None))
    baselines = {trial.number for trial in trials if trial.baseline}
    first = 0
    while first < len(points) and points[first][1] in baselines:
        first += 1
    return History(points, points[first - 1][2] if first else None)
