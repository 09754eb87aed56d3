"""The page: one HTML file that needs no network, the same bytes for the same run.

A Content-Security-Policy allows the page's own two scripts by their hashes and no network at all. Data for
the scripts are one block of compressed JSON; whatever a person could have named is escaped on its way in.
"""

import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from uniformer_bench.files import write_whole
from uniformer_bench.metrics import METRICS
from uniformer_bench.report import architectures, evidence, sections
from uniformer_bench.report.contents import Contents, contents
from uniformer_bench.report.figures import ROLES
from uniformer_bench.report.info import Trial
from uniformer_bench.report.text import escape
from uniformer_bench.runs import Run, load_records, table, table_columns

ASSETS = Path(__file__).parent / "assets"
STYLES = ("report.css",)
SCRIPTS = ("core.js", "answer.js", "plots.js", "table.js", "start.js")


def write_report(run_path: str | Path, reports_dir: str | Path) -> Path:
    """Writes `<reports_dir>/<folder's name>.html` and returns its path. Raises UbenchError where there is no run."""
    run = load_records(run_path)
    path = Path(reports_dir) / f"{Path(run_path).resolve().name}.html"
    write_whole(path, render(run))
    return path


def render(run: Run) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs  # here, because a profile's page is drawn without it

    page = contents(run)
    scripts = [get_plotlyjs(), "\n".join(_asset(name) for name in SCRIPTS)]
    style = "\n".join(_asset(name) for name in STYLES)
    body = "\n".join((sections.header(page), *_sections(page), sections.footer(page)))
    inline = "".join(f"<script>{script}</script>\n" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(page.name)} – search report</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'{body}\n<script type="application/octet-stream" id="data">{_packed(_data(page, run))}</script>\n'
        f"{inline}</body>\n</html>\n"
    )


def _sections(page: Contents) -> tuple[str, ...]:
    return (
        sections.answer(page),
        sections.front(page),
        architectures.architectures(page),
        evidence.what_matters(page),
        evidence.all_trials(page),
        evidence.how_it_went(page),
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


def _packed(data: dict[str, Any]) -> str:
    """Strict JSON, gzip (without a time, so that the same data are the same bytes), base64."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _data(page: Contents, run: Run) -> dict[str, Any]:
    columns = table_columns(run.trials)
    rows = sorted(table(run.trials), key=lambda row: row["number"])
    return {
        "name": page.name,
        "axes": page.answer.axes._asdict(),
        "metrics": {key: metric._asdict() for key, metric in METRICS.items()},
        "roles": {name: label for name, (label, *_) in ROLES.items()},
        "columns": columns,
        "rows": [[row[column] for column in columns] for row in rows],
        "extra": [_extra(trial) for trial in page.trials],
        "archs": {n: architectures.architecture(page, n) for n in page.views},
        "options": page.options,
        "choice": page.answer.choice._asdict() if page.answer.choice else None,
        "ladders": {k: [[s.limit, *s.choice] for s in steps] for k, steps in page.answer.ladders.items()},
        "figures": page.figures,
    }


def _extra(trial: Trial) -> list[Any]:
    return [trial.pattern, int(trial.front), trial.finished_s]
