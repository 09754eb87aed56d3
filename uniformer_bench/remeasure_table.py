"""What `ubench remeasure` prints for a person: a row a trial, its latency in the run and here."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from uniformer_bench.printing import printable

COLUMNS = ("trial", "pattern", "ms in the run", "ms here", "95 % interval", "ratio", "MB")


def remeasured_table(document: Mapping[str, Any]) -> Table:
    """The table, with where the device's file and the page are below it. The ratio is of the batches' times."""
    title, caption = _text(document["label"]), _text(f"{document['file']}\n{document['report']}")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, caption=caption)
    table.title_justify = table.caption_justify = "left"
    table.title_style, table.caption_style = "bold", ""
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in COLUMNS[:2] else "right", no_wrap=True)
    for row in document["rows"]:
        table.add_row(*map(_text, _cells(row)))
    return table


def _text(words: str) -> Text:
    return Text(printable(words))  # a name is no markup


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    latency, before = row["latency_ms"], row["latency_ms_in_run"]
    name = f"{row['trial']} {row['baseline'] or ''}".strip()
    memory = f"{row['memory_bytes'] / 1e6:.3g}" if row["memory_bytes"] else ""
    was = f"{before:.3g}" if before else ""
    if not latency:
        return name, row["pattern"], was, row["reason"] or "", "", "", memory
    low, high = latency["ci95"] or (None, None)
    span = f"{low:.3g} to {high:.3g}" if low and high else ""
    ratio = f"{latency['median'] / before:.2f}" if before else ""
    return name, row["pattern"], was, f"{latency['median']:.3g}", span, ratio, memory
