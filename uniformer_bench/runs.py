"""A finished or growing run read back from its folder, and its trials as a table.

`trials.json` is the source; `trials.csv` is made of it. Values are in the unit that a column's name says,
accuracy a fraction; what is unknown is an empty cell, never 0.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import read_text
from uniformer_bench.metrics import METRICS
from uniformer_bench.printing import printable
from uniformer_bench.space import Clip

SCHEMA_VERSION = 1
REMEASURED = "remeasured"  # in a run's folder: what other devices measured, a file each
WITH_INTERVAL = ("accuracy", "latency")
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")

Record = dict[str, Any]


class Run(NamedTuple):
    """A run as plain data: what `run.json` and `trials.json` hold, and what other devices `remeasured`."""

    info: dict[str, Any]
    trials: list[Record]
    remeasured: tuple[dict[str, Any], ...] = ()


class RunFrames(NamedTuple):
    """A run as pandas frames: `trials` has the columns of trials.csv, `front` its rows on the front."""

    info: dict[str, Any]
    trials: Any
    front: Any


def load_records(path: str | Path) -> Run:
    """The run in folder `path`. Raises UbenchError where it is none, or of a newer version."""
    folder = Path(path)
    if not (folder / "run.json").is_file() or not (folder / "trials.json").is_file():
        raise UbenchError(f"a run is a folder with run.json and trials.json, got {folder}")
    info, records = _read_json(folder / "run.json"), _read_json(folder / "trials.json")
    if not isinstance(info, dict) or not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise UbenchError(f"run.json must hold a mapping and trials.json a list of mappings, got others in {folder}")
    _check_version(info, folder)
    return Run(info, records, tuple(_device(path) for path in sorted((folder / REMEASURED).glob("*.json"))))


def clip_of(info: Mapping[str, Any], record: Mapping[str, Any]) -> Clip:
    """What a trial's architecture is measured on: its own clip, where clips vary in the space, or the run's."""
    given = record.get("clip") or info["input"]
    height, width = given["size"]
    return Clip(given["frames"], (height, width))


def _check_version(document: dict[str, Any], path: Path) -> None:
    if document.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise UbenchError(f"schema_version must be {SCHEMA_VERSION}, got {document['schema_version']!r} in {path}")


def _device(path: Path) -> dict[str, Any]:
    """What a device measured; raises UbenchError where the file is something else."""
    document = _read_json(path)
    rows = document.get("rows") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UbenchError(f"a device's file must hold a mapping with a list of rows, got others in {path}")
    _check_version(document, path)
    return dict(document)


def load_run(path: str | Path) -> RunFrames:
    """The run in folder `path` as pandas frames. Raises UbenchError where it is none."""
    import pandas as pd  # here, because a report needs no pandas

    run = load_records(path)
    trials = pd.DataFrame(table(run.trials), columns=table_columns(run.trials))
    on_front = [bool(record.get("front")) for record in run.trials]
    return RunFrames(run.info, trials, trials[on_front].reset_index(drop=True))


def table_columns(records: Iterable[Record]) -> list[str]:
    """The columns of trials.csv: parameters and phases in the order in which trials first have them.

    `run` comes first where records of several runs stand together.
    """
    records = list(records)
    params: dict[str, None] = {}
    phases: dict[str, None] = {}
    for record in records:
        params.update(dict.fromkeys(f"param_{name}" for name in record.get("params") or {}))
        phases.update(dict.fromkeys(f"seconds_{name}" for name in record.get("seconds") or {}))
    bounds = [f"{METRICS[key].column}_ci_{end}" for key in WITH_INTERVAL for end in ("low", "high")]
    metrics = [metric.column for metric in METRICS.values()]
    several = ["run"] if any("run" in record for record in records) else []
    return [*several, "number", "state", "reason", "spec_id", "baseline", *params, *metrics, *bounds, *phases]


def table(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row a trial with every column, None where it has no value. Text is as it was given."""
    records = list(records)
    empty = dict.fromkeys(table_columns(records))
    return [empty | _row(record) for record in records]


def csv_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The rows of trials.csv: those of `table`, with text that a spreadsheet would run as a formula quoted by '."""
    return [{_defused(key): _defused(value) for key, value in row.items()} for row in table(records)]


def write_csv(records: Iterable[Record]) -> str:
    """trials.csv as text."""
    records = list(records)
    out = io.StringIO()
    writer = csv.DictWriter(out, [_defused(column) for column in table_columns(records)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(records))
    return out.getvalue()


def choice_text(value: object) -> str | float | int | None:
    """A parameter's value as one cell: a number stays one, a tube is 3x5x5, None (a choice too) is none."""
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return known(value)
    return "x".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


def known(value: object) -> float | int | None:
    """`value` where it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None  # type: ignore[arg-type, return-value]


def _row(record: Record) -> dict[str, Any]:
    plain = ("number", "state", "reason", "spec_id", "baseline", *(["run"] if "run" in record else []))
    row = {key: record.get(key) for key in plain}
    row |= {f"param_{name}": choice_text(value) for name, value in (record.get("params") or {}).items()}
    metrics, intervals = record.get("metrics") or {}, record.get("intervals") or {}
    row |= {metric.column: known(metrics.get(key)) for key, metric in METRICS.items()}
    for key in WITH_INTERVAL:
        low, high = intervals.get(key) or (None, None)
        row |= {f"{METRICS[key].column}_ci_low": known(low), f"{METRICS[key].column}_ci_high": known(high)}
    return row | {f"seconds_{name}": known(value) for name, value in (record.get("seconds") or {}).items()}


def _defused(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return printable(f"'{value}" if value.startswith(FORMULA_STARTS) else value)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path), parse_constant=lambda name: None)
    except ValueError as error:
        if isinstance(error, UbenchError):
            raise
        raise UbenchError(f"{path} must be JSON: {error}") from None
