"""The page: one HTML file that needs no network, the same bytes for the same run.

A Content-Security-Policy allows the page's own two scripts by their hashes and no network at all. The plotting
library and the data for the scripts are compressed blocks, the library allowed by the hash of what it unpacks to;
whatever a person could have named is escaped on its way in.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uniformer_bench.files import write_whole
from uniformer_bench.metrics import METRICS
from uniformer_bench.report import architectures, elsewhere, evidence, matters, sections, trust
from uniformer_bench.report.answer import Choice
from uniformer_bench.report.comparison_page import comparison_page, page_data
from uniformer_bench.report.contents import Contents, contents
from uniformer_bench.report.info import Trial
from uniformer_bench.report.redact import public_name, redacted
from uniformer_bench.report.text import escape
from uniformer_bench.runs import Record, Run, load_records, table, table_columns

ASSETS = Path(__file__).parent / "assets"
STYLES = ("report.css",)
SCRIPTS = ("core.js", "answer.js", "plots.js", "table.js", "parallel.js", "start.js")


def write_report(run_path: str | Path, reports_dir: str | Path, *, redact: bool = False) -> Path:
    """Writes `<reports_dir>/<folder's name>.html` and returns its path. Raises UbenchError where there is no run.

    `redact` leaves out sample clips, paths, host and user names, and marks the file's name.
    """
    run, name = load_records(run_path), Path(run_path).resolve().name
    path = Path(reports_dir) / f"{_file_name([run], [name], redact)}.html"
    write_whole(path, render(redacted(run) if redact else run))
    return path


def write_comparison(run_paths: Sequence[str | Path], reports_dir: str | Path, *, redact: bool = False) -> Path:
    """Writes one page of 2 to 6 runs and returns its path. Raises UbenchError for other numbers."""
    runs = [load_records(path) for path in run_paths]
    names = [Path(path).resolve().name for path in run_paths]
    text = render_comparison([redacted(run) for run in runs] if redact else runs)
    path = Path(reports_dir) / f"{_file_name(runs, names, redact)}.html"
    write_whole(path, text)
    return path


def _file_name(runs: Sequence[Run], names: Sequence[str], redact: bool) -> str:
    told = [public_name(run, name) if redact else name for run, name in zip(runs, names, strict=True)]
    return f"{'_and_'.join(told)}{'-redacted' if redact else ''}"


def render(run: Run) -> str:
    """The page of a run as text."""
    page = contents(run)
    body = "\n".join((sections.header(page), *_sections(page), sections.footer(page)))
    cards = {
        "cards": Choice._fields,
        "choice": page.answer.choice._asdict() if page.answer.choice else None,
        "ladders": {k: [[s.limit, *s.choice] for s in steps] for k, steps in page.answer.ladders.items()},
    }
    return document(
        f"{page.name} – search report",
        body,
        _data(page, sorted(run.trials, key=lambda record: record["number"])) | cards,
    )


def render_comparison(runs: Sequence[Run]) -> str:
    """The page of several runs as text."""
    page, found, body = comparison_page(runs)
    records = [{**record, "run": side.letter} for side, run in zip(found.sides, runs, strict=True)
               for record in sorted(run.trials, key=lambda record: record["number"])]  # fmt: skip
    return document(f"{page.name} – comparison", body, _data(page, records) | page_data(found))


def document(heading: str, body: str, data: dict[str, Any]) -> str:
    """A whole HTML document: style, body, the plotting library, data and the page's script."""
    from plotly.offline import get_plotlyjs  # here, because a profile's page is drawn without it

    library, script = get_plotlyjs(), "\n".join(_asset(name) for name in SCRIPTS)
    style = "\n".join(_asset(name) for name in STYLES)
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy([library, script])}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'{body}\n<script type="application/octet-stream" id="library">{_packed(library)}</script>\n'
        f'<script type="application/octet-stream" id="data">{_packed(text)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _sections(page: Contents) -> tuple[str, ...]:
    return (
        sections.answer(page),
        sections.front(page, trust.finalists(page)),
        elsewhere.other_devices(page),
        architectures.architectures(page),
        matters.what_matters(page),
        evidence.all_trials(page),
        evidence.how_it_went(page, trust.stopped_early(page) + trust.fidelity_card(page)),
        evidence.how_it_was_run(page),
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """No network: scripts by hash, styles inline (plotly writes some), pictures from the page itself."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _packed(text: str) -> str:
    """Gzip (without a time, so that the same text is the same bytes), base64."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _data(page: Contents, records: Sequence[Record]) -> dict[str, Any]:
    """What the page's script needs; `records` in the order of the page's trials."""
    columns = table_columns(records)
    rows = table(records)
    return {
        "name": page.name,
        "axes": page.answer.axes._asdict(),
        "metrics": {key: metric._asdict() for key, metric in METRICS.items()},
        "columns": columns,
        "rows": [[row[column] for column in columns] for row in rows],
        "extra": [_extra(trial) for trial in page.trials],
        "archs": {n: architectures.architecture(page, n) for n in page.views},
        "options": page.options,
        "figures": page.figures | elsewhere.device_figures(page.devices),
        "parallel": [each._asdict() for each in page.parallel],
    }


def _extra(trial: Trial) -> list[Any]:
    return [trial.number, trial.label, trial.pattern, int(trial.front), int(trial.finalist)]
