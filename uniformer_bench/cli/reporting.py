"""The verbs that read a run and write what people look at."""

from pathlib import Path

import click

from uniformer_bench.cli.options import common
from uniformer_bench.cli.output import print_document


@click.command()
@common
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports"), show_default=True, help="Pages.")
@click.option("--redact", is_flag=True, help="Leave out sample clips, paths, host and user names.")
def report(as_json: bool, debug: bool, seed: int, runs: tuple[Path, ...], reports: Path, redact: bool) -> None:
    """(Re)build the page of RUN, a folder of results; of several, one page that compares them."""
    from uniformer_bench.report import write_comparison, write_report

    one = len(runs) == 1
    page = write_report(runs[0], reports, redact=redact) if one else write_comparison(runs, reports, redact=redact)
    document = {"schema_version": 1, "run": str(runs[0]), "runs": [str(run) for run in runs], "report": str(page)}
    print_document(document, as_json, str(page))
