"""Tells a person on stderr how far decoding is: a bar on a terminal, now and then a line elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from uniformer_bench.printing import printable

LINE_EVERY_S = 15.0


class DecodingBar:
    """A watch of loading (videos.Watch); the bar is there while there is something to decode."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._line_at = time.monotonic()

    def __enter__(self) -> "DecodingBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def say(self, sentence: str) -> None:
        """Prints a sentence."""
        self._console.print(f"data: {escape(printable(sentence))}", highlight=False, soft_wrap=True)

    def decoded(self, done: int, total: int) -> None:
        """Moves the bar, or prints a line when one is due."""
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = self._bar or self._start(total)
            self._bar.update(self._bar.task_ids[0], completed=done)
            if done == total:
                self._stop()
        elif time.monotonic() - self._line_at >= LINE_EVERY_S:
            self._line_at = time.monotonic()
            self.say(f"{done} of {total} videos decoded")

    def _start(self, total: int) -> Progress:
        columns = (TextColumn("decoding videos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=self._console, transient=True)
        bar.add_task("", total=total)
        bar.start()
        return bar

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
