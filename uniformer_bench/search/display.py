"""A search as a person at a terminal sees it; on a pipe, a plain line now and then. Always on stderr."""

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from uniformer_bench.metrics import METRICS, near_miss
from uniformer_bench.printing import printable
from uniformer_bench.search.driver import SEARCHING, Progress
from uniformer_bench.search.run_files import front
from uniformer_bench.search.study import COUNTED

LINE_EVERY_S = 15.0
SHOWN = 6  # members of the front


class Display:
    """Shows progress as a live panel on a terminal, as lines elsewhere."""

    def __init__(self, console: Console, objectives: tuple[str, ...], constraints: Mapping[str, float]) -> None:
        self._console, self._objectives, self._constraints = console, objectives, constraints
        live = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, refresh_per_second=2, transient=True) if live else None
        self._line_at, self._phase = 0.0, SEARCHING

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        if self._live:
            self._live.start()  # only now: before a search, loading may have shown a bar of its own
            self._live.update(panel(progress, self._objectives, self._constraints))
        elif time.monotonic() - self._line_at >= LINE_EVERY_S or progress.phase != self._phase:
            self._line_at, self._phase = time.monotonic(), progress.phase
            self._console.print(line(progress, self._objectives, self._constraints), highlight=False, soft_wrap=True)


def line(progress: Progress, objectives: tuple[str, ...], constraints: Mapping[str, float]) -> str:
    """One line: how many trials, the front, failures by cause, the time."""
    counted, parts = _counts(progress, constraints)
    members = front(progress.records, objectives)
    best = f", best {_value(objectives[0], members[0])}" if members else ""
    return f"{counted}/{progress.trials} trials, front of {len(members)}{best}{parts}, {_times(progress)}"


def panel(progress: Progress, objectives: tuple[str, ...], constraints: Mapping[str, float]) -> Group:
    """The bar, the front's first members, failures by cause, the time."""
    counted, parts = _counts(progress, constraints)
    bar = ProgressBar(total=progress.trials, completed=counted, width=40)
    table = Table("trial", "stages", *(METRICS[key].label for key in objectives), box=None, pad_edge=False)
    members = front(progress.records, objectives)
    for record in members[:SHOWN]:
        name = record["baseline"] or ""
        cells = [_value(key, record) for key in objectives]
        named = Text(printable(f"{record['pattern']} {name}".strip()))  # as text: a name is no markup
        table.add_row(str(record["number"]), named, *cells)
    more = Text(f"... and {len(members) - SHOWN} more on the front" if len(members) > SHOWN else "")
    return Group(bar, Text(f"{counted} of {progress.trials} trials{parts}, {_times(progress)}"), table, more)


def _counts(progress: Progress, constraints: Mapping[str, float]) -> tuple[int, str]:
    states = Counter(record["state"] for record in progress.records)
    others = [f", {n} {state}" for state, n in sorted(states.items()) if state != "complete"]
    others += [f", {progress.paused} paused"] if progress.paused else []
    rows = [(record["number"], record["state"], record["metrics"]) for record in progress.records]
    missed = None if progress.paused else near_miss(rows, constraints)
    others += [f" ({missed})"] if missed else []
    return sum(states[state] for state in COUNTED), "".join(others)


def _value(key: str, record: object) -> str:
    assert isinstance(record, dict), "a record is a mapping"
    row = METRICS[key]
    low, high = record["intervals"].get(key, (None, None))
    spread = f" ±{row.scale * (high - low) / 2:.1g}" if low is not None else ""
    return f"{row.scale * record['metrics'][key]:.3g}{spread} {row.unit}"


def _times(progress: Progress) -> str:
    if progress.phase != SEARCHING:
        return f"{_minutes(progress.elapsed_s)} gone, {progress.phase}"
    left = "" if progress.left_s is None else f", about {_minutes(progress.left_s)} left"
    return f"{_minutes(progress.elapsed_s)} gone{left}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
