"""A study whose storage is damaged or gone, made again from what else is known of its trials.

The records lie in two places: in the study, and in the run's trials.json, which is written some seconds later. What
can still be read of a damaged study counts first, since trials.json has the latencies of the finalists' protocol.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uniformer_bench.files import read_text
from uniformer_bench.search.run_files import as_searched
from uniformer_bench.search.storage import put_torn_aside, readable_values, sqlite_file
from uniformer_bench.search.study import RECORD, Study
from uniformer_bench.space import Space

Record = dict[str, Any]


def set_aside(url: str) -> Path | None:
    """The new name of an SQLite storage's file where it was damaged."""
    database = sqlite_file(url)
    return put_torn_aside(database) if database else None


def mend(study: Study, space: Space, run: Path, info: Mapping[str, Any], torn: Path | None) -> str | None:
    """Fills a study that is empty and should not be; says in a sentence what came of it, None where all was well."""
    if not study.is_empty:
        return None
    records = _records(run, info, torn)
    study.restore(space, records.values())
    if torn:
        return f"the study was damaged: {len(records)} trials were saved into a new one, the old lies in {torn}"
    return f"the study had gone: {len(records)} trials came back from {run / 'trials.json'}" if records else None


def _records(run: Path, info: Mapping[str, Any], torn: Path | None) -> dict[int, Record]:
    written = json.loads(read_text(run / "trials.json")) if (run / "trials.json").exists() else []
    found = {record["number"]: record for record in as_searched(written, info.get("finalists", []))}
    for value in readable_values(torn, run.name, RECORD) if torn else ():
        record = json.loads(json.loads(value))
        found[record["number"]] = record
    return found
